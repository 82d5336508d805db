"""A sandbox that cannot be misused: every step is checked against the life-cycle table.

    creating → ready → busy → dead, ready | busy ⇄ paused      (`SandboxState` in `faas.lifecycle`)

After its first failure of our own (`InternalError`, `UnavailableError`, or anything unforeseen) a
sandbox is dead to everybody but `destroy`: nothing is ever run in a place that misbehaved once.
Refusals that are the caller's fault leave it alive. Birth and death are published as events.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from faas.clock import Clock, within
from faas.errors import (
    FaasError,
    InternalError,
    SandboxBrokenError,
    StoreUnavailableError,
    UnavailableError,
    UnsupportedError,
    WrongStateError,
)
from faas.events import (
    EventBus,
    SandboxAdopted,
    SandboxCreated,
    SandboxCreateFailed,
    SandboxDestroyed,
)
from faas.ids import SandboxId
from faas.lifecycle import SandboxState, advance
from faas.model import FileInput, Limits
from faas.sandbox.capabilities import (
    Checkpointable,
    Metered,
    Pausable,
    PortExposing,
    Resumption,
    Saving,
)
from faas.sandbox.isolation import reaches
from faas.sandbox.layers import Layer, Layered, Written
from faas.sandbox.protocols import (
    Command,
    FileStat,
    OutputFiles,
    Process,
    Runtime,
    Sandbox,
    SandboxSpec,
)

T = TypeVar("T")


async def create_guarded(
    runtime: Runtime, spec: SandboxSpec, *, clock: Clock, events: EventBus, seconds_max: float
) -> "GuardedSandbox":
    """Make a sandbox in bounded time and publish what came of it.

    Raises:
        SandboxBrokenError: it was not ready in time, or broke while it was made.
        FaasError: what the runtime says.
    """
    started_ns = clock.monotonic_ns()
    try:
        sandbox = await within(seconds_max, runtime.create(spec))
    except TimeoutError as failure:
        events.publish(SandboxCreateFailed(runtime=runtime.name, code=SandboxBrokenError.code))
        raise SandboxBrokenError(
            f"a sandbox was not ready after {seconds_max:g} seconds"
        ) from failure
    except OSError as failure:
        events.publish(SandboxCreateFailed(runtime=runtime.name, code=SandboxBrokenError.code))
        raise SandboxBrokenError("a sandbox could not be made") from failure
    except FaasError as failure:
        events.publish(SandboxCreateFailed(runtime=runtime.name, code=failure.code))
        raise
    await _check_isolation(sandbox, spec)
    events.publish(
        SandboxCreated(
            sandbox_id=sandbox.id,
            runtime=runtime.name,
            image_digest=sandbox.image_digest,
            duration_us=(clock.monotonic_ns() - started_ns) // 1000,
        )
    )
    return GuardedSandbox(sandbox, events=events)


async def _check_isolation(sandbox: Sandbox, spec: SandboxSpec) -> None:
    """Refuse a sandbox that is weaker than demanded, whatever its runtime had promised."""
    if not reaches(sandbox.isolation, spec.isolation_min):
        await sandbox.destroy("weaker than demanded")
        raise UnsupportedError(
            f"the runtime {sandbox.runtime} made a sandbox that isolates by {sandbox.isolation},"
            f" less than {spec.isolation_min}"
        )


def guard_adopted(sandbox: Sandbox, *, events: EventBus) -> "GuardedSandbox":
    """Guard a sandbox that was taken back, and say so."""
    events.publish(
        SandboxAdopted(
            sandbox_id=sandbox.id, runtime=sandbox.runtime, image_digest=sandbox.image_digest
        )
    )
    return GuardedSandbox(sandbox, events=events)


async def save_archive(sandbox: Sandbox, path: str, tar: Path) -> None:
    """Write a tar of what is at `path` to a new file, by the sandbox's own way if it has one."""
    if isinstance(sandbox, Saving):
        await sandbox.save_archive(path, tar)
        return
    with await asyncio.to_thread(tar.open, "xb") as sink:
        async for chunk in sandbox.get_archive(path):
            await asyncio.to_thread(sink.write, chunk)


class GuardedSandbox:
    """Wraps a runtime's sandbox; structurally a `Sandbox` itself."""

    __slots__ = (
        "_events",
        "_inner",
        "_is_destroyed",
        "id",
        "image_digest",
        "isolation",
        "runtime",
        "state",
    )

    def __init__(self, inner: Sandbox, *, events: EventBus) -> None:
        self._inner = inner
        self._events = events
        self._is_destroyed = False
        self.id: SandboxId = inner.id
        self.runtime: str = inner.runtime
        self.isolation: str = inner.isolation
        self.image_digest: str = inner.image_digest
        self.state = SandboxState.READY

    @property
    def is_alive(self) -> bool:
        """Whether it may still be used."""
        return self.state is not SandboxState.DEAD and self._inner.is_alive

    async def apply_limits(self, limits: Limits) -> None:
        await self._do(self._inner.apply_limits(limits))

    async def start(self, name: str, command: Command, output: OutputFiles) -> Process:
        if self.state is SandboxState.READY:
            self.state = SandboxState.BUSY
        return await self._do(self._inner.start(name, command, output))

    async def attach(self, name: str) -> Process | None:
        process = await self._do(self._inner.attach(name))
        if process is not None and self.state is SandboxState.READY:
            self.state = SandboxState.BUSY
        return process

    async def put_files(self, files: tuple[FileInput, ...]) -> None:
        await self._do(self._inner.put_files(files))

    async def put_archive(self, tar: bytes | Path, *, path: str) -> None:
        await self._do(self._inner.put_archive(tar, path=path))

    async def get_archive(self, path: str) -> AsyncIterator[bytes]:
        self._check()
        try:
            async for chunk in self._inner.get_archive(path):
                yield chunk
        except Exception as failure:
            self._judge(failure)
            raise

    async def save_archive(self, path: str, tar: Path) -> None:
        """Write what `get_archive` gives to a new file, as fast as this sandbox can.

        Raises:
            NotFoundError: there is nothing at `path`.
            StoreUnavailableError: our disk is full; the sandbox lives on.
        """
        self._check()
        try:
            await save_archive(self._inner, path, tar)
        except OSError as failure:  # ours: the sandbox is none the worse
            raise StoreUnavailableError(
                f"the files cannot be kept: {failure.strerror}",
                hint="free some disk space, or set FAAS_DATA_DIR to a larger disk",
            ) from failure
        except Exception as failure:
            self._judge(failure)
            raise

    async def read_file(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return await self._do(self._inner.read_file(path, offset=offset, length=length))

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        await self._do(self._inner.write_file(path, data, mode=mode))

    async def stat(self, path: str) -> FileStat:
        return await self._do(self._inner.stat(path))

    async def list_dir(self, path: str) -> list[FileStat]:
        return await self._do(self._inner.list_dir(path))

    async def make_dir(self, path: str, *, parents: bool = True) -> None:
        await self._do(self._inner.make_dir(path, parents=parents))

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        await self._do(self._inner.remove(path, recursive=recursive))

    async def rename(self, source: str, target: str) -> None:
        await self._do(self._inner.rename(source, target))

    async def pause(self) -> None:
        """Freeze everything in it.

        Raises:
            UnsupportedError: its runtime cannot.
        """
        if self.state is not SandboxState.PAUSED:
            await self._do(self._pausable().pause())
            self.state = advance(self.state, SandboxState.PAUSED)

    async def resume(self) -> None:
        """Let it go on."""
        inner = self._pausable()
        if self.state is SandboxState.PAUSED:
            self.state = SandboxState.READY
        await self._do(inner.resume())

    @asynccontextmanager
    async def processes_taken(self, images: Path) -> AsyncGenerator[None]:
        """Write its processes into `images`; they stand still inside the context.

        Raises:
            UnsupportedError: its runtime cannot, or they cannot be kept.
        """
        self._check()
        async with self._checkpointable().processes_taken(images):
            yield

    async def restore_processes(
        self, images: Path, resumptions: Mapping[str, Resumption]
    ) -> Mapping[str, Process]:
        """Go on from images; a sandbox in which that failed is dead."""
        self._check()
        try:
            restored = await self._checkpointable().restore_processes(images, resumptions)
        except BaseException:
            self.state = SandboxState.DEAD
            raise
        if self.state is SandboxState.READY:
            self.state = SandboxState.BUSY
        return restored

    def _checkpointable(self) -> Checkpointable:
        if isinstance(self._inner, Checkpointable):
            return self._inner
        raise UnsupportedError(
            f"the runtime {self.runtime} cannot keep memory", hint="keep the files only"
        )

    async def connect(self, port: int) -> socket.socket:
        """Connect to a port of its own loopback.

        Raises:
            PortClosedError: nobody listens there.
            UnsupportedError: its runtime cannot.
        """
        if not isinstance(self._inner, PortExposing):
            raise UnsupportedError(f"ports of the runtime {self.runtime} cannot be reached")
        return await self._do(self._inner.connect(port))

    def cpu_us(self) -> int | None:
        """Processor time of everything in it; None where nobody counts."""
        inner = self._inner
        return inner.cpu_us() if isinstance(inner, Metered) and self.is_alive else None

    def memory_bytes(self) -> int | None:
        """Memory it holds now; None where nobody counts."""
        inner = self._inner
        return inner.memory_bytes() if isinstance(inner, Metered) and self.is_alive else None

    def _pausable(self) -> Pausable:
        if isinstance(self._inner, Pausable):
            return self._inner
        raise UnsupportedError(f"the runtime {self.runtime} cannot pause a sandbox")

    @property
    def base(self) -> str | None:
        """The snapshot it was made on."""
        return self._inner.base if isinstance(self._inner, Layered) else None

    async def end_as_layer(self) -> Layer:
        """End it, and keep what it wrote.

        Raises:
            UnsupportedError: its runtime cannot, or this one has no layer; it lives on.
        """
        layer = await self._do(self._layered().end_as_layer())
        await self.destroy("its files are kept")
        return layer

    @asynccontextmanager
    async def look(self) -> AsyncGenerator[Written]:
        """Read what it has written so far.

        Raises:
            UnsupportedError: its runtime cannot, or this one has no layer.
        """
        self._check()
        async with self._layered().look() as written:
            yield written

    def _layered(self) -> Layered:
        if isinstance(self._inner, Layered):
            return self._inner
        raise UnsupportedError(f"the runtime {self.runtime} has no layers")

    async def destroy(self, reason: str) -> None:
        """End everything in it; may be repeated until it succeeds, then does nothing."""
        self.state = SandboxState.DEAD
        if self._is_destroyed:
            return
        await self._inner.destroy(reason)
        if not self._is_destroyed:
            self._is_destroyed = True
            self._events.publish(
                SandboxDestroyed(sandbox_id=self.id, runtime=self.runtime, reason=reason)
            )

    def _check(self) -> None:
        if self.state is SandboxState.DEAD:
            raise SandboxBrokenError("the sandbox is gone")
        if self.state is SandboxState.PAUSED:
            raise WrongStateError("the sandbox is paused", hint="resume it first")

    async def _do(self, call: Awaitable[T]) -> T:
        if self.state in (SandboxState.DEAD, SandboxState.PAUSED):
            close = getattr(call, "close", None)
            if close is not None:
                close()
            self._check()
        try:
            return await call
        except Exception as failure:
            self._judge(failure)
            raise

    def _judge(self, failure: Exception) -> None:
        is_ours = isinstance(failure, (InternalError, UnavailableError))
        if (is_ours or not isinstance(failure, FaasError)) and self.state is not SandboxState.DEAD:
            self.state = advance(self.state, SandboxState.DEAD)
