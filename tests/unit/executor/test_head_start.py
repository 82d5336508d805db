"""Who writes behind the answers' backs lets those pass who start, and comes to its end."""

import asyncio

import pytest

from faas.executor import head_start
from faas.executor.head_start import HELD_UP_TIMES_MAX, HeadStart


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sleeps in unit tests."""
    monkeypatch.setattr(head_start, "HELD_UP_SECONDS_MAX", 0)
    monkeypatch.setattr(head_start, "_SETTLING_SECONDS", 0)


class Waits:
    """Stands for the event, and counts who waits for it."""

    def __init__(self) -> None:
        self.count = 0

    def wait(self, seconds: float) -> bool:
        del seconds
        self.count += 1
        return False

    def set(self) -> None: ...

    def clear(self) -> None: ...


async def test_a_writer_is_held_up_while_somebody_starts() -> None:
    start = HeadStart()
    assert start._is_quiet.is_set()
    with start.taken(), start.taken():
        assert not start._is_quiet.is_set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert start._is_quiet.is_set()


async def test_whatever_starts_a_writer_goes_on() -> None:
    start, waits = HeadStart(), Waits()
    start._is_quiet = waits  # type: ignore[assignment]
    pace = start.pace_of(lambda: False)
    assert not any(pace() for _ in range(3 * HELD_UP_TIMES_MAX))
    assert waits.count == HELD_UP_TIMES_MAX


async def test_what_somebody_waits_for_is_not_held_up() -> None:
    start, waits = HeadStart(), Waits()
    start._is_quiet = waits  # type: ignore[assignment]
    assert start.pace_of(lambda: True)()
    assert waits.count == 0


async def test_writers_stand_in_line_but_for_the_one_somebody_waits_for() -> None:
    start, order = HeadStart(), list[str]()
    may_end, hurried, never = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def write(name: str, is_wanted: asyncio.Event) -> None:
        async with start.in_line(is_wanted):
            order.append(name)
            await may_end.wait()

    writers = [
        asyncio.create_task(write(name, wanted))
        for name, wanted in (("first", never), ("second", never), ("wanted", hurried))
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == ["first"]
    hurried.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == ["first", "wanted"]
    may_end.set()
    await asyncio.gather(*writers)
    assert order == ["first", "wanted", "second"]


async def test_who_gives_up_in_line_holds_up_nobody() -> None:
    start, never = HeadStart(), asyncio.Event()

    async def write() -> None:
        async with start.in_line(never):
            await asyncio.sleep(0)

    async with start.in_line(never):
        waiting = asyncio.create_task(write())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    await asyncio.wait_for(write(), 5)
