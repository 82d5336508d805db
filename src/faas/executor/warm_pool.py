"""Ready sandboxes, kept by template, each handed out once.

A template is what cannot be changed in a sandbox once it is made: runtime, image, network, disk.

How many are kept of a template: its floor (`pool_size` for the default image, else none) or what
`DEMAND_SECONDS` of its recent demand would take, rounded up, whichever is more; all together never
more than `pool_max`. Demand is forgotten with a half-life of `HALF_LIFE_SECONDS`, and wholly when
nobody asked in `idle_seconds`.

Who goes: a template above its target gives its oldest back; when a busy template needs a place and
the pool is full, the one asked for least recently gives up its oldest, down to its floor.

`take` never waits: an empty pool says None and the caller makes a sandbox on demand. What was taken
is replaced when its execution has ended, so that making it does not slow the command, or at once
when less than half is left. Refilling runs `REFILL_CONCURRENCY` at a time, backs off when a
template cannot be made, and drops what died.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from faas.clock import Clock
from faas.errors import FaasError
from faas.executor.background import Background
from faas.model import NetworkMode
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import RootFilesystem

REFILL_CONCURRENCY = 2
"""As many as a small machine has cores: more only slows the commands that run."""

DEMAND_SECONDS = 0.1
"""Many times what making a sandbox takes, so that a burst finds the pool filled."""

HALF_LIFE_SECONDS = 5.0

BACK_OFF_SECONDS = (0.5, 30.0)
"""First and longest pause after a template could not be made."""


class Template(NamedTuple):
    """What a sandbox was made with and cannot change."""

    runtime: str
    image_digest: str
    network: NetworkMode
    disk_bytes: int
    isolation_min: str | None = None
    """Set where the runtime must take a stronger way than its ordinary one."""


MakeSandbox = Callable[[Template, RootFilesystem], Awaitable[GuardedSandbox]]
DestroySandbox = Callable[[GuardedSandbox, str], None]


@dataclass(slots=True, eq=False)
class _Shelf:
    """The ready sandboxes of one template."""

    template: Template
    root: RootFilesystem
    floor: int
    asked_ns: int
    decayed_ns: int
    demand: float = 0.0
    """Takes, each halved every `HALF_LIFE_SECONDS`."""
    ready: deque[GuardedSandbox] = field(default_factory=deque[GuardedSandbox])
    making: int = 0
    target: int = 0
    failures: int = 0
    retry_ns: int = 0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool of one runtime."""

    ready: int = 0
    busy: int = 0
    target: int = 0


class WarmPool:
    """Keeps shelves filled. `tick` once a second, `take` for every execution."""

    def __init__(
        self,
        *,
        size_max: int,
        idle_seconds: float,
        make: MakeSandbox,
        destroy: DestroySandbox,
        clock: Clock,
        background: Background,
    ) -> None:
        self._size_max = size_max
        self._idle_ns = int(idle_seconds * 1e9)
        self._make = make
        self._destroy = destroy
        self._clock = clock
        self._background = background
        self._shelves: dict[Template, _Shelf] = {}
        self._making = 0
        self._is_open = True

    def keep(self, template: Template, root: RootFilesystem, *, floor: int) -> None:
        """Keep at least that many of a template from now on."""
        shelf = self._shelf(template, root)
        shelf.floor = min(floor, self._size_max)
        self._aim(shelf)
        self.refill()

    def take(self, template: Template, root: RootFilesystem) -> GuardedSandbox | None:
        """Hand out a ready sandbox, or None; either way the demand is noted."""
        shelf = self._shelf(template, root)
        self._decay(shelf)
        shelf.demand += 1.0
        shelf.asked_ns = self._clock.monotonic_ns()
        taken = self._pop_alive(shelf)
        self._aim(shelf)
        if 2 * len(shelf.ready) < shelf.target or taken is None:
            self.refill()
        return taken

    def has_ready(self, template: Template) -> bool:
        """Whether `take` would hand one out; asking is no demand."""
        shelf = self._shelves.get(template)
        return shelf is not None and any(sandbox.is_alive for sandbox in shelf.ready)

    def refill(self) -> None:
        """Make what is missing, a few at a time. Called when an execution has ended."""
        while self._is_open and self._making < REFILL_CONCURRENCY:
            shelf = self._neediest()
            if shelf is None or not self._make_place(shelf):
                return
            shelf.making += 1
            self._making += 1
            self._background.spawn(self._fill(shelf))

    def tick(self) -> None:
        """Drop the dead, give back what is too much, fill up what is too little."""
        now_ns = self._clock.monotonic_ns()
        for shelf in list(self._shelves.values()):
            self._drop_dead(shelf)
            self._decay(shelf)
            is_idle = now_ns - shelf.asked_ns > self._idle_ns
            if is_idle:
                shelf.demand = 0.0
            self._aim(shelf)
            while len(shelf.ready) > shelf.target:
                self._destroy(shelf.ready.popleft(), "not needed")
            if is_idle and not shelf.floor and not shelf.ready and not shelf.making:
                del self._shelves[shelf.template]
        self.refill()

    def forget_image(self, image_digest: str) -> None:
        """Give back every sandbox made from an image."""
        for template in [t for t in self._shelves if t.image_digest == image_digest]:
            shelf = self._shelves.pop(template)
            shelf.floor = shelf.target = 0
            self._empty(shelf, "image removed")

    def close(self) -> None:
        """Give everything back and keep nothing from now on."""
        self._is_open = False
        for shelf in self._shelves.values():
            shelf.target = 0
            self._empty(shelf, "shutting down")

    def stats(self) -> dict[str, PoolStats]:
        """Count by runtime; `busy` is not known here."""
        found: dict[str, PoolStats] = {}
        for shelf in self._shelves.values():
            name = shelf.template.runtime
            before = found.get(name, PoolStats())
            found[name] = PoolStats(
                ready=before.ready + len(shelf.ready), target=before.target + shelf.target
            )
        return found

    def templates(self) -> dict[Template, PoolStats]:
        """Count by template."""
        return {
            template: PoolStats(ready=len(shelf.ready), target=shelf.target)
            for template, shelf in self._shelves.items()
        }

    def _shelf(self, template: Template, root: RootFilesystem) -> _Shelf:
        shelf = self._shelves.get(template)
        if shelf is None:
            now_ns = self._clock.monotonic_ns()
            shelf = _Shelf(template, root, floor=0, asked_ns=now_ns, decayed_ns=now_ns)
            self._shelves[template] = shelf
        return shelf

    def _decay(self, shelf: _Shelf) -> None:
        now_ns = self._clock.monotonic_ns()
        seconds = (now_ns - shelf.decayed_ns) / 1e9
        shelf.decayed_ns = now_ns
        shelf.demand *= 0.5 ** (seconds / HALF_LIFE_SECONDS)

    def _aim(self, shelf: _Shelf) -> None:
        rate = shelf.demand * math.log(2) / HALF_LIFE_SECONDS
        wanted = math.ceil(rate * DEMAND_SECONDS)
        shelf.target = min(self._size_max, max(shelf.floor, wanted))

    def _pop_alive(self, shelf: _Shelf) -> GuardedSandbox | None:
        while shelf.ready:
            sandbox = shelf.ready.pop()
            if sandbox.is_alive:
                return sandbox
            self._destroy(sandbox, "found dead")
        return None

    def _drop_dead(self, shelf: _Shelf) -> None:
        for sandbox in [s for s in shelf.ready if not s.is_alive]:
            shelf.ready.remove(sandbox)
            self._destroy(sandbox, "found dead")

    def _empty(self, shelf: _Shelf, reason: str) -> None:
        while shelf.ready:
            self._destroy(shelf.ready.popleft(), reason)

    def _size(self) -> int:
        return sum(len(shelf.ready) + shelf.making for shelf in self._shelves.values())

    def _neediest(self) -> _Shelf | None:
        now_ns = self._clock.monotonic_ns()
        short = [
            shelf
            for shelf in self._shelves.values()
            if len(shelf.ready) + shelf.making < shelf.target and shelf.retry_ns <= now_ns
        ]
        return max(short, key=lambda s: s.target - len(s.ready) - s.making, default=None)

    def _make_place(self, wanting: _Shelf) -> bool:
        if self._size() < self._size_max:
            return True
        others = [
            shelf
            for shelf in self._shelves.values()
            if shelf is not wanting
            and len(shelf.ready) > shelf.floor
            and shelf.asked_ns < wanting.asked_ns
        ]
        giving = min(others, key=lambda s: s.asked_ns, default=None)
        if giving is None:
            return False
        self._destroy(giving.ready.popleft(), "place needed")
        return True

    async def _fill(self, shelf: _Shelf) -> None:
        try:
            sandbox = await self._make(shelf.template, shelf.root)
        except FaasError:
            self._back_off(shelf)
        else:
            shelf.failures = 0
            if self._is_open and self._shelves.get(shelf.template) is shelf:
                shelf.ready.append(sandbox)
            else:
                self._destroy(sandbox, "not needed")
        finally:
            shelf.making -= 1
            self._making -= 1
        self.refill()

    def _back_off(self, shelf: _Shelf) -> None:
        first, longest = BACK_OFF_SECONDS
        pause = min(longest, first * 2**shelf.failures)
        shelf.failures = min(shelf.failures + 1, 16)
        shelf.retry_ns = self._clock.monotonic_ns() + int(pause * 1e9)
