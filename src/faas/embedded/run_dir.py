"""The directory of one live sandbox: what it was made of, its pid, its socket.

It is written before the sandbox is launched and removed after everything else is gone, so whoever
starts next knows from it what there may be to take back or away.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from faas import launcher
from faas.criu.site import FirstProcess, Site
from faas.embedded.cgroups import Leaf
from faas.embedded.user_slots import first_uid
from faas.ids import SandboxId

_META_VERSION = 1
_SOCKET_NAME_MAX = 100
_BACKLOG = 8
"""As many hosts as the agent serves at once."""
_FILES = ("agent.sock", "pid", "pid.tmp", "checkpoint.lock", "stopped", "refilling", "meta.json")
"""The intent last: a crash in between must leave what tells of the rest."""
_KILL_SECONDS = 10.0
"""A kernel tearing down hundreds of processes under load; past it something is wrong."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What a later gateway must know to take a sandbox back."""

    image_digest: str
    isolation: str
    slot: int | None
    cgroups: dict[str, str]
    env: list[tuple[str, str]]
    working_dir: str
    keeps_memory: bool = False
    """Made without a user namespace, so that CRIU can take and restore its processes."""
    base: str | None = None
    """The snapshot whose layers it stands on."""
    version: int = _META_VERSION

    @property
    def leaf(self) -> Leaf:
        """Its control groups."""
        return Leaf(self.cgroups)


@dataclass(frozen=True, slots=True)
class RunDir:
    """One sandbox's directory."""

    path: Path

    @property
    def sandbox_id(self) -> SandboxId:
        """Whose it is."""
        return SandboxId(self.path.name)

    @property
    def pid_file(self) -> str:
        """Where the launcher writes the pid."""
        return f"{self.path}/pid"

    def create(self, meta: Meta) -> None:
        """Make it and write the intent."""
        self.path.mkdir(mode=0o700)
        with open(f"{self.path}/meta.json", "wb", 0) as file:  # noqa: PTH123  on the hot path
            file.write(msgspec.json.encode(meta))

    def meta(self) -> Meta | None:
        """Read what was written; None when it was never whole."""
        try:
            meta = msgspec.json.decode((self.path / "meta.json").read_bytes(), type=Meta)
        except (OSError, msgspec.MsgspecError):
            return None
        return meta if meta.version == _META_VERSION else None

    def listen(self) -> socket.socket:
        """Make the socket on which the agent will listen."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self._short_path("agent.sock") as path:
                listener.bind(path)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def connect(self) -> socket.socket:
        """Connect to the agent; works as soon as somebody listens, before it accepts.

        Raises:
            OSError: nobody listens.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(1.0)
            with self._short_path("agent.sock") as path:
                connection.connect(path)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _short_path(self, name: str) -> Generator[str]:
        """Socket names end at 107 bytes; through a descriptor any directory is short."""
        plain = f"{self.path}/{name}"
        if len(plain) < _SOCKET_NAME_MAX:
            yield plain
            return
        directory = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{directory}/{name}"
        finally:
            os.close(directory)

    def open_network(self) -> int:
        """Return a descriptor of the sandbox's network namespace.

        Raises:
            OSError: the sandbox is gone.
        """
        pid = Path(self.pid_file).read_text().split()[0]
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def first_process(self) -> FirstProcess | None:
        """Return what the pid file names, be it alive or not; None before it is written."""
        try:
            return FirstProcess(*map(int, Path(self.pid_file).read_text().split()))
        except (OSError, ValueError, TypeError):
            return None

    def open_process(self) -> int | None:
        """Return a pidfd of the sandbox's first process; None when it is gone."""
        first = self.first_process()
        return None if first is None else first.open()

    def kill(self) -> bool:
        """Kill what the pid file names and wait until it is gone; False when nothing lived."""
        pidfd = self.open_process()
        if pidfd is None:
            return False
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait_gone(pidfd)
        finally:
            os.close(pidfd)
        return True

    def site(self, meta: Meta) -> Site:
        """Where it is, for whoever takes or restores its processes."""
        assert meta.slot is not None  # noqa: S101  only those with a slot keep memory
        return Site(
            sandbox_id=self.sandbox_id,
            directory=self.path,
            first=self.first_process(),
            user=first_uid(meta.slot),
            groups=tuple(meta.leaf.procs_files),
        )

    def removal(self) -> list[bytes]:
        """Return the chores that remove it."""
        files = [launcher.unlink(f"{self.path}/{name}") for name in _FILES]
        return [*files, launcher.rmdir(str(self.path))]

    def remove(self) -> int:
        """Remove it; return how many files it held. Harmless when it is gone."""
        count = 0
        for name in _FILES:
            with contextlib.suppress(OSError):
                os.unlink(f"{self.path}/{name}")  # noqa: PTH108  a tenth of the time of a Path's
                count += 1
        try:
            self.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
        return count


def run_dirs(parent: Path) -> list[RunDir]:
    """List the sandboxes there are or were."""
    if not parent.is_dir():
        return []
    return [RunDir(path) for path in sorted(parent.iterdir()) if path.name.startswith("sbx-")]


def wait_gone(pidfd: int) -> bool:
    """Block until the process is gone, within bounds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(_KILL_SECONDS * 1000))
