"""A runtime in memory, for tests of everything above a runtime, and one that does nothing at all.

`FakeHost` is the machine: what lives there outlives any number of `FakeRuntime`s, as real sandboxes
outlive a gateway. It understands a few words of shell (`faas.sandbox.fake_shell`), keeps files in a
dictionary, runs on any clock, and breaks on order (`FakeHost.fail_next_creates`, `break_sandbox`).

`NoopRuntime` exits 0 at once and touches nothing: what is left is the platform's own cost.
"""

import asyncio
import io
import posixpath
import socket
import tarfile
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from faas.clock import Clock, SystemClock
from faas.errors import (
    InvalidArgumentError,
    NotFoundError,
    PortClosedError,
    RuntimeUnavailableError,
    SandboxBrokenError,
    UnsupportedError,
    WrongStateError,
)
from faas.ids import SandboxId
from faas.model import ExitReason, FileInput, Limits
from faas.sandbox.capabilities import Capability
from faas.sandbox.fake_shell import Step, Wait, Write, interpret
from faas.sandbox.isolation import reaches
from faas.sandbox.protocols import (
    Command,
    Exit,
    FileKind,
    FileStat,
    OutputFiles,
    ProbeReport,
    Process,
    Progress,
    ReclaimReport,
    Sandbox,
    SandboxSpec,
)

Script = Callable[[Command], list[Step]]


class FakeProcess:
    """A started command on a `FakeHost`."""

    def __init__(self, name: str, command: Command, output: OutputFiles, clock: Clock) -> None:
        self.name = name
        self.command = command
        self._output = output
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self._kept = [0, 0]
        self._total = [0, 0]
        self._exit: Exit | None = None
        self._broken: SandboxBrokenError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._watchers: list[asyncio.Future[None]] = []
        self._stdin = bytearray(command.stdin or b"")
        self._stdin_taken = 0
        self._stdin_ended = not command.stdin_open

    def run(self, steps: list[Step]) -> None:
        """Do the steps that take no time now, and the rest in the background."""
        for index, step in enumerate(steps):
            if isinstance(step, Wait):
                loop = asyncio.get_running_loop()
                self._tasks.append(loop.create_task(self._run(steps[index:])))
                if self.command.timeout_ms:
                    self._tasks.append(loop.create_task(self._time_out()))
                return
            if self._step(step):
                return

    def _step(self, step: Step) -> bool:
        if isinstance(step, Write):
            self._write(step.stream, step.data)
            return False
        if not isinstance(step, Wait):
            code = 128 + step.signal if step.signal else step.code
            reason = ExitReason.SIGNALLED if step.signal else ExitReason.EXITED
            self._finish(code, reason, step.signal)
            return True
        return False

    async def _run(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, Wait):
                if step.for_stdin:
                    await self._echo_stdin()
                else:
                    await self._clock.sleep(step.seconds)
            elif self._step(step):
                return

    async def _echo_stdin(self) -> None:
        while True:
            data, self._stdin = bytes(self._stdin), bytearray()
            self._write(1, data)
            if self._stdin_ended:
                return
            await self._watch()

    async def _time_out(self) -> None:
        await self._clock.sleep(self.command.timeout_ms / 1000)
        self._finish(124, ExitReason.TIMED_OUT, 9)

    def _write(self, stream: int, data: bytes) -> None:
        index = stream - 1
        self._total[index] += len(data)
        kept = data[: self.command.output_bytes_max - self._kept[index]]
        if kept:
            path = (self._output.stdout, self._output.stderr)[index]
            with path.open("ab") as file:
                file.write(kept)
            self._kept[index] += len(kept)
            self._wake()

    def _finish(self, code: int, reason: ExitReason, signal: int | None) -> None:
        if self._exit is not None or self._broken is not None:
            return
        self._exit = Exit(
            code=code,
            signal=signal,
            reason=reason,
            stdout_kept_bytes=self._kept[0],
            stdout_total_bytes=self._total[0],
            stderr_kept_bytes=self._kept[1],
            stderr_total_bytes=self._total[1],
            wall_us=(self._clock.monotonic_ns() - self._started_ns) // 1000,
            cpu_us=0,
        )
        self._stop()

    def break_now(self) -> None:
        """The sandbox died under it."""
        if self._exit is None and self._broken is None:
            self._broken = SandboxBrokenError("the sandbox died")
            self._stop()

    def _stop(self) -> None:
        self._wake()
        for task in self._tasks:
            if not task.done() and task is not _current_task():
                task.cancel()

    def _wake(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    async def _watch(self) -> None:
        watcher = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        await watcher

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self._exit is not None or self._broken is not None

    async def wait(self) -> Exit:
        while True:
            if self._exit is not None:
                return self._exit
            if self._broken is not None:
                raise SandboxBrokenError(self._broken.message)
            await self._watch()

    def progress(self) -> Progress:
        return Progress(self._kept[0], self._kept[1], is_ended=self.has_ended)

    async def changed(self, seen: Progress) -> Progress:
        while (now := self.progress()) == seen:
            await self._watch()
        return now

    async def write_stdin(self, data: bytes, *, offset: int, is_last: bool = False) -> int:
        if self.has_ended or self._stdin_ended:
            raise WrongStateError("stdin is closed")
        if offset > self._stdin_taken:
            raise InvalidArgumentError(f"a gap before offset {offset}")
        self._stdin += data[self._stdin_taken - offset :]
        self._stdin_taken = max(self._stdin_taken, offset + len(data))
        self._stdin_ended = is_last
        self._wake()
        return self._stdin_taken

    async def resize(self, *, rows: int, columns: int) -> None:
        if not self.command.tty:
            raise WrongStateError(f"no terminal to make {rows}x{columns}")

    async def signal(self, number: int) -> None:
        self._finish(128 + number, ExitReason.SIGNALLED, number)

    async def kill(self) -> None:
        self._finish(137, ExitReason.CANCELLED, 9)


def _current_task() -> asyncio.Task[object] | None:
    return asyncio.current_task()


@dataclass(slots=True, eq=False)
class _Box:
    """What the host knows of one sandbox."""

    spec: SandboxSpec
    limits: Limits
    isolation: str = "none"
    is_alive: bool = True
    is_paused: bool = False
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    modes: dict[str, int] = field(default_factory=dict[str, int])
    ports: dict[int, int] = field(default_factory=dict[int, int])
    """Of its own, and the port of this machine where a test serves it."""
    cpu_us: int = 0
    memory_bytes: int = 0
    dirs: set[str] = field(default_factory=lambda: {"/", "/tmp", "/workspace", "/root"})  # noqa: S108  names inside the fake
    processes: dict[str, FakeProcess] = field(default_factory=dict[str, FakeProcess])


class FakeHost:
    """The machine that fake sandboxes live on; it outlives the runtimes that use it."""

    def __init__(self, clock: Clock | None = None, script: Script = interpret) -> None:
        self.clock = clock or SystemClock()
        self.script = script
        self.boxes: dict[SandboxId, _Box] = {}
        self.created = 0
        self.started: list[Command] = []
        self.create_seconds = 0.0
        self.isolations = ("none",)
        """Labels of the ways it isolates, the ordinary one first."""
        self._creates_to_fail = 0
        self._starts_to_break = 0

    def fail_next_creates(self, count: int) -> None:
        """Let that many creations fail."""
        self._creates_to_fail = count

    def break_next_starts(self, count: int) -> None:
        """Let that many sandboxes die just after their command started."""
        self._starts_to_break = count

    def break_sandbox(self, sandbox_id: SandboxId) -> None:
        """Let a sandbox die."""
        box = self.boxes.pop(sandbox_id, None)
        if box is None:
            return
        box.is_alive = False
        for process in box.processes.values():
            process.break_now()

    async def make(self, spec: SandboxSpec) -> "FakeSandbox":
        """Make a sandbox, or fail when told to."""
        if self.create_seconds:
            await self.clock.sleep(self.create_seconds)
        if self._creates_to_fail:
            self._creates_to_fail -= 1
            raise SandboxBrokenError("creation fails because the test said so")
        if spec.root.path is not None and not spec.root.path.exists():
            raise SandboxBrokenError("the image is gone")
        self.created += 1
        able = [one for one in self.isolations if reaches(one, spec.isolation_min)]
        if not able:
            raise UnsupportedError(f"the fake machine does not isolate by {spec.isolation_min}")
        self.boxes[spec.id] = _Box(spec, spec.limits, isolation=able[0])
        return FakeSandbox(self, self.boxes[spec.id])

    def run(self, box: _Box, name: str, command: Command, output: OutputFiles) -> FakeProcess:
        """Start a command."""
        process = FakeProcess(name, command, output, self.clock)
        box.processes[name] = process
        self.started.append(command)
        if self._starts_to_break:
            self._starts_to_break -= 1
            self.break_sandbox(box.spec.id)
        elif command.working_dir not in box.dirs:
            message = f"faas: {command.working_dir}: no such directory\n".encode()
            process.run([Write(2, message), *interpret_exit(126)])
        else:
            process.run(self.script(command))
        return process


def interpret_exit(code: int) -> list[Step]:
    """Return the steps of a program that only exits."""
    return interpret(Command(argv=("sh", "-c", f"exit {code}")))


class FakeSandbox:
    """One sandbox on a `FakeHost`."""

    runtime = "fake"

    def __init__(self, host: FakeHost, box: _Box) -> None:
        self._host = host
        self._box = box
        self.id = box.spec.id
        self.image_digest = box.spec.root.digest
        self.isolation = box.isolation

    @property
    def is_alive(self) -> bool:
        return self._box.is_alive

    @property
    def limits(self) -> Limits:
        """The limits that hold now, for tests."""
        return self._box.limits

    def _alive(self) -> _Box:
        if not self._box.is_alive:
            raise SandboxBrokenError("the sandbox is gone")
        return self._box

    async def apply_limits(self, limits: Limits) -> None:
        self._alive().limits = limits

    async def start(self, name: str, command: Command, output: OutputFiles) -> Process:
        box = self._alive()
        if name in box.processes:
            raise WrongStateError(f"a command named {name} was started before")
        return self._host.run(box, name, command, output)

    async def attach(self, name: str) -> Process | None:
        return self._alive().processes.get(name)

    async def put_files(self, files: tuple[FileInput, ...]) -> None:
        for file in files:
            await self.write_file(file.path, file.content, mode=file.mode)

    async def put_archive(self, tar: bytes | Path, *, path: str) -> None:
        self._alive()
        stream = io.BytesIO(tar if isinstance(tar, bytes) else tar.read_bytes())  # noqa: ASYNC240  a fake
        try:
            with tarfile.open(fileobj=stream) as archive:
                for member in archive:
                    await self._unpack(archive, member, path)
        except tarfile.TarError as failure:
            raise InvalidArgumentError("this is not a tar") from failure

    async def _unpack(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        if member.name.startswith("/") or ".." in member.name.split("/") or member.isdev():
            raise InvalidArgumentError(f"the tar holds {member.name!r}, which is refused")
        target = posixpath.normpath(posixpath.join(path, member.name))
        if member.isdir():
            await self.make_dir(target)
        elif (content := archive.extractfile(member)) is not None:
            await self.write_file(target, content.read(), mode=member.mode)

    async def get_archive(self, path: str) -> AsyncIterator[bytes]:
        box = self._alive()
        await self.stat(path)
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in sorted(box.files.items()):
                if name == path or name.startswith(path.rstrip("/") + "/"):
                    top = posixpath.dirname(path) if name == path else path
                    info = tarfile.TarInfo(posixpath.relpath(name, top))
                    info.size, info.mode = len(content), box.modes[name]
                    archive.addfile(info, io.BytesIO(content))
        yield stream.getvalue()

    async def read_file(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        content = self._alive().files.get(path)
        if content is None:
            raise NotFoundError(f"there is no file {path}")
        return content[offset : None if length is None else offset + length]

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        box = self._alive()
        if not path.startswith("/") or "\0" in path:
            raise InvalidArgumentError(f"{path!r} is not an absolute path")
        if path in box.dirs:
            raise InvalidArgumentError(f"{path} is a directory")
        await self.make_dir(posixpath.dirname(path))
        box.files[path] = data
        box.modes[path] = mode

    async def stat(self, path: str) -> FileStat:
        box = self._alive()
        if path in box.dirs:
            return FileStat(posixpath.basename(path), FileKind.DIRECTORY, 0, 0o755, 0, 0, 0)
        content = await self.read_file(path)
        name, mode = posixpath.basename(path), box.modes[path]
        return FileStat(name, FileKind.FILE, len(content), mode, 0, 0, 0)

    async def list_dir(self, path: str) -> list[FileStat]:
        box = self._alive()
        if path not in box.dirs:
            raise NotFoundError(f"there is no directory {path}")
        names = sorted(n for n in {*box.files, *box.dirs} if n != path)
        return [await self.stat(n) for n in names if posixpath.dirname(n) == path]

    async def make_dir(self, path: str, *, parents: bool = True) -> None:
        box = self._alive()
        parent = posixpath.dirname(path)
        if parent not in box.dirs:
            if not parents:
                raise NotFoundError(f"there is no directory {parent}")
            await self.make_dir(parent)
        box.dirs.add(path)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        box = self._alive()
        below = [n for n in {*box.files, *box.dirs} if n.startswith(path.rstrip("/") + "/")]
        if below and not recursive:
            raise InvalidArgumentError(f"{path} is not empty")
        if path not in box.files and path not in box.dirs:
            raise NotFoundError(f"there is no {path}")
        for name in [path, *below]:
            box.files.pop(name, None)
            box.dirs.discard(name)

    async def rename(self, source: str, target: str) -> None:
        box = self._alive()
        content = await self.read_file(source)
        await self.write_file(target, content, mode=box.modes.pop(source))
        del box.files[source]

    async def connect(self, port: int) -> socket.socket:
        served = self._alive().ports.get(port)
        if served is None:
            raise PortClosedError(f"connect to port {port}: Connection refused")
        connection = socket.socket()
        connection.settimeout(0)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", served))
        return connection

    def cpu_us(self) -> int | None:
        return self._box.cpu_us

    def memory_bytes(self) -> int | None:
        return self._box.memory_bytes

    async def pause(self) -> None:
        self._alive().is_paused = True

    async def resume(self) -> None:
        self._alive().is_paused = False

    async def destroy(self, reason: str) -> None:
        self._host.break_sandbox(self.id)


class FakeRuntime:
    """Makes sandboxes on a `FakeHost`."""

    capabilities = frozenset(
        {
            Capability.ADOPT,
            Capability.TTY,
            Capability.FILE_SNAPSHOT,
            Capability.HOST_IMAGE,
            Capability.PORTS,
        }
    )

    def __init__(self, host: FakeHost | None = None, *, name: str = "fake") -> None:
        self.name = name
        self.host = host or FakeHost()
        self.is_available = True

    async def start(self) -> None:
        if not self.is_available:
            raise RuntimeUnavailableError("the fake runtime was switched off")

    async def probe(self) -> ProbeReport:
        detail = "runs in memory" if self.is_available else "switched off"
        ordinary, *stronger = self.host.isolations
        return ProbeReport(
            is_available=self.is_available,
            detail=detail,
            isolation=ordinary,
            isolations=tuple(stronger),
            limits="fake memory,cpu,pids",
        )

    async def create(self, spec: SandboxSpec) -> Sandbox:
        return await self.host.make(spec)

    async def adopt(self, sandbox_id: SandboxId) -> Sandbox | None:
        box = self.host.boxes.get(sandbox_id)
        return None if box is None else FakeSandbox(self.host, box)

    async def reclaim(self, *, keep: AbstractSet[SandboxId]) -> ReclaimReport:
        left = [sandbox_id for sandbox_id in self.host.boxes if sandbox_id not in keep]
        for sandbox_id in left:
            self.host.break_sandbox(sandbox_id)
        return ReclaimReport(sandboxes=len(left))

    async def aclose(self, *, leave_running: AbstractSet[SandboxId] = frozenset()) -> None:
        await self.reclaim(keep=leave_running)


_NOTHING = Exit(
    code=0,
    signal=None,
    reason=ExitReason.EXITED,
    stdout_kept_bytes=0,
    stdout_total_bytes=0,
    stderr_kept_bytes=0,
    stderr_total_bytes=0,
    wall_us=0,
    cpu_us=0,
)
_ENDED = Progress(0, 0, is_ended=True)


class NoopProcess(FakeProcess):
    """Has ended before it began."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def wait(self) -> Exit:
        return _NOTHING

    def progress(self) -> Progress:
        return _ENDED

    @property
    def has_ended(self) -> bool:
        return True


class NoopSandbox(FakeSandbox):
    """Runs nothing, successfully."""

    runtime = "noop"

    async def start(self, name: str, command: Command, output: OutputFiles) -> Process:
        return NoopProcess(name)


class NoopRuntime(FakeRuntime):
    """Costs nothing, so that what is measured is the platform."""

    def __init__(self) -> None:
        super().__init__(name="noop")

    async def create(self, spec: SandboxSpec) -> Sandbox:
        box = self.host.boxes[spec.id] = _Box(spec, spec.limits)
        return NoopSandbox(self.host, box)
