"""Destroys used sandboxes behind the back of those who wait for results.

At most `CONCURRENCY` at once, each tried `ATTEMPTS` times in bounded time. The backlog is bounded
by `wait_for_room`, which a run passes before it gives its ticket back: when destroying cannot keep
up, admission slows down instead of sandboxes piling up. What could not be destroyed is left to the
runtime's `reclaim` at the next start.
"""

import asyncio
import logging
from collections import deque

from faas.clock import Clock, within
from faas.executor.background import Background
from faas.sandbox.guarded import GuardedSandbox

CONCURRENCY = 4
"""Destroying waits for the kernel more than it computes; four keep two cores busy."""

BACKLOG_MAX = 64

ATTEMPTS = 3

ATTEMPT_SECONDS_MAX = 15.0
"""Removing a control group may be refused for a while after its processes died."""

_log = logging.getLogger(__name__)


class Disposal:
    """Takes sandboxes and makes sure they end."""

    def __init__(self, *, clock: Clock, background: Background) -> None:
        self._clock = clock
        self._background = background
        self._waiting: deque[tuple[GuardedSandbox, str]] = deque()
        self._workers = 0
        self._is_frozen = False
        self._room: list[asyncio.Future[None]] = []

    @property
    def backlog(self) -> int:
        """How many wait or are being destroyed."""
        return len(self._waiting) + self._workers

    def take(self, sandbox: GuardedSandbox, reason: str) -> None:
        """Destroy it soon."""
        if self._is_frozen:
            return
        self._waiting.append((sandbox, reason))
        if self._workers < CONCURRENCY:
            self._workers += 1
            self._background.spawn(self._work())

    def freeze(self) -> None:
        """Destroy nothing any more; for tests of a crash."""
        self._is_frozen = True
        self._waiting.clear()

    async def wait_for_room(self) -> None:
        """Return when the backlog is short enough to go on."""
        while len(self._waiting) >= BACKLOG_MAX:
            room = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await room

    async def _work(self) -> None:
        try:
            while self._waiting:
                sandbox, reason = self._waiting.popleft()
                await self._destroy(sandbox, reason)
                if self._room:
                    room = self._room.pop()
                    if not room.done():
                        room.set_result(None)
        finally:
            self._workers -= 1

    async def _destroy(self, sandbox: GuardedSandbox, reason: str) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await within(ATTEMPT_SECONDS_MAX, sandbox.destroy(reason))
            except Exception:  # noqa: BLE001  whatever it is, the next sandbox must be destroyed too
                _log.exception(
                    "a sandbox could not be destroyed",
                    extra={"sandbox_id": sandbox.id, "attempt": attempt},
                )
            else:
                return
            await self._clock.sleep(0.1 * attempt)
