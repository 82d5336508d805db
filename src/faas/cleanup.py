"""Teardown in reverse, shielded from cancellation, errors joined."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

Undo = Callable[[], Awaitable[None] | None]


class Cleanup:
    """A stack of undos. Push the undo the moment you acquire; they run once, backwards.

    Used as `async with Cleanup() as cleanup`, or `close()` by hand. Cancellation does not stop a
    teardown that has begun. Errors of undos are raised together once all have run.
    """

    def __init__(self) -> None:
        self._undos: list[Undo] = []

    def push(self, undo: Undo) -> None:
        """Remember how to undo what was just acquired."""
        self._undos.append(undo)

    def pop_all(self) -> "Cleanup":
        """Hand everything over to a new owner; nothing here runs any more."""
        taken = Cleanup()
        taken._undos, self._undos = self._undos, []
        return taken

    async def close(self) -> None:
        """Run every undo, last first.

        Raises:
            ExceptionGroup: what the undos raised.
        """
        await asyncio.shield(self._run())

    async def _run(self) -> None:
        failures: list[Exception] = []
        while self._undos:
            try:
                pending = self._undos.pop()()
                if pending is not None:
                    await pending
            except Exception as failure:  # noqa: BLE001  every undo must run; all failures are raised below
                failures.append(failure)
        if failures:
            raise ExceptionGroup("teardown failed", failures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()
