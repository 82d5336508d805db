"""One piece of work that several callers wait for, each hearing how far it is.

It is begun by the first and cancelled when the last of them goes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from faas.model import PullStep
from faas.sandbox.image_keeper import Told

T = TypeVar("T")


class Flights(Generic[T]):
    """What is under way, by key."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def join(self, key: Hashable, begin: Callable[[Told], Awaitable[T]], told: Told) -> T:
        """Wait for the work of that key, beginning it when nobody has."""
        flight = self._flights.get(key)
        if flight is None or flight.is_given_up:
            flight = self._flights[key] = _Flight(begin)
        try:
            return await flight.join(told)
        finally:
            if flight.task.done() and self._flights.get(key) is flight:
                del self._flights[key]


class _Flight(Generic[T]):
    def __init__(self, begin: Callable[[Told], Awaitable[T]]) -> None:
        self._listeners: list[Told] = []
        self.is_given_up = False
        self.task: asyncio.Future[T] = asyncio.ensure_future(begin(self._tell))

    def _tell(self, step: PullStep) -> None:
        for listener in self._listeners:
            listener(step)

    async def join(self, told: Told) -> T:
        self._listeners.append(told)
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if len(self._listeners) == 1 and not self.task.done():
                self.is_given_up = True
                self.task.cancel()
                await asyncio.gather(self.task, return_exceptions=True)
            raise
        finally:
            self._listeners.remove(told)
