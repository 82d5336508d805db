"""Ready sandboxes, kept by template, each handed out once.

A template is what cannot be changed in a sandbox once it is made: runtime, image, network, disk,
way of isolating. `docs/explanation/warm-pools.md` is this rule for users.

How many are kept of a template: what is kept from the start (`pool_size` of the default image) and
what was pre-warmed, or what its recent demand would take in `DEMAND_SECONDS` (or in five times what
making one takes), rounded up, whichever is more. All together never more than `pool_max`, nor more
than fit into `pool_memory_bytes`. Demand is forgotten with a half-life of `HALF_LIFE_SECONDS`, and
wholly when nobody asked in `idle_seconds` (or 2000 times what making one takes).

Who goes: a template above its target gives its oldest back; when a busy template needs a place and
there is none, the one asked for least recently gives up its oldest, down to what is kept of it.
While the machine is short of memory nothing is made, and a quarter of what is ready goes every
second.

`take` never waits: an empty pool says None and the caller makes a sandbox on demand. What was taken
is replaced when its execution has ended, so that making it does not slow the command, or at once
when less than half is left. Refilling runs `REFILL_CONCURRENCY` at a time for each runtime, backs
off when a template cannot be made, and drops what died.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from faas.clock import Clock
from faas.errors import FaasError, ImageNotFoundError, InternalError, UnavailableError
from faas.executor.background import Background
from faas.executor.pool_shelf import Shelf, Template
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import RootFilesystem

REFILL_CONCURRENCY = 2
"""As many as a small machine has cores: more only slows the commands that run."""

BACK_OFF_SECONDS = (0.5, 30.0)
"""First and longest pause after a template could not be made."""

FAILURES_TOLD = 3
"""After so many in a row whoever waits for it is told; one may be chance."""

MakeSandbox = Callable[[Template, RootFilesystem], Awaitable[GuardedSandbox]]
DestroySandbox = Callable[[GuardedSandbox, str], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool of one runtime, or of one template."""

    ready: int = 0
    busy: int = 0
    target: int = 0
    making: int = 0
    kept: int = 0
    image: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class MemoryBounds:
    """What ready sandboxes may hold of the machine's memory."""

    bytes_max: int | None = None
    weigh: Callable[[Template], int] = lambda _: 0
    """About what one ready sandbox of a template holds."""
    is_short: Callable[[], bool] = lambda: False
    """Whether the machine has little memory left for anybody; asked once a tick."""


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
        memory: MemoryBounds | None = None,
    ) -> None:
        self.size_max = size_max
        self.memory = memory or MemoryBounds()
        self._idle_seconds = idle_seconds
        self._make = make
        self._destroy = destroy
        self._clock = clock
        self._background = background
        self._shelves: dict[Template, Shelf] = {}
        self._making: dict[str, int] = {}
        self._is_short = False
        self._is_open = True

    def keep(
        self, template: Template, root: RootFilesystem, *, floor: int, image: str = ""
    ) -> None:
        """Keep at least that many of a template from now on."""
        shelf = self._shelf(template, root, image)
        shelf.floor = min(floor, self.size_max)
        shelf.aim(self.size_max)
        self.refill()

    def reserve(self, template: Template, root: RootFilesystem, count: int, image: str) -> None:
        """Keep that many more than the floor, until told otherwise; somebody pre-warmed them."""
        shelf = self._shelf(template, root, image)
        shelf.reserved = count
        shelf.asked_ns = self._clock.monotonic_ns()
        shelf.aim(self.size_max)
        self.refill()

    def unreserve(self, template: Template, count: int) -> None:
        """Keep only that many for those who pre-warmed; the next tick takes what is too much."""
        shelf = self._shelves.get(template)
        if shelf is not None:
            shelf.reserved = count
            shelf.aim(self.size_max)

    def has_room(self, template: Template, more: int) -> bool:
        """Whether that many more can be kept besides all that is kept already."""
        kept, kept_bytes = self._kept()
        if kept + more > self.size_max:
            return False
        bytes_max = self.memory.bytes_max
        return bytes_max is None or kept_bytes + more * self.memory.weigh(template) <= bytes_max

    def room(self) -> dict[str, object]:
        """Say what is kept and what may be, for whoever finds no room."""
        kept, kept_bytes = self._kept()
        return {
            "kept": kept,
            "kept_max": self.size_max,
            "kept_bytes": kept_bytes,
            "kept_bytes_max": self.memory.bytes_max,
        }

    def _kept(self) -> tuple[int, int]:
        shelves = self._shelves.values()
        weight = sum(shelf.kept * self.memory.weigh(shelf.template) for shelf in shelves)
        return sum(shelf.kept for shelf in shelves), weight

    def expect(self, template: Template, root: RootFilesystem, image: str) -> None:
        """Count a demand without taking: it was used before a restart."""
        shelf = self._shelf(template, root, image)
        shelf.demand += 1.0
        shelf.aim(self.size_max)
        self.refill()

    async def until_ready(self, template: Template) -> None:
        """Return when all that is kept of a template was ready at once.

        Raises:
            FaasError: it cannot be made, or the pool closes.
        """
        shelf = self._shelves.get(template)
        if shelf is None or not self._is_open:
            raise UnavailableError("the warm pools are shutting down", retry_after_seconds=1.0)
        if len(shelf.ready) < shelf.kept:
            waiter = asyncio.get_running_loop().create_future()
            shelf.waiters.append((shelf.kept, waiter))
            await waiter

    def take(
        self, template: Template, root: RootFilesystem, image: str = ""
    ) -> GuardedSandbox | None:
        """Hand out a ready sandbox, or None; either way the demand is noted."""
        shelf = self._shelf(template, root, image)
        now_ns = self._clock.monotonic_ns()
        shelf.decay(now_ns)
        shelf.demand += 1.0
        shelf.asked_ns = now_ns
        taken = self._pop_alive(shelf)
        shelf.aim(self.size_max)
        if 2 * len(shelf.ready) < shelf.target or taken is None:
            self.refill()
        return taken

    def has_ready(self, template: Template) -> bool:
        """Whether `take` would hand one out; asking is no demand."""
        shelf = self._shelves.get(template)
        return shelf is not None and any(sandbox.is_alive for sandbox in shelf.ready)

    def refill(self) -> None:
        """Make what is missing, a few at a time. Called when an execution has ended."""
        while (shelf := self._next_to_make()) is not None:
            self._background.spawn(self._fill(shelf))

    def _next_to_make(self) -> Shelf | None:
        """Choose what one more is made of, and count it as being made; None: nothing is."""
        if not self._is_open or self._is_short:
            return None
        blocked: set[Template] = set()
        while (shelf := self._neediest(blocked)) is not None:
            if self._make_place(shelf):
                runtime = shelf.template.runtime
                shelf.making += 1
                self._making[runtime] = self._making.get(runtime, 0) + 1
                return shelf
            blocked.add(shelf.template)
        return None

    def tick(self) -> None:
        """Drop the dead, give back what is too much, fill up what is too little."""
        now_ns = self._clock.monotonic_ns()
        self._is_short = self.memory.is_short()
        if self._is_short:
            self._give_memory_back()
        for shelf in list(self._shelves.values()):
            self._drop_dead(shelf)
            shelf.decay(now_ns)
            is_idle = shelf.is_idle(now_ns, self._idle_seconds)
            if is_idle:
                shelf.demand = 0.0
            shelf.aim(self.size_max)
            while len(shelf.ready) > shelf.target:
                self._destroy(shelf.ready.popleft(), "not needed")
            if is_idle and not shelf.kept and not shelf.held:
                del self._shelves[shelf.template]
        self.refill()

    def forget_image(self, image_digest: str) -> None:
        """Give back every sandbox made from an image."""
        for template in [t for t in self._shelves if t.image_digest == image_digest]:
            shelf = self._shelves.pop(template)
            shelf.floor = shelf.reserved = shelf.target = 0
            shelf.tell_failed(ImageNotFoundError("the image was removed"))
            self._empty(shelf, "image removed")

    def close(self) -> None:
        """Give everything back and keep nothing from now on."""
        self._is_open = False
        for shelf in self._shelves.values():
            shelf.target = 0
            shelf.tell_failed(UnavailableError("the gateway is shutting down"))
            self._empty(shelf, "shutting down")

    def stats(self) -> dict[str, PoolStats]:
        """Count by runtime; `busy` is not known here."""
        found: dict[str, PoolStats] = {}
        for shelf in self._shelves.values():
            name = shelf.template.runtime
            before = found.get(name, PoolStats())
            found[name] = PoolStats(
                ready=before.ready + len(shelf.ready),
                target=before.target + shelf.target,
                making=before.making + shelf.making,
                kept=before.kept + shelf.kept,
            )
        return found

    def templates(self) -> dict[Template, PoolStats]:
        """Count by template, and say why it is so."""
        now_ns = self._clock.monotonic_ns()
        return {
            template: PoolStats(
                ready=len(shelf.ready),
                target=shelf.target,
                making=shelf.making,
                kept=shelf.kept,
                image=shelf.image,
                why=self._why(shelf, now_ns),
            )
            for template, shelf in self._shelves.items()
        }

    def recent(self) -> list[tuple[Template, str]]:
        """Name what was asked for lately, the latest first."""
        used = sorted(
            (shelf for shelf in self._shelves.values() if shelf.demand and shelf.image),
            key=lambda shelf: -shelf.asked_ns,
        )
        return [(shelf.template, shelf.image) for shelf in used]

    def _why(self, shelf: Shelf, now_ns: int) -> str:
        if self._is_short:
            return "the machine is short of memory: nothing is made"
        if shelf.held < shelf.target and shelf.failure is None and not shelf.making:
            return "there is no room: the pools are full"
        return shelf.why(now_ns)

    def _shelf(self, template: Template, root: RootFilesystem, image: str) -> Shelf:
        shelf = self._shelves.get(template)
        if shelf is None:
            now_ns = self._clock.monotonic_ns()
            shelf = Shelf(template, root, asked_ns=now_ns, decayed_ns=now_ns)
            self._shelves[template] = shelf
        if image:
            shelf.image = image
        return shelf

    def _pop_alive(self, shelf: Shelf) -> GuardedSandbox | None:
        while shelf.ready:
            sandbox = shelf.ready.pop()
            if sandbox.is_alive:
                return sandbox
            self._destroy(sandbox, "found dead")
        return None

    def _drop_dead(self, shelf: Shelf) -> None:
        for sandbox in [s for s in shelf.ready if not s.is_alive]:
            shelf.ready.remove(sandbox)
            self._destroy(sandbox, "found dead")

    def _empty(self, shelf: Shelf, reason: str) -> None:
        while shelf.ready:
            self._destroy(shelf.ready.popleft(), reason)

    def _neediest(self, blocked: set[Template]) -> Shelf | None:
        now_ns = self._clock.monotonic_ns()
        neediest, most = None, 0
        for shelf in self._shelves.values():
            missing = shelf.target - shelf.held
            if (
                missing > most
                and shelf.retry_ns <= now_ns
                and shelf.template not in blocked
                and self._making.get(shelf.template.runtime, 0) < REFILL_CONCURRENCY
            ):
                neediest, most = shelf, missing
        return neediest

    def _make_place(self, wanting: Shelf) -> bool:
        """Let others give theirs up until one more of this fits; False: nobody may."""
        others = sorted(
            (s for s in self._shelves.values() if s is not wanting), key=lambda s: s.asked_ns
        )
        while not self._fits(wanting):
            giving = next((s for s in others if _gives_up(s, wanting)), None)
            if giving is None:
                return False
            self._destroy(giving.ready.popleft(), "place needed")
        return True

    def _fits(self, wanting: Shelf) -> bool:
        shelves = self._shelves.values()
        if sum(shelf.held for shelf in shelves) >= self.size_max:
            return False
        if self.memory.bytes_max is None:
            return True
        weight = sum(shelf.held * self.memory.weigh(shelf.template) for shelf in shelves)
        return weight + self.memory.weigh(wanting.template) <= self.memory.bytes_max

    def _give_memory_back(self) -> None:
        """Let a quarter go, what was asked for least recently first."""
        going = -(-sum(len(shelf.ready) for shelf in self._shelves.values()) // 4)
        for sandbox in islice(_oldest(self._shelves.values()), going):
            self._destroy(sandbox, "memory is short")

    async def _fill(self, shelf: Shelf | None) -> None:
        while shelf is not None:
            await self._fill_one(shelf)
            shelf = self._next_to_make()

    async def _fill_one(self, shelf: Shelf) -> None:
        runtime, began_ns = shelf.template.runtime, self._clock.monotonic_ns()
        try:
            sandbox = await self._make(shelf.template, shelf.root)
        except FaasError as failure:
            self._back_off(shelf, failure)
        except Exception:  # noqa: BLE001  a bug in a runtime must not stop the filling of the others
            _log.exception("a sandbox could not be made", extra={"runtime": runtime})
            self._back_off(shelf, InternalError("making it failed by a bug"))
        else:
            shelf.learn((self._clock.monotonic_ns() - began_ns) / 1e9)
            if self._is_open and self._shelves.get(shelf.template) is shelf:
                shelf.ready.append(sandbox)
                shelf.tell_ready()
            else:
                self._destroy(sandbox, "not needed")
        finally:
            shelf.making -= 1
            self._making[runtime] -= 1

    def _back_off(self, shelf: Shelf, failure: FaasError) -> None:
        first, longest = BACK_OFF_SECONDS
        pause = min(longest, first * 2**shelf.failures)
        shelf.failures = min(shelf.failures + 1, 16)
        shelf.failure = failure
        shelf.retry_ns = self._clock.monotonic_ns() + int(pause * 1e9)
        if shelf.failures >= FAILURES_TOLD or not failure.retryable:
            shelf.tell_failed(failure)


def _gives_up(giving: Shelf, wanting: Shelf) -> bool:
    """Whether one may be taken from a shelf: it has more than is kept of it, and less right."""
    is_owed = wanting.held < wanting.kept
    return len(giving.ready) > giving.kept and (is_owed or giving.asked_ns < wanting.asked_ns)


def _oldest(shelves: Iterable[Shelf]) -> Iterable[GuardedSandbox]:
    for shelf in sorted(shelves, key=lambda s: s.asked_ns):
        while shelf.ready:
            yield shelf.ready.popleft()
