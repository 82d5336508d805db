"""Filled ahead, handed out once, given back by the rule."""

import asyncio
from dataclasses import dataclass, field

import pytest

from faas.clock import FakeClock
from faas.errors import SandboxBrokenError
from faas.executor.background import Background
from faas.executor.pool_shelf import Template
from faas.executor.warm_pool import REFILL_CONCURRENCY, MemoryBounds, WarmPool
from faas.model import NetworkMode
from faas.sandbox.protocols import RootFilesystem

ROOT = RootFilesystem(digest="host", path=None)


def template(digest: str = "host", runtime: str = "fake") -> Template:
    return Template(runtime, digest, NetworkMode.NONE, 1)


def weigh(template: Template) -> int:
    return 10 if template.runtime == "heavy" else 1


@dataclass(eq=False)
class Box:
    template: Template
    is_alive: bool = True


@dataclass
class Shop:
    """A pool, and everything that was made for it and destroyed by it."""

    size_max: int = 8
    clock: FakeClock = field(default_factory=FakeClock)
    background: Background = field(default_factory=Background)
    made: list[Box] = field(default_factory=list)
    destroyed: list[tuple[Box, str]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    at_once: int = 0
    at_once_max: int = 0
    fails: bool = False
    tries: int = 0
    make_seconds: float = 0.0
    bytes_max: int | None = None
    is_short: bool = False

    def __post_init__(self) -> None:
        self.pool = WarmPool(
            size_max=self.size_max,
            idle_seconds=60,
            make=self.make,
            destroy=lambda box, reason: self.destroyed.append((box, reason)),
            clock=self.clock,
            background=self.background,
            memory=MemoryBounds(self.bytes_max, weigh, lambda: self.is_short),
        )

    async def make(self, template: Template, root: RootFilesystem) -> Box:
        self.tries += 1
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.make_seconds:
                await self.clock.sleep(self.make_seconds)
            if self.fails:
                raise SandboxBrokenError
            self.made.append(Box(template))
            return self.made[-1]
        finally:
            self.at_once -= 1

    def ready(self, digest: str = "host") -> int:
        stats = self.pool.templates().get(template(digest))
        return 0 if stats is None else stats.ready

    async def tick(self, seconds: float = 1.0) -> None:
        await self.clock.advance(seconds)
        self.pool.tick()
        await settle()


async def settle() -> None:
    for _ in range(40):
        await asyncio.sleep(0)


@pytest.fixture
async def shop():
    opened = Shop()
    yield opened
    await opened.background.aclose()


async def test_the_floor_is_filled_from_the_start(shop):
    shop.pool.keep(template(), ROOT, floor=3)
    await settle()
    assert shop.ready() == 3


async def test_what_is_taken_is_handed_out_once_and_replaced(shop):
    shop.pool.keep(template(), ROOT, floor=3)
    await settle()
    taken = []
    for _ in range(20):
        taken.append(shop.pool.take(template(), ROOT))
        shop.pool.refill()
        await settle()
    assert None not in taken
    assert len(set(map(id, taken))) == 20
    assert shop.ready() == 3


async def test_replacing_waits_for_the_end_of_the_execution_while_half_is_left(shop):
    shop.pool.keep(template(), ROOT, floor=4)
    await settle()
    shop.pool.take(template(), ROOT)
    shop.pool.take(template(), ROOT)
    await settle()
    assert shop.ready() == 2
    shop.pool.take(template(), ROOT)
    await settle()
    assert shop.ready() == 4


async def test_an_empty_pool_says_none_at_once(shop):
    shop.gate = asyncio.Event()
    shop.pool.keep(template(), ROOT, floor=3)
    assert shop.pool.take(template(), ROOT) is None


async def test_refilling_is_bounded_at_once(shop):
    shop.gate = asyncio.Event()
    shop.pool.keep(template(), ROOT, floor=6)
    await settle()
    shop.gate.set()
    await settle()
    assert shop.ready() == 6
    assert shop.at_once_max == REFILL_CONCURRENCY


async def test_an_image_that_was_asked_for_is_kept_ready_a_while(shop):
    assert shop.pool.take(template("other"), ROOT) is None
    await settle()
    assert shop.ready("other") == 1
    await shop.tick(30)
    assert shop.ready("other") == 1
    await shop.tick(31)
    assert shop.ready("other") == 0
    await shop.tick()
    assert template("other") not in shop.pool.templates()


async def test_more_demand_keeps_more_ready(shop):
    for _ in range(300):
        shop.pool.take(template(), ROOT)
        shop.pool.refill()
        await shop.clock.advance(0.01)
        await settle()
    busy = shop.ready()
    assert busy >= 3
    await shop.tick(59)
    assert shop.ready() == 1
    assert busy - 1 == sum(reason == "not needed" for _, reason in shop.destroyed)


async def test_the_pool_never_holds_more_than_its_maximum(shop):
    shop.pool.keep(template(), ROOT, floor=100)
    for digest in "abcdef":
        shop.pool.take(template(digest), ROOT)
    await settle()
    assert sum(stats.ready for stats in shop.pool.templates().values()) <= 8


async def test_a_busy_template_takes_the_place_of_the_one_least_recently_asked_for(shop):
    for digest in "abcdefgh":
        shop.pool.take(template(digest), ROOT)
        await shop.clock.advance(0.1)
        await settle()
    assert [shop.ready(d) for d in "abcdefgh"] == [1] * 8
    shop.pool.take(template("new"), ROOT)
    await settle()
    assert shop.ready("new") == 1
    assert shop.ready("a") == 0
    assert [(box.template.image_digest, why) for box, why in shop.destroyed] == [
        ("a", "place needed")
    ]


async def test_the_dead_are_noticed_and_replaced(shop):
    shop.pool.keep(template(), ROOT, floor=3)
    await settle()
    shop.made[0].is_alive = False
    await shop.tick()
    assert shop.destroyed == [(shop.made[0], "found dead")]
    assert shop.ready() == 3


async def test_the_dead_are_never_handed_out(shop):
    shop.pool.keep(template(), ROOT, floor=3)
    await settle()
    for box in shop.made:
        box.is_alive = False
    assert shop.pool.take(template(), ROOT) is None
    assert len(shop.destroyed) == 3


async def test_a_template_that_cannot_be_made_is_tried_less_and_less(shop):
    shop.fails = True
    shop.pool.keep(template(), ROOT, floor=1)
    await settle()
    for _ in range(60):
        await shop.tick(1)
    assert 4 <= shop.tries <= 10
    shop.fails = False
    await shop.tick(31)
    assert shop.ready() == 1


async def test_an_image_that_is_removed_gives_its_sandboxes_back(shop):
    shop.pool.keep(template(), ROOT, floor=2)
    await settle()
    shop.pool.forget_image("host")
    assert [why for _, why in shop.destroyed] == ["image removed"] * 2
    await shop.tick()
    assert shop.ready() == 0


async def test_a_closed_pool_gives_everything_back_even_what_is_being_made(shop):
    shop.gate = asyncio.Event()
    shop.pool.keep(template(), ROOT, floor=2)
    await settle()
    shop.pool.close()
    shop.gate.set()
    await settle()
    assert shop.ready() == 0
    assert len(shop.destroyed) == len(shop.made) == 2


async def test_memory_bounds_what_is_kept_ready():
    shop = Shop(size_max=100, bytes_max=25)
    shop.pool.keep(template("big", "heavy"), ROOT, floor=5)
    await settle()
    assert shop.pool.templates()[template("big", "heavy")].ready == 2
    shop.pool.keep(template(), ROOT, floor=20)
    await settle()
    assert shop.ready() == 5
    assert shop.pool.templates()[template("big", "heavy")].why == (
        "there is no room: the pools are full"
    )
    await shop.background.aclose()


async def test_a_machine_short_of_memory_makes_nothing_and_gives_back_what_was_least_used(shop):
    shop.pool.keep(template("old"), ROOT, floor=4)
    await settle()
    await shop.clock.advance(1)
    shop.pool.keep(template("new"), ROOT, floor=4)
    await settle()
    shop.is_short = True
    await shop.tick()
    assert (shop.ready("old"), shop.ready("new")) == (2, 4)
    await shop.tick()
    await shop.tick()
    assert shop.ready("old") == 0
    assert "short of memory" in shop.pool.templates()[template("old")].why
    assert shop.pool.take(template("new"), ROOT) is not None
    made = len(shop.made)
    shop.is_short = False
    await shop.tick()
    assert len(shop.made) > made
    assert (shop.ready("old"), shop.ready("new")) == (4, 4)


async def test_a_runtime_that_hangs_does_not_hold_up_the_others(shop):
    shop.gate = asyncio.Event()
    shop.pool.keep(template("a", "hanging"), ROOT, floor=4)
    await settle()
    gate, shop.gate = shop.gate, None
    shop.pool.keep(template(), ROOT, floor=3)
    await settle()
    assert shop.ready() == 3
    gate.set()


async def test_what_is_slow_to_make_is_held_in_larger_numbers_and_for_longer(shop):
    shop.make_seconds = 0.5
    for _ in range(100):
        shop.pool.take(template(), ROOT)
        await shop.clock.advance(0.1)
        await settle()
    assert shop.pool.templates()[template()].target == 8
    await shop.tick(300)
    await shop.tick(1)
    assert shop.ready() == 1, "kept for 2000 times what making one takes"
    await shop.tick(3600)
    assert shop.ready() == 0


async def test_what_is_kept_takes_the_place_of_what_was_only_asked_for(shop):
    for digest in "abcdefgh":
        shop.pool.take(template(digest), ROOT)
        await settle()
    await shop.clock.advance(1)
    shop.pool.reserve(template("mine"), ROOT, 3, "mine")
    for digest in "abcdefgh":
        shop.pool.take(template(digest), ROOT)
    await settle()
    assert shop.ready("mine") == 3
    assert sum(stats.ready for stats in shop.pool.templates().values()) <= 8


async def test_every_shelf_says_why(shop):
    shop.pool.keep(template(), ROOT, floor=1)
    shop.pool.reserve(template("warm"), ROOT, 2, "warm:latest")
    shop.pool.take(template("used"), ROOT, "used")
    await settle()
    said = {t.image_digest: stats.why for t, stats in shop.pool.templates().items()}
    assert said == {
        "host": "1 of the default image kept from the start",
        "warm": "2 pre-warmed",
        "used": "asked for 0 s ago",
    }
    shop.fails = True
    shop.pool.keep(template("broken"), ROOT, floor=1)
    await settle()
    assert "cannot be made, tried again in" in shop.pool.templates()[template("broken")].why
