"""The only source of time: a clock that can be faked, and deadlines made from it."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Tells the time and sleeps. Monotonic for spans, wall for records."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some fixed moment; never goes back."""
        ...

    def now(self) -> datetime:
        """Wall time, UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long on this clock."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Await `work` for at most that long; `asyncio.timeout` at a third of its cost.

    Raises:
        TimeoutError: it took longer, and was cancelled.
    """
    task = asyncio.current_task()
    assert task is not None, "only tasks wait"  # noqa: S101  an invariant
    is_expired = False

    def expire() -> None:
        nonlocal is_expired
        is_expired = True
        task.cancel()

    before = task.cancelling()
    timer = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        return await work
    except asyncio.CancelledError:
        if is_expired and task.uncancel() <= before:
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()


def expire_later(
    answer: "asyncio.Future[Any]", seconds: float, loop: asyncio.AbstractEventLoop
) -> asyncio.TimerHandle:
    """Let a future fail with TimeoutError unless it is done by then; cancel the timer then."""
    return loop.call_later(seconds, _expire, answer)


def _expire(answer: "asyncio.Future[Any]") -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


class FakeClock:
    """A clock that moves only when told to; sleepers wake in order."""

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._elapsed_ns = 0
        self._sleepers: list[tuple[int, asyncio.Event]] = []

    def monotonic_ns(self) -> int:
        return self._elapsed_ns

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._start.timestamp() + self._elapsed_ns / 1e9, UTC)

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self._elapsed_ns + int(seconds * 1e9), woken))
        await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Move time on and let everybody whose time has come run."""
        self._elapsed_ns += int(seconds * 1e9)
        due = sorted((s for s in self._sleepers if s[0] <= self._elapsed_ns), key=lambda s: s[0])
        self._sleepers = [s for s in self._sleepers if s[0] > self._elapsed_ns]
        for _, woken in due:
            woken.set()
        for _ in range(3):
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which something must end; None means never."""

    at_ns: int | None

    @classmethod
    def after(cls, clock: Clock, seconds: float | None) -> "Deadline":
        """Make the deadline that many seconds from now."""
        return cls(None if seconds is None else clock.monotonic_ns() + int(seconds * 1e9))

    def remaining_seconds(self, clock: Clock) -> float | None:
        """Seconds left, never below zero; None when there is no deadline."""
        return None if self.at_ns is None else max(0.0, (self.at_ns - clock.monotonic_ns()) / 1e9)
