"""Who may change the store at once: a few writers together, or one that clears away, alone.

What clears away looks at all that is named and deletes the rest. A writer names packs that it found
or stored a while ago, so the two never overlap; writers do not disturb one another.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

WRITERS_MAX = 3
"""Each holds some 30 MB of what it reads and stores; more than three do not make two cores busier,
and a small snapshot need not wait for two large ones."""


class Gate:
    """First come, first served: nobody is passed over for ever."""

    def __init__(self, writers_max: int = WRITERS_MAX) -> None:
        self._slots = asyncio.Semaphore(writers_max)
        self._turn = asyncio.Lock()
        self._writers = 0
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[None]:
        """Be one of the writers. Never from within another: a turn alone would wait between."""
        async with self._slots:
            async with self._turn:
                self._writers += 1
                self._is_empty.clear()
            try:
                yield
            finally:
                self._writers -= 1
                if not self._writers:
                    self._is_empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Wait for the writers to end, and be alone."""
        async with self._turn:
            await self._is_empty.wait()
            yield
