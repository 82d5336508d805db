"""Holds tasks that nobody awaits, so that none is lost and all can be ended."""

import asyncio
from collections.abc import Coroutine


class Background:
    """A bag of tasks. What they raise is theirs to handle; `aclose` cancels the rest and waits."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start a task and hold it until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def join(self) -> None:
        """Wait until no task is left, whoever started it meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        """Cancel every task and wait for its teardown."""
        for task in self._tasks:
            task.cancel()
        await self.join()
