"""A host of the agent, from PROTOCOL.md alone: blocking, small, able to say what is wrong, too."""

import array
import contextlib
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HEADER = struct.Struct("<IBBHI")
WAIT_SECONDS = 20.0

HELLO, EXEC, STDIN, SIGNAL, RESIZE, ATTACH, LIST, RELEASE = range(1, 9)
STAT, LIST_DIR, READ, WRITE, REMOVE, MKDIR, RENAME, TAR_IN, TAR_OUT, CONNECT = range(16, 26)
HELLO_OK, STARTED, OUTPUT, EXIT, STDIN_OK, OK, ERROR, LIST_OK, STAT_OK, DIR_OK, DATA = range(65, 76)
CONNECTED = 76
EXCLUSIVE, TTY, STDIN_OPEN, STDIN_FD = 1, 2, 4, 8
EXITED, SIGNALLED, TIMED_OUT, CANCELLED = range(4)


class ConnectionEndedError(Exception):
    """The agent closed the connection."""


@dataclass(frozen=True)
class Frame:
    type: int
    id: int
    payload: bytes


@dataclass(frozen=True)
class Exit:
    reason: int
    signal: int
    code: int
    stdout_kept: int
    stdout_total: int
    stderr_kept: int
    stderr_total: int
    wall_us: int
    user_us: int
    system_us: int
    max_rss_kb: int

    @classmethod
    def parse(cls, payload: bytes) -> "Exit":
        reason, signal, zero, code, *rest = struct.unpack("<BBHI8Q", payload)
        assert zero == 0
        return cls(reason, signal, code, *rest)


@dataclass(frozen=True)
class Entry:
    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes


def blob(data: bytes | str) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return struct.pack("<I", len(raw)) + raw


def strings(items: Sequence[str | bytes]) -> bytes:
    return struct.pack("<I", len(items)) + b"".join(blob(item) for item in items)


def frame(kind: int, id_: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return HEADER.pack(len(payload), kind, flags, 0, id_) + payload


def exec_payload(
    argv: Sequence[str | bytes],
    *,
    name: str = "main",
    cwd: str = "/",
    env: Sequence[str] = (),
    deadline_ms: int = 0,
    grace_ms: int = 0,
    output_bytes_max: int = 1 << 20,
    uid: int | None = None,
    gid: int | None = None,
    rows: int = 24,
    columns: int = 80,
) -> bytes:
    ids = (os.getuid() if uid is None else uid, os.getgid() if gid is None else gid)
    head = struct.pack("<QQQIIHH", deadline_ms, grace_ms, output_bytes_max, *ids, rows, columns)
    return head + blob(name) + blob(cwd) + strings(argv) + strings(env)


def read_entry(data: bytes, at: int) -> tuple[Entry, int]:
    name, at = read_blob(data, at)
    fields = struct.unpack_from("<BIIIQQ", data, at)
    target, at = read_blob(data, at + 29)
    return Entry(name, *fields, target), at


def read_blob(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + length], at + 4 + length


class Host:
    """One connection to an agent."""

    def __init__(self, path: str | Path, *, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(WAIT_SECONDS)
        self.descriptors: list[int] = []
        directory = os.open(Path(path).parent, os.O_PATH)
        try:
            while True:  # a full backlog empties as soon as the agent has a turn
                try:
                    self.socket.connect(f"/proc/self/fd/{directory}/{Path(path).name}")
                    break
                except BlockingIOError:
                    time.sleep(0.001)
        except OSError:
            self.close()
            raise
        finally:
            os.close(directory)
        self._buffer = b""
        self._next_id = 0
        self.pending: list[Frame] = []
        if greet:
            try:
                self.hello = self.call(HELLO, struct.pack("<I", 1))
            except ConnectionEndedError:
                self.close()
                raise

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    def new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send; when the agent has hung up already, reading will tell."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if fds:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
                sent = self.socket.sendmsg([data], [rights])
                data = data[sent:]
            self.socket.sendall(data)

    def receive(self) -> Frame:
        """The next frame, in the order they came."""
        return self.pending.pop(0) if self.pending else self._receive()

    def _receive(self) -> Frame:
        while True:
            if len(self._buffer) >= HEADER.size:
                length, kind, flags, zero, id_ = HEADER.unpack_from(self._buffer)
                assert flags == 0
                assert zero == 0
                assert length <= 1 << 20
                if len(self._buffer) >= HEADER.size + length:
                    payload = self._buffer[HEADER.size : HEADER.size + length]
                    self._buffer = self._buffer[HEADER.size + length :]
                    return Frame(kind, id_, payload)
            try:
                got, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 20, 16)
            except ConnectionResetError as reset:
                raise ConnectionEndedError from reset
            self.descriptors += descriptors
            if not got:
                raise ConnectionEndedError
            self._buffer += got

    def expect(self, id_: int, *kinds: int) -> Frame:
        """The next frame for that id of one of those types; others wait in `pending`."""
        for index, waiting in enumerate(self.pending):
            if waiting.id == id_ and waiting.type in kinds:
                return self.pending.pop(index)
        while True:
            got = self._receive()
            if got.id == id_ and got.type in kinds:
                return got
            self.pending.append(got)

    def call(
        self,
        kind: int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        id_: int | None = None,
        fds: Sequence[int] = (),
    ) -> Frame:
        """Send a request and return its one answer."""
        number = self.new_id() if id_ is None else id_
        self.send(frame(kind, number, payload, flags), fds)
        kinds = (HELLO_OK, OK, ERROR, STDIN_OK, LIST_OK, STAT_OK, DIR_OK, DATA, CONNECTED)
        return self.expect(number, *kinds)

    def until_ended(self) -> None:
        """Read until the agent hangs up; a TimeoutError when it does not."""
        with contextlib.suppress(ConnectionEndedError):
            while True:
                self.receive()

    def is_ended(self) -> bool:
        """Whether the agent closes the connection without another answer."""
        try:
            self._receive()
        except ConnectionEndedError:
            return True
        return False


def error_of(answer: Frame) -> tuple[int, str]:
    assert answer.type == ERROR, answer
    number, length = struct.unpack_from("<II", answer.payload)
    text = answer.payload[8:]
    assert len(text) == length
    return number, text.decode(errors="replace")


def count_of(answer: Frame) -> int:
    assert answer.type == OK, error_of(answer)
    (count,) = struct.unpack("<Q", answer.payload)
    return count


class Run:
    """One command started on a host, with its two spools in `directory`."""

    def __init__(
        self,
        host: Host,
        directory: Path,
        argv: Sequence[str | bytes],
        *,
        flags: int = EXCLUSIVE,
        stdin_fd: int | None = None,
        name: str | None = None,
        **options: object,
    ) -> None:
        self.host = host
        self.id = host.new_id()
        self.name = name or f"c{self.id}-{time.monotonic_ns()}"
        self.out = directory / f"{self.name}.out"
        self.err = directory / f"{self.name}.err"
        fds = [
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for path in (self.out, self.err)
        ]
        passed = fds if stdin_fd is None else [*fds, stdin_fd]
        payload = exec_payload(argv, name=self.name, **options)  # type: ignore[arg-type]
        try:
            host.send(
                frame(EXEC, self.id, payload, flags | (STDIN_FD if stdin_fd is not None else 0)),
                passed,
            )
        finally:
            for fd in fds:
                os.close(fd)

    def started(self) -> tuple[int, int, int]:
        answer = self.host.expect(self.id, STARTED, ERROR)
        assert answer.type == STARTED, error_of(answer)
        return struct.unpack("<IBQ", answer.payload)

    def refused(self) -> int:
        return error_of(self.host.expect(self.id, STARTED, ERROR))[0]

    def wait(self) -> Exit:
        return Exit.parse(self.host.expect(self.id, EXIT).payload)

    def signal(self, number: int, *, tree: bool = False) -> Frame:
        return self.host.call(SIGNAL, struct.pack("<I", number), flags=int(tree), id_=self.id)

    def stdin(self, offset: int, data: bytes, *, last: bool = False) -> Frame:
        return self.host.call(
            STDIN, struct.pack("<Q", offset) + blob(data), flags=int(last), id_=self.id
        )

    def release(self) -> Frame:
        return self.host.call(RELEASE, id_=self.id)

    @property
    def output(self) -> bytes:
        return self.out.read_bytes()

    @property
    def errors(self) -> bytes:
        return self.err.read_bytes()

    def wait_for_output(self, wanted: bytes) -> None:
        """Follow OUTPUT frames until stdout holds `wanted`."""
        while wanted not in self.output:
            self.host.expect(self.id, OUTPUT)
