"""One shelf of the warm pool: the ready sandboxes of a template, what it should hold, and why."""

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from faas.errors import FaasError
from faas.model import NetworkMode
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import RootFilesystem

DEMAND_SECONDS = 0.1
"""Many times what making an embedded sandbox takes, so that a burst finds the pool filled."""

COVER_MAKES = 5
"""What takes longer to make must be held for longer: five times that."""

HALF_LIFE_SECONDS = 5.0

IDLE_MAKES = 2000
"""A template that nobody asks for is kept 2000 times as long as making one takes: three minutes for
a container that takes a tenth of a second."""

IDLE_SECONDS_MAX = 3600.0

_RATE = math.log(2) / HALF_LIFE_SECONDS
_MEAN_WEIGHT = 0.2


class Template(NamedTuple):
    """What a sandbox was made with and cannot change."""

    runtime: str
    image_digest: str
    network: NetworkMode
    disk_bytes: int
    isolation_min: str | None = None
    """Set where the runtime must take a stronger way than its ordinary one."""


@dataclass(slots=True, eq=False)
class Shelf:
    """The ready sandboxes of one template."""

    template: Template
    root: RootFilesystem
    asked_ns: int
    decayed_ns: int
    image: str = ""
    """The name it was last asked for by."""
    floor: int = 0
    """Kept from the start."""
    reserved: int = 0
    """Pre-warmed."""
    demand: float = 0.0
    """Takes, each halved every `HALF_LIFE_SECONDS`."""
    make_seconds: float = 0.0
    """The recent mean of making one."""
    ready: deque[GuardedSandbox] = field(default_factory=deque[GuardedSandbox])
    making: int = 0
    target: int = 0
    failures: int = 0
    failure: FaasError | None = None
    """Why the last one could not be made."""
    retry_ns: int = 0
    waiters: list[tuple[int, asyncio.Future[None]]] = field(
        default_factory=list[tuple[int, asyncio.Future[None]]]
    )
    """Who waits for how many to be ready."""

    @property
    def kept(self) -> int:
        """How many are held whatever the demand."""
        return self.floor + self.reserved

    @property
    def held(self) -> int:
        """Ready, or on the way."""
        return len(self.ready) + self.making

    def decay(self, now_ns: int) -> None:
        """Forget demand by its half-life."""
        seconds = (now_ns - self.decayed_ns) / 1e9
        self.decayed_ns = now_ns
        self.demand *= 0.5 ** (seconds / HALF_LIFE_SECONDS)

    def aim(self, size_max: int) -> None:
        """Set the target by the rule of `warm_pool`."""
        cover = max(DEMAND_SECONDS, COVER_MAKES * self.make_seconds)
        wanted = math.ceil(self.demand * _RATE * cover)
        self.target = min(size_max, max(self.kept, wanted))

    def is_idle(self, now_ns: int, idle_seconds: float) -> bool:
        """Whether nobody asked for it in so long that it is not worth its place."""
        worth = min(IDLE_SECONDS_MAX, IDLE_MAKES * self.make_seconds)
        return now_ns - self.asked_ns > int(max(idle_seconds, worth) * 1e9)

    def learn(self, seconds: float) -> None:
        """Note how long making one took."""
        before = self.make_seconds or seconds
        self.make_seconds = before + _MEAN_WEIGHT * (seconds - before)
        self.failures, self.failure = 0, None

    def tell_ready(self) -> None:
        """Wake those whose number is reached."""
        still: list[tuple[int, asyncio.Future[None]]] = []
        for goal, waiter in self.waiters:
            if goal > len(self.ready):
                still.append((goal, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self.waiters = still

    def tell_failed(self, failure: FaasError) -> None:
        """Wake everybody: it will not come to pass."""
        waiters, self.waiters = self.waiters, []
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(failure)

    def why(self, now_ns: int) -> str:
        """Say in one sentence why it holds what it holds."""
        if self.failure is not None:
            seconds = max(0.0, (self.retry_ns - now_ns) / 1e9)
            return f"cannot be made, tried again in {seconds:.0f} s: {self.failure.message}"
        ago = (now_ns - self.asked_ns) / 1e9
        if self.target > self.kept:
            return f"asked for {ago:.0f} s ago"
        if self.reserved:
            return f"{self.reserved} pre-warmed"
        if self.floor:
            return f"{self.floor} of the default image kept from the start"
        return f"not asked for in {ago:.0f} s"
