"""Layers of the embedded runtime: held by its launcher, numbered and counted here.

A layer is a tmpfs that the launcher keeps mounted in its own namespace. When the launcher dies its
layers are gone, and nothing of them is left to reclaim; sandboxes that stand on one hold it
themselves. Only with root, because a layer is given to each sandbox under owners of its own.
"""

import asyncio
import errno
import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from faas.embedded.host_root import inodes_for
from faas.embedded.user_slots import first_uid
from faas.errors import RuntimeUnavailableError, TooLargeError, UnsupportedError
from faas.ids import SandboxId
from faas.launcher import Launcher, LayerVerb
from faas.sandbox.layers import Layer, LayerStack, Written

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Layers:
    """Takes, makes and drops them."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._last_number = 0
        self._kept: dict[int, Layer] = {}
        self._stands_on: dict[SandboxId, tuple[int, ...]] = {}
        self._users: Counter[int] = Counter()

    def has(self, layer: Layer) -> bool:
        """Whether it is still there."""
        return self._kept.get(layer.number) is layer and (
            layer.generation == self._launcher.generation
        )

    def is_stood_on(self, layer: Layer) -> bool:
        """Whether a live sandbox stands on it."""
        return self._users[layer.number] > 0

    async def take(self, pidfd: int, slot: int | None) -> Layer:
        """Keep what a sandbox wrote; it must be ended before anybody stands on it.

        Raises:
            UnsupportedError: it has no layer.
        """
        if slot is None:
            raise _has_none()
        number, top = await self._open(LayerVerb.TAKE, pidfd=pidfd)
        return self._hold(number, top, first=first_uid(slot))

    async def make(self, fill: Callable[[Path], None], *, size_bytes: int) -> Layer:
        """Make one of what `fill` writes.

        Raises:
            TooLargeError: it does not fit.
        """
        number, top = await self._open(
            LayerVerb.MAKE, size_bytes=size_bytes, inodes=inodes_for(size_bytes)
        )
        layer = self._hold(number, top, first=0)
        try:
            await asyncio.to_thread(fill, Path(f"/proc/self/fd/{top}/."))
        except BaseException as failure:
            await self.drop(layer)
            if isinstance(failure, OSError) and failure.errno in _FULL:
                raise TooLargeError(
                    "the files do not fit into the disk of the sandbox", hint="ask for more disk_mb"
                ) from failure
            raise
        self._kept[number] = replace(layer, size_bytes=_used(top))
        return self._kept[number]

    async def drop(self, layer: Layer) -> None:
        """Forget it. Harmless when it is gone."""
        if self._kept.pop(layer.number, None) is None:
            return
        try:
            if layer.generation == self._launcher.generation:
                await self._launcher.layer(LayerVerb.DROP, layer.number)
        finally:
            # Whoever lets go last gives the memory back, 13 ms for 100 MB: neither the launcher,
            # which makes the next sandbox, nor the loop.
            await asyncio.shield(asyncio.to_thread(os.close, layer.top))

    @asynccontextmanager
    async def look(self, pidfd: int, slot: int | None, base: str | None) -> AsyncGenerator[Written]:
        """Open what a live sandbox has written."""
        if slot is None:
            raise _has_none()
        failed, top = await self._launcher.layer(LayerVerb.LOOK, pidfd=pidfd)
        if failed or top is None:
            raise _failure(failed)
        try:
            yield Written(top, first_uid(slot), base)
        finally:
            os.close(top)

    def stand(self, sandbox_id: SandboxId, stack: LayerStack | None) -> None:
        """A sandbox is made on these.

        Raises:
            RuntimeUnavailableError: one of them is gone; make the stack anew.
        """
        if stack is None:
            return
        if not all(self.has(layer) for layer in stack.layers):
            raise RuntimeUnavailableError("a layer is gone", hint="try again")
        numbers = tuple(layer.number for layer in stack.layers)
        self._stands_on[sandbox_id] = numbers
        self._users.update(numbers)

    def leave(self, sandbox_id: SandboxId) -> None:
        """It is gone. Harmless when it stood on nothing."""
        self._users.subtract(self._stands_on.pop(sandbox_id, ()))

    def close(self) -> None:
        """Let go of all; the launcher takes them along."""
        for layer in self._kept.values():
            os.close(layer.top)
        self._kept.clear()

    async def _open(
        self, verb: LayerVerb, *, size_bytes: int = 0, inodes: int = 0, pidfd: int | None = None
    ) -> tuple[int, int]:
        """Ask for a layer and return its number and its top; one that nobody waits for any more is
        dropped at once."""
        self._last_number += 1
        number = self._last_number
        asked = asyncio.ensure_future(
            self._launcher.layer(verb, number, size_bytes=size_bytes, inodes=inodes, pidfd=pidfd)
        )
        try:
            failed, top = await asyncio.shield(asked)
        except asyncio.CancelledError:
            await asyncio.wait({asked})
            if asked.exception() is None and asked.result()[1] is not None:
                await self.drop(self._hold(number, asked.result()[1] or 0, first=0))
            raise
        if failed or top is None:
            raise _failure(failed)
        return number, top

    def _hold(self, number: int, top: int, *, first: int) -> Layer:
        layer = Layer(number, self._launcher.generation, top, first, _used(top))
        self._kept[number] = layer
        return layer


def _used(top: int) -> int:
    found = os.fstatvfs(top)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _has_none() -> UnsupportedError:
    return UnsupportedError("a sandbox without user ids of its own has no layer")


def _failure(number: int) -> UnsupportedError:
    return UnsupportedError(
        "this host cannot keep what a sandbox wrote as a layer",
        details={"errno": errno.errorcode.get(number, str(number))},
    )
