"""Memory checkpoints of sandboxes: processes into a folder of images, and out of it.

Taking: every command is described by the agent, each tree of its processes is dumped by CRIU and
left standing, the agent reads what they had written, and the caller copies the files; then they
run on, or the sandbox is destroyed. What they are to be spared is written down first (`stopped` in
its directory), so that a gateway that takes over lets them go on.

Restoring: into a fresh sandbox whose files are there. The agent is given pipes and the names of
the processes to come; CRIU makes them; they are looked at before anybody may use them.

A command's terminal goes with it (`terminals`). A GPU, or a socket to the outside is refused by
`UnsupportedError` and nothing is changed.
"""

import contextlib
import fcntl
import os
import platform
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import msgspec

from faas.agent.moving import Exported, Terminal
from faas.agent.process import AgentProcess
from faas.agent.spool import open_for_agent
from faas.criu import processes, terminals
from faas.criu import program as criu_words
from faas.criu.connections import refuse_torn
from faas.criu.images import private_copy
from faas.criu.memory import State, Tree, read_state, write_state
from faas.criu.program import PIDS_OF_CRIU, Criu, Run
from faas.criu.scrutiny import all_taken, examine, inspect
from faas.criu.site import Site
from faas.criu.terminal_images import change_terminals
from faas.errors import (
    ConflictError,
    SandboxBrokenError,
    WrongStateError,
)
from faas.launcher import Launcher
from faas.sandbox.capabilities import Resumption

P = ParamSpec("P")
T = TypeVar("T")

_RUN_SECONDS = 120.0
"""100 MB take a tenth of a second; this is for gigabytes on a slow disk."""
_REFILLING = "refilling"
"""In the sandbox's directory while processes are restored into it."""
_LOCK_TRIES, _LOCK_PAUSE_SECONDS = 12_000, 0.005
"""A minute: as long as a dump may take that a former gateway began."""


class OffLoop(Protocol):
    """Does blocking work in a thread."""

    async def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...


class Movable(Protocol):
    """The agent's half of a sandbox, as it is used here."""

    async def remembered(self) -> list[AgentProcess]:
        """Every command the agent knows, ended or not."""
        ...

    async def export(self, process: AgentProcess, *, typed: bool = False) -> Exported:
        """Ask the agent to describe one, its output drained; `typed`: and what was typed."""
        ...

    async def adopt_command(
        self, name: str, command: Exported, descriptors: list[int]
    ) -> AgentProcess:
        """Give the agent a command whose processes will come."""
        ...


@dataclass(frozen=True, slots=True)
class _Ways:
    """How what is restored is joined to the agent."""

    pipes: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """By command: what CRIU is handed, by resource."""
    terminals: dict[str, tuple[Terminal, int]] = field(default_factory=dict)
    """By command: its terminal, and the end of it that is not the agent's."""
    held: list[int] = field(default_factory=list)
    """All that stays open with us until everything is restored."""


@dataclass(frozen=True, slots=True)
class Checkpointer:
    """Takes and restores for one runtime."""

    criu: Criu
    launcher: Launcher
    off_loop: OffLoop
    look: Callable[[Site], None] = inspect
    """Looks at what was restored before anybody may use it; raises what is wrong with it."""

    @asynccontextmanager
    async def taken(self, sandbox: Movable, site: Site, target: Path) -> AsyncGenerator[None]:
        """Write its processes into the empty folder `target`; inside they stand still.

        Raises:
            UnsupportedError: they are in a state that cannot be kept; they run on.
            WrongStateError: nothing runs in it.
        """
        init = site.init
        before = await _exported(sandbox)
        if not before:
            raise WrongStateError("nothing runs there, so there is no memory to keep")
        spared = await self.off_loop(examine, init, before)
        _write_marker(site, spared)
        try:
            trees = await self._dump_all(site, before, target)
            after = await _exported(sandbox, before)
            last_pid = await self.off_loop(all_taken, init, target, trees, after)
            await self.off_loop(terminals.check_taken, init, target, trees, after)
            await self.off_loop(refuse_torn, init, trees)
            write_state(
                target,
                State(
                    user=site.user,
                    last_pid=last_pid,
                    criu=self.criu.version,
                    machine=platform.machine(),
                    commands=after,
                    trees=trees,
                ),
            )
            yield
        finally:
            await self.off_loop(let_go_on, site)

    async def leave_numbers(self, site: Site) -> None:
        """Leave the low process ids to CRIU, in a sandbox in which nothing was started yet.

        Raises:
            SandboxBrokenError: it cannot be done there.
        """
        run = Run(Path("/"), site.directory, Path("/"), (), site.user, last_pid_before=PIDS_OF_CRIU)
        log = site.directory / "runner.log"
        try:
            if await self._run(site, run, log.name):
                raise SandboxBrokenError("process ids of the sandbox cannot be set")
        finally:
            log.unlink(missing_ok=True)

    async def _dump_all(
        self, site: Site, commands: Mapping[str, Exported], target: Path
    ) -> list[Tree]:
        trees = [
            Tree(str(number), root, name)
            for number, (name, root) in enumerate(
                (name, root) for name, command in commands.items() for root in command.roots
            )
        ]
        held = terminals.names(site.init, [c.terminal for c in commands.values() if c.terminal])
        for tree in trees:
            folder = target / tree.folder
            folder.mkdir(mode=0o700)
            # /dev/tty of a command without a terminal is one that CRIU makes with it.
            external = held if commands[tree.command].terminal else held[:-1]
            argv = self.criu.argv(*criu_words.dump_arguments(tree.root, external))
            run = Run(self.criu.tree, folder, self.criu.preload, argv, site.user)
            code = await self._run(site, run, "runner.log")
            if code:
                log = folder / ("dump.log" if (folder / "dump.log").exists() else "runner.log")
                raise criu_words.why_not_taken(log)
            for log in folder.glob("*.log"):
                log.unlink()
        return trees

    async def _run(
        self, site: Site, run: Run, log_name: str, handed: list[int] | None = None
    ) -> int:
        taken: list[int] = []
        try:
            taken.append(site.open_process())
            # In a thread: a dump that a former gateway began may hold it for a minute. The thread
            # itself adds it, so that a cancelled caller gives it back too.
            await self.off_loop(_add_lock, taken, site)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            taken.append(os.open(run.images / log_name, flags, 0o600))
            return await self.launcher.run_criu(
                run.encoded(), [*taken, *(handed or [])], seconds=_RUN_SECONDS
            )
        finally:
            for descriptor in taken:
                os.close(descriptor)

    async def refill(
        self,
        sandbox: Movable,
        site: Site,
        images: Path,
        resumptions: Mapping[str, Resumption],
    ) -> dict[str, AgentProcess]:
        """Restore processes into a fresh sandbox; what it returns is by their former names.

        Raises:
            ConflictError: they do not fit this machine or the files.
            SandboxBrokenError: it failed; the sandbox is of no use any more.
        """
        state = read_state(images)
        if state.machine != platform.machine():
            raise ConflictError(f"the memory was taken on {state.machine}")
        resumptions = _by_name(state, resumptions)
        (site.directory / _REFILLING).touch()
        processes_: dict[str, AgentProcess] = {}
        ways = _Ways()
        try:
            for name, command in state.commands.items():
                wanted = resumptions.get(name)
                theirs = await self._join(site, name, command, ways)
                processes_[name] = await sandbox.adopt_command(
                    wanted.name if wanted else name,
                    _as_resumed(command, wanted),
                    [*_spools(wanted), *theirs],
                )
            for tree in state.trees:
                await self._restore_one(site, images, state, tree, ways)
        finally:
            for descriptor in ways.held:
                os.close(descriptor)
        await self.off_loop(self.look, site)
        (site.directory / _REFILLING).unlink()
        return processes_

    async def _join(self, site: Site, name: str, command: Exported, ways: _Ways) -> list[int]:
        """Make a command's pipes or its terminal; return what the agent is given."""
        if command.terminal is None:
            ways.pipes[name], given = _pipes(command)
            ways.held.extend(end for _, end in ways.pipes[name])
            return given
        make = partial(terminals.make, user=site.user, made=ways.held)
        master, slave = await self.off_loop(make, site.init, command.terminal)
        ways.pipes[name], ways.terminals[name] = [], (command.terminal, slave)
        return [os.dup(master)]

    async def _restore_one(
        self, site: Site, images: Path, state: State, tree: Tree, ways: _Ways
    ) -> None:
        own = images.parent / f".{site.sandbox_id}-{tree.folder}"
        opened: list[int] = []

        def prepare() -> list[tuple[str, int]]:
            source = images / tree.folder
            private_copy(source, own, old=state.user, new=site.user)
            found = change_terminals(source, own, old=state.user, new=site.user)
            terminals.write_sessions(own, terminals.sessions(found, ways.terminals, tree.command))
            handed = terminals.handed(found, ways.terminals, tree.command, opened)
            return [*ways.pipes[tree.command], *handed]

        try:
            handed = await self.off_loop(prepare)
            run = Run(
                self.criu.tree,
                own,
                self.criu.preload,
                self.criu.argv(*criu_words.restore_arguments([name for name, _ in handed])),
                site.user,
                site.groups,
                state.last_pid,
            )
            code = await self._run(site, run, "runner.log", [end for _, end in handed])
            if code:
                log = own / ("restore.log" if (own / "restore.log").exists() else "runner.log")
                raise criu_words.why_not_restored(log)
        finally:
            for descriptor in opened:
                os.close(descriptor)
            await self.off_loop(partial(shutil.rmtree, own, ignore_errors=True))


async def _exported(
    sandbox: Movable, before: Mapping[str, Exported] | None = None
) -> dict[str, Exported]:
    """Have every command described of which something still runs; `before` when it stands still."""
    found: dict[str, Exported] = {}
    for process in await sandbox.remembered():
        known = (before or {}).get(process.name)
        try:
            found[process.name] = await sandbox.export(
                process, typed=known is not None and known.terminal is not None
            )
        except WrongStateError as error:
            if error.details.get("errno") != "ESRCH":
                raise WrongStateError(
                    "the memory cannot be kept just now: input is on its way",
                    hint="try again when the command has read it",
                ) from error
    return found


def is_half_refilled(directory: Path) -> bool:
    """Whether a gateway died while it restored processes there: they are not all there, or nobody
    has looked at them, and the agent may wait for what never comes."""
    return (directory / _REFILLING).exists()


def let_go_on(site: Site) -> None:
    """Let what a checkpoint stopped run on; harmless when nothing is stopped or it is gone."""
    marker = site.directory / "stopped"
    try:
        spared = set(msgspec.json.decode(marker.read_bytes(), type=list[int]))
    except (OSError, msgspec.MsgspecError):
        spared = set[int]()
    if not marker.exists():
        return
    with contextlib.suppress(OSError, SandboxBrokenError):
        # A number that went to somebody else must not be taken for the sandbox.
        os.close(site.open_process())
        os.close(_lock(site))  # a dump that a former gateway began comes to its end first
        processes.go_on(site.init, spared=spared)
    marker.unlink(missing_ok=True)


def _write_marker(site: Site, spared: set[int]) -> None:
    staged = site.directory / "stopped.tmp"
    staged.write_bytes(msgspec.json.encode(sorted(spared)))
    staged.rename(site.directory / "stopped")


def _add_lock(taken: list[int], site: Site) -> None:
    taken.append(_lock(site))


def _lock(site: Site) -> int:
    """Hold the sandbox's lock; it stays held as long as whoever inherits the descriptor lives."""
    descriptor = os.open(site.directory / "checkpoint.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_LOCK_PAUSE_SECONDS)
        else:
            return descriptor
    os.close(descriptor)
    raise SandboxBrokenError("a former checkpoint does not come to its end")


def _by_name(state: State, resumptions: Mapping[str, Resumption]) -> Mapping[str, Resumption]:
    if "" not in resumptions:
        return resumptions
    if len(state.commands) != 1:
        raise ConflictError(
            f"the memory holds {len(state.commands)} commands, not one",
            hint="restore it as an instance",
        )
    return {next(iter(state.commands)): resumptions[""]}


def _pipes(command: Exported) -> tuple[list[tuple[str, int]], list[int]]:
    """Make a command's pipes: what CRIU is handed, by resource, and what the agent is given."""
    handed: list[tuple[str, int]] = []
    given: list[int] = []
    for inode in (command.stdout_pipe, command.stderr_pipe):
        read, write = os.pipe2(os.O_CLOEXEC)
        given.append(read)
        handed.append((f"pipe:[{inode}]", write))
    if command.is_fed:
        read, write = os.pipe2(os.O_CLOEXEC)
        given.append(write)
        handed.append((f"pipe:[{command.stdin_pipe}]", read))
    return handed, given


def _spools(wanted: Resumption | None) -> list[int]:
    if wanted is None:
        return [os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC) for _ in range(2)]
    return [open_for_agent(wanted.output.stdout), open_for_agent(wanted.output.stderr)]


def _as_resumed(command: Exported, wanted: Resumption | None) -> Exported:
    """Output counts on where it is continued, and from nothing where it begins anew."""
    if wanted is None:
        return replace(command, output_bytes_max=0, stdout_kept=0, stderr_kept=0)
    if wanted.is_continued:
        return command
    return replace(
        command,
        stdout_kept=0,
        stdout_total=0,
        stderr_kept=0,
        stderr_total=0,
        time_left_ms=command.time_left_ms if wanted.timeout_ms is None else wanted.timeout_ms,
        output_bytes_max=(
            command.output_bytes_max if wanted.output_bytes_max is None else wanted.output_bytes_max
        ),
    )
