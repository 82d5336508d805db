"""Notices that a client went away while we work for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from faas.gateway.exchange import ClientGoneError

T = TypeVar("T")


class _Watch:
    """Cancels a task when its client disconnects."""

    __slots__ = ("is_gone", "receive", "task", "watcher")

    def __init__(self, receive: Receive, task: asyncio.Task[Any]) -> None:
        self.receive = receive
        self.task = task
        self.watcher: asyncio.Task[None] | None = None
        self.is_gone = False

    def begin(self) -> None:
        self.watcher = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self.task.cancel()

    async def end(self) -> None:
        if self.watcher is not None and not self.watcher.done():
            self.watcher.cancel()
            await asyncio.wait({self.watcher})


async def while_connected(
    work: Coroutine[Any, Any, T], receive: Receive, *, after_seconds: float
) -> T:
    """Await `work`; cancel it when the client goes away. Watching begins after that many seconds.

    Raises:
        ClientGoneError: the client went away, and the work was cancelled.
    """
    task = asyncio.current_task()
    assert task is not None, "a request is always served in a task"  # noqa: S101  an invariant
    watch = _Watch(receive, task)
    timer = asyncio.get_running_loop().call_later(after_seconds, watch.begin)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.is_gone and task.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        timer.cancel()
        if watch.watcher is not None:
            await watch.end()
