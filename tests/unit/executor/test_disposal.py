"""Used sandboxes end, a few at a time, whatever goes wrong."""

import asyncio

from faas.clock import FakeClock
from faas.executor.background import Background
from faas.executor.disposal import ATTEMPTS, BACKLOG_MAX, CONCURRENCY, Disposal


class Box:
    def __init__(self, *, failures: int = 0, gate: asyncio.Event | None = None) -> None:
        self.id = "sbx"
        self.failures = failures
        self.gate = gate
        self.tries = 0
        self.is_gone = False

    async def destroy(self, reason: str) -> None:
        self.tries += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.tries <= self.failures:
            raise OSError(16, "busy")
        self.is_gone = True


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_few_are_destroyed_at_once_and_in_the_end_all():
    background = Background()
    disposal = Disposal(clock=FakeClock(), background=background)
    gate = asyncio.Event()
    boxes = [Box(gate=gate) for _ in range(10)]
    for box in boxes:
        disposal.take(box, "done")
    await settle()
    assert sum(box.tries for box in boxes) == CONCURRENCY
    assert disposal.backlog == 10
    gate.set()
    await background.join()
    assert all(box.is_gone for box in boxes)
    assert disposal.backlog == 0


async def test_one_that_is_busy_is_tried_again_and_then_given_up():
    background, clock = Background(), FakeClock()
    disposal = Disposal(clock=clock, background=background)
    stubborn, slow = Box(failures=99), Box(failures=1)
    disposal.take(stubborn, "done")
    disposal.take(slow, "done")
    for _ in range(10):
        await settle()
        await clock.advance(1)
    await background.join()
    assert slow.is_gone
    assert stubborn.tries == ATTEMPTS


async def test_a_long_backlog_holds_up_those_who_add_to_it():
    background = Background()
    disposal = Disposal(clock=FakeClock(), background=background)
    gate = asyncio.Event()
    for _ in range(CONCURRENCY):
        disposal.take(Box(gate=gate), "done")
    await settle()
    for _ in range(BACKLOG_MAX):
        disposal.take(Box(), "done")
    waiting = asyncio.ensure_future(disposal.wait_for_room())
    await settle()
    assert not waiting.done()
    gate.set()
    await waiting
    await background.join()
