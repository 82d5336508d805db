"""Launch packets, and a launcher to send them to. Written from PROTOCOL.md alone."""

import array
import os
import socket
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.native.wire import WAIT_SECONDS, blob

HOSTNAME, USERNS, CGROUP, NETNS, PIDFILE, RLIMIT, SECCOMP, ROOT_TMPFS, ROOT_OVERLAY = range(1, 10)
DIR, SYMLINK, FILE, BIND, TMPFS, PROC, DEV, REMOUNT_RO, MASK = range(10, 19)
NONE, RANGE, SINGLE = range(3)
NEW_NET, HOST_NET, POOLED_NET = range(3)
READ_ONLY, RECURSIVE, OPTIONAL, NO_DEV, NO_EXEC = 1, 2, 4, 8, 16
FIRST_ID = 0x7100_0000
LAUNCHED, FAILED, EXITED, PONG = range(1, 5)


def op(code: int, *parts: bytes) -> bytes:
    fields = b"".join(parts)
    return struct.pack("<BI", code, len(fields)) + fields


def u8(value: int) -> bytes:
    return struct.pack("<B", value)


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def u64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def users(kind: int | None = None) -> bytes:
    kind = (RANGE if os.geteuid() == 0 else SINGLE) if kind is None else kind
    if kind == RANGE:
        return op(USERNS, u8(RANGE), u32(FIRST_ID, FIRST_ID, 65536))
    return op(USERNS, u8(kind), u32(os.geteuid(), os.getegid(), 1))


def tmpfs_root(size: int = 16 << 20) -> bytes:
    return op(ROOT_TMPFS, u64(size, 4096))


def directory(path: str, mode: int = 0o755) -> bytes:
    return op(DIR, blob(path), u32(mode))


def bind(source: str, path: str, flags: int = READ_ONLY) -> bytes:
    return op(BIND, blob(source), blob(path), u8(flags))


def host_usr() -> bytes:
    """The programs of this machine, as its own root shows them."""
    steps = bind("/usr", "/usr", READ_ONLY | RECURSIVE | NO_DEV)
    for name in ("bin", "sbin", "lib", "lib64"):
        at = Path("/", name)
        if at.is_symlink():
            steps += op(SYMLINK, blob(os.fspath(at.readlink())), blob(f"/{name}"))
        elif at.is_dir():
            steps += bind(f"/{name}", f"/{name}", READ_ONLY | RECURSIVE | OPTIONAL)
    return steps


def usual(*more: bytes, userns: bytes | None = None, net: int = NEW_NET) -> bytes:
    """A sandbox with the machine's programs, /proc, /dev and /tmp; `more` goes last."""
    head = (
        op(HOSTNAME, blob("sandbox")) + (users() if userns is None else userns) + op(NETNS, u8(net))
    )
    rest = tmpfs_root() + host_usr() + op(PROC, blob("/proc")) + op(DEV, blob("/dev"))
    return head + rest + directory("/tmp", 0o1777) + directory("/area") + b"".join(more)


@dataclass(frozen=True)
class Answer:
    kind: int
    id: int
    body: bytes
    fds: tuple[int, ...]


@dataclass(frozen=True)
class Failure:
    errno: int
    step: str


@dataclass
class Sandbox:
    pid: int
    started: int
    label: str
    pidfd: int
    path: Path


class Launcher:
    """A running `faas-native launch`."""

    def __init__(self, binary: Path, directory: Path, **options: object) -> None:
        self.directory = directory
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(WAIT_SECONDS)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.socket = ours
        argv = [binary, "launch", "--control", str(theirs.fileno())]
        self.process = subprocess.Popen(
            argv, pass_fds=[theirs.fileno()], start_new_session=True, **options
        )  # type: ignore[call-overload]
        theirs.close()
        self._next_id = 0
        self.pending: list[Answer] = []
        self.launched: list[int] = []
        """Host pids of the sandboxes made, for whoever cleans up."""
        self.closing: list[Callable[[], object]] = []
        """Connections and descriptors to close with the launcher."""

    def close(self) -> None:
        for close in self.closing:
            close()
        self.closing.clear()
        self.socket.close()
        self.process.wait(WAIT_SECONDS)

    def send(self, packet: bytes, fds: tuple[int, ...] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([packet], rights)

    def receive(self) -> Answer:
        data, fds, _, _ = socket.recv_fds(self.socket, 1 << 17, 8)
        kind, zero, zeroes, id_ = struct.unpack_from("<BBHI", data)
        assert zero == zeroes == 0
        return Answer(kind, id_, data[8:], tuple(fds))

    def expect(self, id_: int) -> Answer:
        for index, waiting in enumerate(self.pending):
            if waiting.id == id_:
                return self.pending.pop(index)
        while (got := self.receive()).id != id_:
            self.pending.append(got)
        return got

    def request(self, plan: bytes, path: Path) -> int:
        """Ask for a sandbox whose agent listens at `path`."""
        self._next_id += 1
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(path.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
        listener.listen(8)
        self.send(struct.pack("<BBHI", 1, 0, 0, self._next_id) + plan, (listener.fileno(),))
        listener.close()
        return self._next_id

    def result(self, id_: int, path: Path) -> Sandbox | Failure:
        answer = self.expect(id_)
        if answer.kind == FAILED:
            number, length = struct.unpack_from("<II", answer.body)
            assert len(answer.body) == 8 + length
            return Failure(number, answer.body[8:].decode())
        assert answer.kind == LAUNCHED
        pid, started, length = struct.unpack_from("<IQI", answer.body)
        self.launched.append(pid)
        self.closing.append(partial(os.close, answer.fds[0]))
        return Sandbox(pid, started, answer.body[16 : 16 + length].decode(), answer.fds[0], path)

    def try_launch(self, plan: bytes, name: str = "agent.sock") -> Sandbox | Failure:
        path = self.directory / name
        return self.result(self.request(plan, path), path)

    def launch(self, plan: bytes, name: str = "agent.sock") -> Sandbox:
        made = self.try_launch(plan, name)
        assert isinstance(made, Sandbox), made
        return made
