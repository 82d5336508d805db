"""What the executor needs of images: what a name stands for, and fetching what is not here."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from faas.ids import TenantId
from faas.images import ImageOrder, ImageProvider, RegistryLogin
from faas.images.order import PULL_SECONDS_MAX
from faas.model import ExecutionSpec, PullStep
from faas.sandbox.protocols import RootFilesystem

_STEPS_MAX = 512
"""Remembered for those who begin to follow late; they see at least how far each layer is."""


class ImageResolver(Protocol):
    """Knows images by name."""

    def resolve(self, reference: str) -> RootFilesystem:
        """Return what an image's name stands for. Raises ImageNotFoundError."""
        ...


@dataclass(frozen=True, slots=True)
class ImageAsk:
    """What a request says of its image beyond its spec; kept in memory only, for it has secrets."""

    login: RegistryLogin | None = None
    seconds_max: float = PULL_SECONDS_MAX


def order_of(spec: ExecutionSpec, tenant: TenantId, ask: ImageAsk) -> ImageOrder:
    """Say what an execution wants of its image."""
    return ImageOrder(
        reference=spec.image,
        tenant=tenant,
        policy=spec.pull_policy,
        runtime=spec.runtime.value,
        login=ask.login,
        seconds_max=ask.seconds_max,
    )


def at_hand(
    images: ImageResolver, spec: ExecutionSpec, tenant: TenantId, ask: ImageAsk
) -> tuple[RootFilesystem | None, ImageOrder | None]:
    """Return the image of a request, or the order by which it is found or fetched first.

    Raises:
        ImageNotFoundError: it is not here, and nothing could bring it.
    """
    if not isinstance(images, ImageProvider):
        return images.resolve(spec.image), None
    order = order_of(spec, tenant, ask)
    root = images.at_hand(order)
    return root, order if root is None else None


@dataclass(slots=True, eq=False)
class ImageWatch:
    """How far the image of one execution has come, for whoever follows."""

    is_over: bool = False
    _steps: deque[tuple[int, PullStep]] = field(default_factory=lambda: deque(maxlen=_STEPS_MAX))
    _count: int = 0
    _waiters: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])

    def tell(self, step: PullStep) -> None:
        """Take a step."""
        self._count += 1
        self._steps.append((self._count, step))
        self._wake()

    def end(self) -> None:
        """No more steps come."""
        self.is_over = True
        self._wake()

    def since(self, seen: int) -> tuple[list[PullStep], int]:
        """Return the steps after the first `seen`, and how many there were in all."""
        return [step for number, step in self._steps if number > seen], self._count

    async def changed(self, seen: int) -> bool:
        """Return when there is more than `seen`, or the end; True while more may come."""
        while self._count <= seen and not self.is_over:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return not self.is_over or self._count > seen

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
