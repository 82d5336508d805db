"""Memory checkpoints of containers: who may have them here, and a container made for them.

The Engine has no part in it. CRIU of ours joins the container's namespaces, as the embedded runtime
has it do, and takes or makes what is below the agent; so the container must be of this host, and
its processes one unprivileged user's.
"""

import asyncio
import os
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from faas.agent.process import AgentProcess
from faas.criu import processes
from faas.criu.checkpoint import Checkpointer, Movable, let_go_on
from faas.criu.program import find
from faas.criu.scrutiny import has_power, inspect
from faas.criu.site import FirstProcess, Site
from faas.docker.container import MemoryTerms
from faas.docker.groups import procs_files
from faas.docker.memory_users import MemoryUsers
from faas.docker.settings import DockerSettings
from faas.docker.work_dir import Meta, WorkDir
from faas.errors import RuntimeUnavailableError, SandboxBrokenError, UnsupportedError
from faas.launcher import Launcher
from faas.sandbox.capabilities import Resumption
from faas.sandbox.protocols import SandboxSpec

if TYPE_CHECKING:
    from faas.docker.engine import EngineFacts

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8
"""Each may wait a minute for a dump that a dead gateway began; as many as restore at once here."""
_ENDING_TRIES, _ENDING_PAUSE_SECONDS = 200, 0.005
"""A second; an end takes microseconds on a machine with an idle core."""
ISOLATION_OF_MEMORY = "docker+uid+seccomp"
"""Of a container that keeps memory: an unprivileged user of the host's, no user namespace."""
_ELSEWHERE = "this Docker Engine is not on this machine, and CRIU must be where the processes are"


class ContainerMemory:
    """What one Engine's containers need to be taken and restored; `start` first."""

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings
        self._threads: ThreadPoolExecutor | None = None
        self._users = MemoryUsers(settings.tag)
        self._launcher = Launcher(settings.binary)
        self._checkpointer: Checkpointer | None = None
        self._why_not = UnsupportedError("the runtime was not started")

    @property
    def why_not(self) -> UnsupportedError | None:
        """Why no memory can be kept here; None: it can."""
        return None if self._checkpointer is not None else self._why_not

    async def start(self, facts: "EngineFacts") -> None:
        """Find out whether it can be done here, and remember whose users are taken."""
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="faas-docker-memory")
        try:
            _check(self._settings, facts)
            criu = await self._off_loop(
                partial(
                    find,
                    self._settings.criu_prefix,
                    self._settings.work_dir.parent / "criu-kernel",
                    preload=self._settings.binary.with_name(
                        self._settings.binary.name.replace("native", "criu") + ".so"
                    ),
                )
            )
        except UnsupportedError as refusal:
            self._why_not = refusal
            return
        for path in self._settings.work_dir.iterdir():
            meta = WorkDir(path).meta()
            if meta is not None and meta.user is not None:
                self._users.reserve(meta.user)
        self._checkpointer = Checkpointer(criu, self._launcher, self._off_loop, _look)

    async def aclose(self) -> None:
        """Let the launcher go; a dump that was begun is ended. Idempotent."""
        self._checkpointer = None
        await self._launcher.aclose()
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)

    def refuse(self) -> None:
        """Say that it cannot be done here, and why, after all."""
        self._checkpointer, self._why_not = None, UnsupportedError(_ELSEWHERE)

    @contextmanager
    def terms(self, spec: SandboxSpec) -> Generator[MemoryTerms | None]:
        """Say what a new container is made with; None when it is to keep no memory. Its user is its
        own, until it is given back or making it fails in here.

        Raises:
            UnsupportedError: no memory can be kept here, and why.
        """
        if not spec.keeps_memory:
            yield None
            return
        kdat = self._able().criu.kdat
        user = self._users.take()
        try:
            yield MemoryTerms(user, kdat)
        except BaseException:
            self._users.give_back(user)
            raise

    def give_back(self, meta: Meta | None) -> None:
        """Free the user of a container that is gone."""
        if meta is not None and meta.user is not None:
            self._users.give_back(meta.user)

    async def make_ready(self, work_dir: WorkDir, site: Site, spec: SandboxSpec) -> None:
        """Do what must be done before the first command starts.

        Raises:
            UnsupportedError: the container is not on this machine.
            SandboxBrokenError: it is not what it was to be.
        """
        if not await self._off_loop(_is_here, work_dir, site):
            self.refuse()
            raise self._why_not
        if not site.groups:
            raise UnsupportedError("the control groups of containers cannot be seen from here")
        if has_power(site.init, site.user):
            raise SandboxBrokenError("the agent in a container has more power than it may have")
        if not spec.is_refilled:
            await self._able().leave_numbers(site)
        work_dir.note_ready()

    async def let_go_on(self, site: Site) -> None:
        """Let what a dead gateway's checkpoint stopped run on."""
        await self._off_loop(let_go_on, site)

    def checkpointer(self) -> Checkpointer:
        """Who takes processes.

        Raises:
            UnsupportedError: nobody can here, and why.
        """
        return self._able()

    async def refill(
        self, sandbox: Movable, site: Site, images: Path, resumptions: Mapping[str, Resumption]
    ) -> dict[str, AgentProcess]:
        """Restore processes into a fresh container."""
        return await self._able().refill(sandbox, site, images, resumptions)

    async def _off_loop(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in a thread; a cancelled caller still waits until it is over.

        Else an undo could run beside the very work it is to undo.
        """
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._threads, partial(work, *args, **kwargs))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait({done})
            done.exception()
            raise

    def _able(self) -> Checkpointer:
        if self._checkpointer is None:
            raise self._why_not
        return self._checkpointer


def site_of(work_dir: WorkDir, user: int, pid: int) -> Site:
    """Where a container that keeps memory is on this host."""
    return Site(
        sandbox_id=work_dir.path.name,
        directory=work_dir.path,
        first=FirstProcess.find(pid),
        user=user,
        groups=procs_files(pid),
    )


def _check(settings: DockerSettings, facts: "EngineFacts") -> None:
    if settings.is_copied:
        raise UnsupportedError(_ELSEWHERE, hint="use a runtime on this machine")
    if os.geteuid() != 0:
        raise UnsupportedError(
            "memory checkpoints need a gateway that is root", hint="run the gateway as root"
        )
    if facts.first_uid is not None:
        raise UnsupportedError(
            "this Docker Engine remaps user ids, and CRIU cannot restore into a user namespace",
            hint="use another runtime, or an Engine without --userns-remap",
        )
    if not facts.has_seccomp:
        raise UnsupportedError("this Docker Engine has no system call filter")


def _is_here(work_dir: WorkDir, site: Site) -> bool:
    """Whether the agent that answers is the process of this host that the Engine names."""
    try:
        return site.first is not None and work_dir.peer() == site.init
    except OSError as failure:
        raise RuntimeUnavailableError("the agent in a container does not answer") from failure


def _look(site: Site) -> None:
    inspect(site)
    _check_confined(site)


def _check_confined(site: Site) -> None:
    """What was restored is held by what holds the agent: limits, and the host's security module."""
    wanted = _holds(site.init)
    for one in processes.below(site.init):
        for _ in range(_ENDING_TRIES):
            # One that ends leaves its groups a moment before it counts as ended.
            if _holds(one.pid) == wanted or processes.has_ended(one.pid):
                break
            time.sleep(_ENDING_PAUSE_SECONDS)
        else:
            raise SandboxBrokenError("a restored process is not held as its container is")


def _holds(pid: int) -> tuple[str, str]:
    return processes.groups(pid), processes.label(pid)
