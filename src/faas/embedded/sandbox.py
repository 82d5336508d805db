"""One embedded sandbox: the agent's half plus what only the host knows and does."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from faas.agent.channel import AgentChannel
from faas.agent.process import AgentProcess, plain_verdict
from faas.agent.protocol import ExitFrame
from faas.agent.sandbox import AgentSandbox
from faas.criu.checkpoint import Checkpointer
from faas.criu.site import Site, as_only_user
from faas.embedded.cgroups import Meter
from faas.embedded.layers import Layers
from faas.embedded.run_dir import Meta, RunDir
from faas.errors import SandboxBrokenError, UnsupportedError
from faas.model import ExitReason, Limits
from faas.sandbox.capabilities import Resumption
from faas.sandbox.layers import Layer, Written
from faas.sandbox.protocols import Command, Exit, OutputFiles

_DESTROY_SECONDS = 10.0
"""For the kernel to end every process; bounded so that a stuck one cannot hold up a drain."""
_OOM_CODE = 128 + signal.SIGKILL
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What the runtime does for its sandboxes off the loop."""

    limit: Callable[[Limits], Awaitable[None]]
    release: Callable[[], Awaitable[None]]
    """Give back groups, directory and user ids; called once, when every process is gone."""
    freeze: Callable[[], Awaitable[None]]
    thaw: Callable[[], Awaitable[None]]
    checkpointer: Callable[[], Awaitable[Checkpointer]]
    """Raises UnsupportedError where there is no CRIU."""
    layers: Layers


class EmbeddedSandbox(AgentSandbox):
    """A `Sandbox` made by the launcher, or taken back after a crash."""

    def __init__(
        self,
        run_dir: RunDir,
        meta: Meta,
        *,
        channel: AgentChannel,
        pidfd: int,
        upkeep: Upkeep,
    ) -> None:
        super().__init__(run_dir.sandbox_id, channel, open_agent=run_dir.connect)
        self._run_dir = run_dir
        self._meta = meta
        self._meter = Meter(meta.leaf)
        self._pidfd = pidfd
        self._upkeep = upkeep
        self._dead = asyncio.Event()
        self._may_be_frozen = False
        self._moving = asyncio.Lock()
        self._destroying: asyncio.Future[None] | None = None
        self._image_env = dict(meta.env)
        asyncio.get_running_loop().add_reader(pidfd, self._on_death)

    @property
    def runtime(self) -> str:
        return "embedded"

    @property
    def isolation(self) -> str:
        return self._meta.isolation

    @property
    def image_digest(self) -> str:
        return self._meta.image_digest

    async def apply_limits(self, limits: Limits) -> None:
        self._require_alive()
        await self._upkeep.limit(limits)

    def cpu_us(self) -> int | None:
        """Processor time of everything in it since it was made."""
        return None if self._is_destroyed else self._meter.cpu_us()

    def memory_bytes(self) -> int | None:
        """Memory it holds now."""
        return None if self._is_destroyed else self._meter.memory_bytes()

    async def pause(self) -> None:
        """Freeze every process in it, its agent too. Harmless when it is frozen."""
        self._require_alive()
        self._may_be_frozen = True
        await self._upkeep.freeze()

    async def resume(self) -> None:
        """Let them go on. Harmless when they run."""
        self._require_alive()
        await self._upkeep.thaw()

    @property
    def base(self) -> str | None:
        """The snapshot whose layers it stands on."""
        return self._meta.base

    @property
    def _site(self) -> Site:
        """Where it is; only of one that keeps memory."""
        return self._run_dir.site(self._meta)

    @property
    def _slot(self) -> int | None:
        """Whose range of user ids its layer is in; one with a single user has no range, and what
        it wrote can be read and not stood on."""
        return None if self._meta.keeps_memory else self._meta.slot

    async def end_as_layer(self) -> Layer:
        """End it, and keep what it wrote."""
        self._require_alive()
        layer = await self._upkeep.layers.take(self._pidfd, self._slot)
        try:
            # Until every process is gone it could still be written through the sandbox itself.
            await self.destroy("its files are kept")
        except BaseException:
            await self._upkeep.layers.drop(layer)
            raise
        return layer

    def look(self) -> AbstractAsyncContextManager[Written]:
        """Read what it has written so far."""
        self._require_alive()
        return self._upkeep.layers.look(self._pidfd, self._meta.slot, self._meta.base)

    @asynccontextmanager
    async def processes_taken(self, images: Path) -> AsyncGenerator[None]:
        """Write its processes into `images`; they stand still inside the context."""
        checkpointer = await self._checkpointer()
        async with self._moving, checkpointer.taken(self, self._site, images):
            yield

    async def restore_processes(
        self, images: Path, resumptions: Mapping[str, Resumption]
    ) -> dict[str, AgentProcess]:
        """Go on from images, in a sandbox that was made with `is_refilled`."""
        checkpointer = await self._checkpointer()
        async with self._moving:
            return await checkpointer.refill(self, self._site, images, resumptions)

    async def _checkpointer(self) -> Checkpointer:
        self._require_alive()
        if not self._meta.keeps_memory:
            raise UnsupportedError(
                "this sandbox was not made for memory checkpoints",
                hint="ask for it when it is made: memory: true",
            )
        return await self._upkeep.checkpointer()

    async def destroy(self, reason: str) -> None:
        if self._destroying is None:
            self._is_destroyed = True
            self._destroying = asyncio.ensure_future(self._destroy())
        await asyncio.shield(self._destroying)

    def let_go(self) -> None:
        """Forget it without touching it: the next gateway takes it back."""
        self._is_destroyed = True
        self._close()

    async def _destroy(self) -> None:
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            if self._may_be_frozen:
                await self._upkeep.thaw()
            try:
                async with asyncio.timeout(_DESTROY_SECONDS):
                    await self._dead.wait()
            except TimeoutError:
                raise SandboxBrokenError("the sandbox did not die in time") from None
        finally:
            self._close()
            await self._upkeep.release()

    def _close(self) -> None:
        self._channel.close("the sandbox was destroyed")
        self._meter.close()
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_death(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._dead.set()
        # What the agent sent last may still lie in the socket: let the channel find the end itself.
        asyncio.get_running_loop().call_later(0.05, self._channel.close, "the sandbox died")

    def _command(self, command: Command) -> Command:
        if self._meta.keeps_memory:
            command = as_only_user(command, self._site.user)
            return self._complete(command, home="/root")
        return self._complete(command, home="/root" if command.uid == 0 else "/")

    def _complete(self, command: Command, *, home: str) -> Command:
        env = {"PATH": _PATH, "HOME": home, "LANG": "C.UTF-8"}
        if command.tty:
            env["TERM"] = "xterm"
        env |= self._image_env | dict(command.env)
        return replace(command, env=tuple(env.items()))

    def _process(self, name: str, output: OutputFiles | None) -> AgentProcess:
        judge = _Judge(self._meter, output)
        return AgentProcess(
            self._channel, name, verdict=judge.verdict, loss_verdict=judge.loss_verdict
        )


class _Judge:
    """Sees by the group's counters what the agent cannot: memory, and the out-of-memory killer."""

    def __init__(self, meter: Meter, output: OutputFiles | None) -> None:
        self._meter = meter
        self._output = output
        self._oom_before = meter.oom_kills()
        self._cpu_before = meter.cpu_us()

    def verdict(self, ended: ExitFrame) -> Exit:
        """Complete what the agent says."""
        outcome = plain_verdict(ended)
        cpu, peak = self._meter.cpu_us(), self._meter.memory_peak_bytes()
        if cpu is not None and self._cpu_before is not None:
            outcome = replace(outcome, cpu_us=max(0, cpu - self._cpu_before))
        if peak is not None:
            outcome = replace(outcome, memory_peak_bytes=peak)
        ours = ended.reason in {ExitReason.TIMED_OUT, ExitReason.CANCELLED}
        # A command that lost a child to the killer and still succeeded has coped with it.
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
        stdout, stderr = self._kept()
        return Exit(
            code=_OOM_CODE,
            signal=int(signal.SIGKILL),
            reason=ExitReason.OUT_OF_MEMORY,
            stdout_kept_bytes=stdout,
            stdout_total_bytes=stdout,
            stderr_kept_bytes=stderr,
            stderr_total_bytes=stderr,
            wall_us=0,
            cpu_us=max(0, (self._meter.cpu_us() or 0) - (self._cpu_before or 0)),
            memory_peak_bytes=self._meter.memory_peak_bytes(),
        )

    def _oom_struck(self) -> bool:
        now = self._meter.oom_kills()
        return now is not None and now > (self._oom_before or 0)

    def _kept(self) -> tuple[int, int]:
        if self._output is None:
            return 0, 0
        sizes = [_size(path) for path in (self._output.stdout, self._output.stderr)]
        return sizes[0], sizes[1]


def _size(path: "os.PathLike[str]") -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0
