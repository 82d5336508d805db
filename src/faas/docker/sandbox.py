"""One container as a sandbox: the agent's half plus what only the Engine and the host know."""

import asyncio
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from faas.agent.channel import AgentChannel
from faas.agent.ports import OpenAgent
from faas.agent.process import AgentProcess, plain_verdict
from faas.agent.protocol import ExitFrame
from faas.agent.sandbox import AgentSandbox
from faas.criu.site import Site, as_only_user
from faas.docker.container import reserved_uids
from faas.docker.groups import ContainerGroups
from faas.docker.remote_groups import RemoteGroups
from faas.docker.work_dir import Meta
from faas.errors import InvalidArgumentError, UnsupportedError
from faas.ids import SandboxId
from faas.model import ExitReason, Limits
from faas.sandbox.capabilities import Resumption
from faas.sandbox.protocols import Command, Exit, OutputFiles

if TYPE_CHECKING:
    from faas.docker.memory import ContainerMemory
    from faas.docker.tunnel import Tunnel

_OOM_CODE = 128 + signal.SIGKILL
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What the runtime does for its sandboxes."""

    limit: Callable[[Limits], Awaitable[None]]
    """Change limits through the Engine, where its groups cannot be written."""
    release: Callable[[], Awaitable[None]]
    """Remove the container and its directory; called once."""
    memory: "ContainerMemory"


class DockerSandbox(AgentSandbox):
    """A `Sandbox` in a container, new or taken back after a crash."""

    def __init__(
        self,
        sandbox_id: SandboxId,
        meta: Meta,
        *,
        channel: AgentChannel,
        groups: ContainerGroups | RemoteGroups,
        upkeep: Upkeep,
        open_agent: OpenAgent | None = None,
        tunnel: "Tunnel | None" = None,
        site: Site | None = None,
    ) -> None:
        super().__init__(sandbox_id, channel, open_agent=open_agent)
        self._meta = meta
        self._groups = groups
        self._upkeep = upkeep
        self._tunnel = tunnel
        self.site = site
        """Where it is on this host; None unless it keeps memory."""
        self._moving = asyncio.Lock()
        self._destroying: asyncio.Future[None] | None = None

    @property
    def runtime(self) -> str:
        return "docker"

    @property
    def isolation(self) -> str:
        return self._meta.isolation

    @property
    def image_digest(self) -> str:
        return self._meta.image_digest

    async def start(self, name: str, command: Command, output: OutputFiles) -> AgentProcess:
        if isinstance(self._groups, RemoteGroups):
            await self._groups.refresh()
        return await super().start(name, command, output)

    async def connect(self, port: int) -> socket.socket:
        if self._tunnel is None:
            return await super().connect(port)
        self._require_alive()
        async with self._dials:
            return await self._tunnel.connect(port)

    async def apply_limits(self, limits: Limits) -> None:
        self._require_alive()
        if not await asyncio.to_thread(self._groups.limit, limits):
            await self._upkeep.limit(limits)

    def cpu_us(self) -> int | None:
        """Processor time of everything in it since it was made."""
        self._look_again()
        return self._groups.cpu_us()

    def memory_bytes(self) -> int | None:
        """Memory it holds now."""
        self._look_again()
        return self._groups.memory_bytes()

    def _look_again(self) -> None:
        if isinstance(self._groups, RemoteGroups):
            self._groups.look_again()

    @asynccontextmanager
    async def processes_taken(self, images: Path) -> AsyncGenerator[None]:
        """Write its processes into `images`; they stand still inside the context."""
        site = self._kept_at()
        checkpointer = self._upkeep.memory.checkpointer()
        async with self._moving, checkpointer.taken(self, site, images):
            yield

    async def restore_processes(
        self, images: Path, resumptions: Mapping[str, Resumption]
    ) -> dict[str, AgentProcess]:
        """Go on from images, in a container that was made with `is_refilled`."""
        site = self._kept_at()
        async with self._moving:
            return await self._upkeep.memory.refill(self, site, images, resumptions)

    def _kept_at(self) -> Site:
        self._require_alive()
        if self.site is None:
            raise UnsupportedError(
                "this sandbox was not made for memory checkpoints",
                hint="ask for it when it is made: memory: true",
            )
        return self.site

    async def destroy(self, reason: str) -> None:
        if self._destroying is None:
            self._is_destroyed = True
            self._destroying = asyncio.ensure_future(self._destroy())
        await asyncio.shield(self._destroying)

    def let_go(self) -> None:
        """Forget it without touching it: the next gateway takes it back."""
        self._is_destroyed = True
        self._cut("the gateway leaves it running")

    async def _destroy(self) -> None:
        self._cut("the sandbox was destroyed")
        await self._upkeep.release()

    def _cut(self, why: str) -> None:
        # The channel first: what it still has to tell is judged by the groups.
        self._channel.close(why)
        self._groups.close()
        if self._tunnel is not None:
            self._tunnel.close()

    def _command(self, command: Command) -> Command:
        if command.tty and "gvisor" in self.isolation:
            raise UnsupportedError("a terminal cannot be had in gVisor", hint="leave out tty")
        home = "/root" if command.uid == 0 else "/"
        if self._meta.user is not None:
            command = as_only_user(command, self._meta.user)
        if taken := reserved_uids() & {command.uid, command.gid}:
            raise InvalidArgumentError(f"the user id {min(taken)} is reserved")
        env = {"PATH": _PATH, "HOME": home, "LANG": "C.UTF-8"}
        if command.tty:
            env["TERM"] = "xterm"
        env |= dict(self._meta.env) | dict(command.env)
        return replace(command, env=tuple(env.items()))

    def _process(self, name: str, output: OutputFiles | None) -> AgentProcess:
        judge = _Judge(self._groups, output)
        return AgentProcess(
            self._channel, name, verdict=judge.verdict, loss_verdict=judge.loss_verdict
        )


class _Judge:
    """Sees by the container's counters what the agent cannot: memory, and who was killed for it."""

    def __init__(self, groups: ContainerGroups | RemoteGroups, output: OutputFiles | None) -> None:
        self._groups = groups
        self._output = output
        self._oom_before = groups.oom_kills() or 0
        self._cpu_before = groups.cpu_us()

    def verdict(self, ended: ExitFrame) -> Exit:
        """Complete what the agent says."""
        outcome = plain_verdict(ended)
        cpu, peak = self._groups.cpu_us(), self._groups.memory_peak_bytes()
        if cpu is not None and self._cpu_before is not None:
            outcome = replace(outcome, cpu_us=max(0, cpu - self._cpu_before))
        if peak is not None:
            outcome = replace(outcome, memory_peak_bytes=peak)
        ours = ended.reason in {ExitReason.TIMED_OUT, ExitReason.CANCELLED}
        if self._oom_struck() and not ours and ended.code != 0:
            outcome = replace(
                outcome,
                reason=ExitReason.OUT_OF_MEMORY,
                code=_OOM_CODE,
                signal=int(signal.SIGKILL),
            )
        return outcome

    def loss_verdict(self) -> Exit | None:
        """The killer took the agent itself: still the command's doing."""
        if not self._oom_struck():
            return None
        stdout = _size(self._output.stdout) if self._output else 0
        stderr = _size(self._output.stderr) if self._output else 0
        return Exit(
            code=_OOM_CODE,
            signal=int(signal.SIGKILL),
            reason=ExitReason.OUT_OF_MEMORY,
            stdout_kept_bytes=stdout,
            stdout_total_bytes=stdout,
            stderr_kept_bytes=stderr,
            stderr_total_bytes=stderr,
            wall_us=0,
            cpu_us=0,
            memory_peak_bytes=self._groups.memory_peak_bytes(),
        )

    def _oom_struck(self) -> bool:
        return (self._groups.oom_kills() or 0) > self._oom_before


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
