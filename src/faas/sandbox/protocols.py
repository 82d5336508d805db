"""What a runtime must do.

A **runtime** makes **sandboxes**. A sandbox is one isolated place where commands run. A command
that was started is a **process**; its output is appended, byte for byte, to two files on the host
that the caller named, so that it outlives the gateway and can be read at any offset, live or later
(`faas.agent.spool.Spool`). A process ends with exactly one `Exit`.

Life of a one-shot execution::

    sandbox = await runtime.create(spec)              # or taken from a warm pool
    await sandbox.apply_limits(limits)
    process = await sandbox.start("main", command, output)
    exit = await process.wait()
    await sandbox.destroy("done")

After a crash of the gateway::

    sandbox = await runtime.adopt(sandbox_id)         # None: it is gone
    process = await sandbox.attach("main")            # None: never started, or forgotten
    exit = await process.wait()
    await runtime.reclaim(keep={sandbox.id, ...})     # everything of ours that is not kept goes

Rules the conformance suite proves, for every runtime:

* `create` that fails leaves nothing behind; `probe` really runs something.
* The command's failure is an `Exit`; a program that is not found exits 127, one that may not be
  run 126, both with a line on stderr. Exceptions are ours.
* Output is capped while it is read; a command never blocks or dies because nobody reads.
* The deadline and `kill` end the whole tree, `setsid` escapees included.
* With `Command.is_exclusive`, whatever is left running when the command ends is killed; without,
  background processes stay.
* `destroy` is final and idempotent; any other call after it raises `SandboxBrokenError`.
* Several processes may run at once in one sandbox.
* Every call may be cancelled; cancelling `wait` does not touch the process.
"""

import os
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from faas.ids import SandboxId
from faas.model import ExitReason, FileInput, Limits, NetworkMode
from faas.sandbox.capabilities import Capability
from faas.sandbox.layers import LayerStack


@dataclass(frozen=True, slots=True)
class RootFilesystem:
    """What a sandbox starts from: a directory tree by digest, or the machine's own."""

    digest: str
    """`sha256:…` of the imported tree, or `host`."""
    path: Path | None
    """The unpacked tree; None for `host`."""
    env: tuple[tuple[str, str], ...] = ()
    """The image's own environment."""
    working_dir: str = "/"
    user: str | None = None
    entrypoint: tuple[str, ...] = ()
    keeper: str | None = None
    """The runtime that keeps it and alone can run it, by `digest`; None: any runtime can."""
    volumes: tuple[str, ...] = ()
    """Directories that a kept image says are to be written to."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What to make. Limits can be changed later by `apply_limits`, except `disk_bytes`."""

    id: SandboxId
    root: RootFilesystem
    limits: Limits = field(default_factory=Limits)
    network: NetworkMode = NetworkMode.NONE
    hostname: str = "sandbox"
    layers: LayerStack | None = None
    """What it stands on, over its root; only for a runtime that has layers."""
    isolation_min: str | None = None
    """A rung of `faas.sandbox.isolation`, only when the runtime's ordinary way does not reach it:
    make it by the weakest way that does, and refuse (UnsupportedError) when there is none."""
    keeps_memory: bool = False
    """Its processes shall be taken into, or come from, a memory checkpoint (`Checkpointable`)."""
    is_refilled: bool = False
    """Of those: nothing runs in it before `restore_processes`."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. The environment is complete but for what every sandbox sets itself."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = "/"
    uid: int = 0
    gid: int = 0
    stdin: bytes | None = None
    """Given in full; the command sees end of file after it."""
    stdin_open: bool = False
    """Keep stdin open after `stdin` for `Process.write_stdin`."""
    tty: bool = False
    rows: int = 24
    columns: int = 80
    timeout_ms: int = 30_000
    """0 is none. Counted by the agent, so it holds while no gateway lives."""
    grace_ms: int = 0
    """Between SIGTERM and SIGKILL when time runs out; 0 kills at once."""
    output_bytes_max: int = 16 << 20
    is_exclusive: bool = True


class OutputFiles:
    """Where the output of one process goes.

    The sandbox makes the files when they are missing, and adds to what they hold when they are not.
    The names are kept as plain strings: making paths cost every execution 25 microseconds.
    """

    __slots__ = ("stderr_name", "stdout_name")

    def __init__(self, stdout: str | Path, stderr: str | Path) -> None:
        self.stdout_name = os.fspath(stdout)
        self.stderr_name = os.fspath(stderr)

    @property
    def stdout(self) -> Path:
        """The file of standard output."""
        return Path(self.stdout_name)

    @property
    def stderr(self) -> Path:
        """The file of standard error."""
        return Path(self.stderr_name)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the output has come, bytes kept in each file, and whether it has ended."""

    stdout_bytes: int
    stderr_bytes: int
    is_ended: bool


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended."""

    code: int
    """As in `ExecutionResult.exit_code`."""
    signal: int | None
    reason: ExitReason
    stdout_kept_bytes: int
    stdout_total_bytes: int
    stderr_kept_bytes: int
    stderr_total_bytes: int
    wall_us: int
    cpu_us: int
    memory_peak_bytes: int | None = None


class FileKind(StrEnum):
    """What a directory entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileStat:
    """One directory entry."""

    name: str
    kind: FileKind
    size_bytes: int
    mode: int
    uid: int
    gid: int
    modified_ns: int
    link_target: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What happened when a runtime was tried for real."""

    is_available: bool
    detail: str
    """One sentence: what was run and what it said, or what is missing."""
    hint: str | None = None
    """A command to paste that mends it."""
    isolation: str = ""
    """The label of sandboxes made without a demand."""
    isolations: tuple[str, ...] = ()
    """Labels of the stronger ways it has beside that, taken when `SandboxSpec.isolation_min`
    demands one."""
    limits: str = ""
    """Which limits hold here, and by what: `cgroup-v1 cpu,memory,pids`, `rlimits only`."""
    duration_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class ReclaimReport:
    """What start-up found of a dead gateway and took away."""

    sandboxes: int = 0
    processes: int = 0
    cgroups: int = 0
    mounts: int = 0
    files: int = 0


class Process(Protocol):
    """One started command."""

    @property
    def name(self) -> str:
        """The caller's name for it, unique in its sandbox."""
        ...

    async def wait(self) -> Exit:
        """Return how it ended; at once when it has.

        Raises:
            SandboxBrokenError: the sandbox died first.
        """
        ...

    def progress(self) -> Progress:
        """How far the output has come, as last heard."""
        ...

    async def changed(self, seen: Progress) -> Progress:
        """Return as soon as the progress differs from `seen`."""
        ...

    async def write_stdin(self, data: bytes, *, offset: int, is_last: bool = False) -> int:
        """Deliver input; return the offset the process has now been given up to.

        `offset` counts bytes since the process started (after `Command.stdin`); bytes below what
        was already taken are skipped, so a repeated write is harmless. Less than all may be taken:
        send the rest again. A gap raises InvalidArgumentError, a closed stdin WrongStateError.
        """
        ...

    async def resize(self, *, rows: int, columns: int) -> None:
        """Change the size of the terminal."""
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        ...

    async def kill(self) -> None:
        """End the whole tree now; its Exit has reason `cancelled`. Harmless when it has ended."""
        ...


class Sandbox(Protocol):
    """One isolated place where commands run."""

    @property
    def id(self) -> SandboxId: ...

    @property
    def runtime(self) -> str: ...

    @property
    def isolation(self) -> str:
        """What is between command and host: `namespaces+userns+seccomp`, `docker`, `microvm`."""
        ...

    @property
    def image_digest(self) -> str: ...

    @property
    def is_alive(self) -> bool: ...

    async def apply_limits(self, limits: Limits) -> None:
        """Set memory, cpu and pids for what runs from now on."""
        ...

    async def start(self, name: str, command: Command, output: OutputFiles) -> Process:
        """Start a command; return once the sandbox took it. A program not found is an Exit."""
        ...

    async def attach(self, name: str) -> Process | None:
        """Take up a process that was started before, perhaps by a gateway that died."""
        ...

    async def put_files(self, files: tuple[FileInput, ...]) -> None:
        """Write whole files, making parent directories."""
        ...

    async def put_archive(self, tar: bytes | Path, *, path: str) -> None:
        """Unpack a tar below `path`. Device nodes and names that lead outside are refused."""
        ...

    def get_archive(self, path: str) -> AsyncIterator[bytes]:
        """Yield a tar of what is at `path`."""
        ...

    async def read_file(
        self, path: str, *, offset: int = 0, length: int | None = None
    ) -> bytes: ...

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None: ...

    async def stat(self, path: str) -> FileStat: ...

    async def list_dir(self, path: str) -> list[FileStat]: ...

    async def make_dir(self, path: str, *, parents: bool = True) -> None: ...

    async def remove(self, path: str, *, recursive: bool = False) -> None: ...

    async def rename(self, source: str, target: str) -> None: ...

    async def destroy(self, reason: str) -> None:
        """End everything in it and give back all it held. Idempotent."""
        ...


class Runtime(Protocol):
    """Makes sandboxes of one kind."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    async def start(self) -> None:
        """Check the parts, start what stays up. Raises RuntimeUnavailableError."""
        ...

    async def probe(self) -> ProbeReport:
        """Run something for real and say what happened. Never raises."""
        ...

    async def create(self, spec: SandboxSpec) -> Sandbox: ...

    async def adopt(self, sandbox_id: SandboxId) -> Sandbox | None:
        """Take back a sandbox that outlived its gateway; None when it is gone.

        Raises:
            WrongStateError: it was to go on from memory, and that was not done; now it is gone.
        """
        ...

    async def reclaim(self, *, keep: AbstractSet[SandboxId]) -> ReclaimReport:
        """Take away everything of ours that a dead gateway left, except what is in `keep`."""
        ...

    async def aclose(self, *, leave_running: AbstractSet[SandboxId] = frozenset()) -> None:
        """Destroy what is left (except `leave_running`) and stop."""
        ...
