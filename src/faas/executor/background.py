"""Holds tasks that nobody awaits, so that none is lost and all can be ended."""

import asyncio
from collections.abc import Coroutine


class Background:
    """A bag of tasks. What they raise is theirs to handle; `aclose` cancels the rest and waits."""

    def __init__(self) -> None:
        # A dict for its order: tasks are ended in the order they began, in every run alike.
        self._tasks: dict[asyncio.Task[None], None] = {}

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start a task and hold it until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    async def join(self) -> None:
        """Wait until no task is left, whoever started it meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        """Cancel every task and wait for its teardown."""
        while self._tasks:
            # Again and again: a task that ends may have started another.
            for task in list(self._tasks):
                task.cancel()
            await asyncio.wait(self._tasks)
