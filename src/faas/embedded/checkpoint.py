"""Memory checkpoints of embedded sandboxes: processes into a folder of images, and out of it.

Taking: every command is described by the agent, each tree of its processes is dumped by CRIU and
left standing, the agent reads what they had written, and the caller copies the files; then they
run on, or the sandbox is destroyed. What they are to be spared is written down first (`stopped` in
the run directory), so that a gateway that takes over lets them go on.

Restoring: into a fresh sandbox whose files are there. The agent is given pipes and the names of
the processes to come; CRIU makes them; they are looked at before anybody may use them.

A terminal, a GPU, or a socket to the outside is refused by `UnsupportedError` and nothing is
changed.
"""

import contextlib
import fcntl
import os
import platform
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import msgspec

from faas.agent.moving import Exported
from faas.agent.process import AgentProcess
from faas.agent.spool import open_for_agent
from faas.embedded import criu as criu_words
from faas.embedded import processes
from faas.embedded.criu import Criu, Run
from faas.embedded.criu_images import private_copy
from faas.embedded.launcher import Launcher
from faas.embedded.memory import State, Tree, read_state, write_state
from faas.embedded.run_dir import Meta, RunDir
from faas.embedded.user_slots import first_uid
from faas.errors import (
    ConflictError,
    SandboxBrokenError,
    UnsupportedError,
    WrongStateError,
)
from faas.sandbox.capabilities import Resumption

P = ParamSpec("P")
T = TypeVar("T")

_RUN_SECONDS = 120.0
"""100 MB take a tenth of a second; this is for gigabytes on a slow disk."""
_LOCK_SECONDS = 60.0
_GPU = ("/dev/nvidia", "/dev/dri/", "/dev/kfd")


class OffLoop(Protocol):
    """Does blocking work in a thread."""

    async def __call__(
        self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...


class Movable(Protocol):
    """The agent's half of a sandbox, as it is used here."""

    def running(self) -> list[AgentProcess]:
        """The commands that have not ended."""
        ...

    async def export(self, process: AgentProcess) -> Exported:
        """Ask the agent to describe one, its output drained."""
        ...

    async def adopt_command(
        self, name: str, command: Exported, descriptors: list[int]
    ) -> AgentProcess:
        """Give the agent a command whose processes will come."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpointer:
    """Takes and restores for one runtime."""

    criu: Criu
    launcher: Launcher
    off_loop: OffLoop

    @asynccontextmanager
    async def taken(
        self, sandbox: Movable, run_dir: RunDir, meta: Meta, target: Path
    ) -> AsyncGenerator[None]:
        """Write its processes into the empty folder `target`; inside they stand still.

        Raises:
            UnsupportedError: they are in a state that cannot be kept; they run on.
            WrongStateError: nothing runs in it.
        """
        init = _init_of(run_dir)
        commands = {p.name: p for p in sandbox.running()}
        if not commands:
            raise WrongStateError("nothing runs there, so there is no memory to keep")
        before = {name: await sandbox.export(p) for name, p in commands.items()}
        spared = await self.off_loop(_examine, init, before)
        _write_marker(run_dir, spared)
        try:
            assert meta.slot is not None  # noqa: S101  only those with a slot keep memory
            trees = await self._dump_all(run_dir, first_uid(meta.slot), before, target)
            after = {name: await sandbox.export(p) for name, p in commands.items()}
            last_pid = await self.off_loop(_all_taken, init, target, trees, after)
            write_state(
                target,
                State(
                    user=first_uid(meta.slot),
                    last_pid=last_pid,
                    criu=self.criu.version,
                    machine=platform.machine(),
                    commands=after,
                    trees=trees,
                ),
            )
            yield
        finally:
            await self.off_loop(let_go_on, run_dir)

    async def _dump_all(
        self, run_dir: RunDir, user: int, commands: Mapping[str, Exported], target: Path
    ) -> list[Tree]:
        trees = [
            Tree(str(number), root, name)
            for number, (name, root) in enumerate(
                (name, root) for name, command in commands.items() for root in command.roots
            )
        ]
        for tree in trees:
            folder = target / tree.folder
            folder.mkdir(mode=0o700)
            argv = self.criu.argv(*criu_words.dump_arguments(tree.root))
            run = Run(self.criu.tree, folder, argv, user)
            code = await self._run(run_dir, run, "runner.log")
            if code:
                log = folder / ("dump.log" if (folder / "dump.log").exists() else "runner.log")
                raise criu_words.why_not_taken(log)
            for log in folder.glob("*.log"):
                log.unlink()
        return trees

    async def _run(
        self, run_dir: RunDir, run: Run, log_name: str, handed: list[int] | None = None
    ) -> int:
        taken: list[int] = []
        try:
            pidfd = run_dir.open_process()
            if pidfd is None:
                raise SandboxBrokenError("the sandbox is gone")
            taken.append(pidfd)
            taken.append(_lock(run_dir))
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
        run_dir: RunDir,
        meta: Meta,
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
        processes_: dict[str, AgentProcess] = {}
        ends: dict[str, list[tuple[str, int]]] = {}
        try:
            for name, command in state.commands.items():
                wanted = resumptions.get(name)
                ours, theirs = _pipes(command)
                ends[name] = ours
                processes_[name] = await sandbox.adopt_command(
                    wanted.name if wanted else name,
                    _as_resumed(command, wanted),
                    [*_spools(wanted), *theirs],
                )
            for tree in state.trees:
                await self._restore_one(run_dir, meta, images, state, tree, ends[tree.command])
        finally:
            for pairs in ends.values():
                for _, descriptor in pairs:
                    os.close(descriptor)
        await self.off_loop(_inspect, run_dir, meta)
        return processes_

    async def _restore_one(
        self,
        run_dir: RunDir,
        meta: Meta,
        images: Path,
        state: State,
        tree: Tree,
        pipes: list[tuple[str, int]],
    ) -> None:
        assert meta.slot is not None  # noqa: S101  only those with a slot keep memory
        own = images.parent / f".{run_dir.sandbox_id}-{tree.folder}"
        copied = partial(private_copy, old=state.user, new=first_uid(meta.slot))
        try:
            await self.off_loop(copied, images / tree.folder, own)
            run = Run(
                self.criu.tree,
                own,
                self.criu.argv(*criu_words.restore_arguments([name for name, _ in pipes])),
                first_uid(meta.slot),
                meta.leaf.procs_files,
                state.last_pid,
            )
            code = await self._run(run_dir, run, "runner.log", [end for _, end in pipes])
            if code:
                log = own / ("restore.log" if (own / "restore.log").exists() else "runner.log")
                raise criu_words.why_not_restored(log)
        finally:
            await self.off_loop(partial(shutil.rmtree, own, ignore_errors=True))


def let_go_on(run_dir: RunDir) -> None:
    """Let what a checkpoint stopped run on; harmless when nothing is stopped or it is gone."""
    marker = run_dir.path / "stopped"
    try:
        spared = set(msgspec.json.decode(marker.read_bytes(), type=list[int]))
    except (OSError, msgspec.MsgspecError):
        spared = set[int]()
    if not marker.exists():
        return
    with contextlib.suppress(OSError, SandboxBrokenError):
        # A number that went to somebody else must not be taken for the sandbox.
        pidfd = run_dir.open_process()
        if pidfd is None:
            return
        os.close(pidfd)
        os.close(_lock(run_dir))  # a dump that a former gateway began comes to its end first
        processes.go_on(_init_of(run_dir), spared=spared)
    marker.unlink(missing_ok=True)


def _write_marker(run_dir: RunDir, spared: set[int]) -> None:
    staged = run_dir.path / "stopped.tmp"
    staged.write_bytes(msgspec.json.encode(sorted(spared)))
    staged.rename(run_dir.path / "stopped")


def _lock(run_dir: RunDir) -> int:
    """Hold the sandbox's lock; it stays held as long as whoever inherits the descriptor lives."""
    descriptor = os.open(run_dir.path / "checkpoint.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    give_up = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > give_up:
                os.close(descriptor)
                raise SandboxBrokenError("a former checkpoint does not come to its end") from None
            time.sleep(0.005)
        else:
            return descriptor


def _init_of(run_dir: RunDir) -> int:
    try:
        return int(Path(run_dir.pid_file).read_text().split()[0])
    except (OSError, ValueError, IndexError) as error:
        raise SandboxBrokenError("the sandbox is gone") from error


def _examine(init: int, commands: Mapping[str, Exported]) -> set[int]:
    """Refuse what CRIU would fail at late; return the processes that are stopped already."""
    seen = processes.below(init)
    for one in seen:
        for _, target in processes.descriptors(one.pid):
            if target.startswith(_GPU):
                raise UnsupportedError(
                    "the memory cannot be kept: it uses a GPU",
                    hint="keep the files only (memory: false)",
                )
    _refuse_shared_pipes(seen, commands)
    return {one.inner_pid for one in seen if one.state == "T"}


def _refuse_shared_pipes(seen: list[processes.Seen], commands: Mapping[str, Exported]) -> None:
    """Each tree is taken by itself: a pipe between two would be torn without a word."""
    known = {f"pipe:[{n}]" for c in commands.values() for n in (c.stdin_pipe, c.stdout_pipe, c.stderr_pipe)}
    roots = {root for command in commands.values() for root in command.roots}
    tree_of: dict[int, int] = {}
    owner: dict[str, int] = {}
    for one in seen:
        own = one.pid if one.inner_pid in roots else tree_of.get(one.parent)
        if own is None:
            continue
        tree_of[one.pid] = own
        for _, target in processes.descriptors(one.pid):
            if target.startswith("pipe:") and target not in known:
                if owner.setdefault(target, own) != own:
                    raise UnsupportedError(
                        "the memory cannot be kept: two processes that were left behind share a pipe",
                        hint="keep the files only (memory: false), or keep their parent alive",
                    )


def _all_taken(
    init: int, target: Path, trees: list[Tree], commands: Mapping[str, Exported]
) -> int:
    """Check that nothing of the sandbox was left out; return the highest number in it."""
    roots = {tree.root for tree in trees}
    if roots != {root for command in commands.values() for root in command.roots}:
        raise WrongStateError(
            "a command began or ended while the memory was taken", hint="try again"
        )
    taken = {
        int(path.name.removeprefix("core-").removesuffix(".img"))
        for tree in trees
        for path in (target / tree.folder).glob("core-*.img")
    }
    alive = processes.below(init)
    ours = {one.pid for one in alive if one.parent == init and processes.is_ours(one.pid, init)}
    strange = [x for x in alive if x.state != "Z" and x.inner_pid not in taken and x.pid not in ours]
    if strange:
        raise UnsupportedError(
            "the memory cannot be kept: processes run that no running command has begun",
            hint="end what former commands left in the background, or keep the files only",
            details={"processes": len(strange)},
        )
    return processes.inner_pid_max(init)


def _inspect(run_dir: RunDir, meta: Meta) -> None:
    """Whatever the images said: nobody in the sandbox has any power."""
    assert meta.slot is not None  # noqa: S101  only those with a slot keep memory
    user = str(first_uid(meta.slot))
    nothing = "0" * 16
    for one in processes.below(_init_of(run_dir)):
        has = processes.privileges(one.pid)
        if not has or one.state == "Z":
            continue
        users = set(has.get("Uid", "").split()) | set(has.get("Gid", "").split())
        powers = {value for name, value in has.items() if name.startswith("Cap")}
        is_bound = has.get("NoNewPrivs") == "1" and has.get("Seccomp") == "2"
        if users != {user} or powers != {nothing} or not is_bound or has.get("Groups"):
            raise SandboxBrokenError("a restored process has more power than it may have")


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
            command.output_bytes_max
            if wanted.output_bytes_max is None
            else wanted.output_bytes_max
        ),
    )

