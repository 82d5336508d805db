"""Whoever starts goes first: what is written behind the answers' backs lets them pass.

Making a sandbox takes a few milliseconds on several processes; hashing and compressing beside it
doubled that. So a writer that nobody waits for asks before each piece of its work, and is held up
while somebody starts, each time for a moment only: it comes to its end whatever starts meanwhile.
Such writers stand in line, so that one core at the most works for what nobody waits for.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

HELD_UP_SECONDS_MAX = 0.01
"""For each half MiB that is written. A child starts in less."""
HELD_UP_TIMES_MAX = 100
"""Then it goes on whatever starts: what is not written yet is lost when the gateway dies."""
_SETTLING_SECONDS = 0.005
"""From the sandbox to the answer: the command begins, ends and is reported."""


class HeadStart:
    """Knows whether somebody starts just now."""

    def __init__(self) -> None:
        self._line = asyncio.Lock()
        self._starting = 0
        self._is_quiet = threading.Event()
        self._is_quiet.set()

    @contextmanager
    def taken(self) -> Generator[None]:
        """Start something meanwhile. On the loop only."""
        self._starting += 1
        self._is_quiet.clear()
        try:
            yield
        finally:
            asyncio.get_running_loop().call_later(_SETTLING_SECONDS, self._leave)

    def pace_of(self, is_wanted: Callable[[], bool]) -> Callable[[], bool]:
        """Make what a writer asks in its own thread before each piece; it says whether somebody
        waits for what is written, and holds the writer up while nobody does and somebody starts."""
        times = 0

        def pace() -> bool:
            nonlocal times
            if times < HELD_UP_TIMES_MAX and not is_wanted():
                times += not self._is_quiet.wait(HELD_UP_SECONDS_MAX)
            return is_wanted()

        return pace

    @asynccontextmanager
    async def in_line(self, is_wanted: asyncio.Event) -> AsyncGenerator[None]:
        """Wait until no other writes, or until somebody waits for what is to be written."""
        turn = asyncio.ensure_future(self._line.acquire())
        hurry = asyncio.ensure_future(is_wanted.wait())
        try:
            await asyncio.wait({turn, hurry}, return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            hurry.cancel()
            if not turn.cancel():  # it was had
                self._line.release()

    def _leave(self) -> None:
        self._starting -= 1
        if not self._starting:
            self._is_quiet.set()
