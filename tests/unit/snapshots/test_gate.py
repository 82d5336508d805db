"""Writers go together, what clears away goes alone, and nobody is passed over."""

import asyncio
from contextlib import AbstractAsyncContextManager

from faas.snapshots.gate import Gate


class Visit:
    """Goes in, and stays until it is told to leave."""

    def __init__(self, door: AbstractAsyncContextManager[None]) -> None:
        self.is_in, self._may_leave = False, asyncio.Event()
        self.task = asyncio.create_task(self._stay(door))

    async def _stay(self, door: AbstractAsyncContextManager[None]) -> None:
        async with door:
            self.is_in = True
            await self._may_leave.wait()
        self.is_in = False

    async def leave(self) -> None:
        self._may_leave.set()
        await self.task


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_writers_are_in_together_but_not_too_many() -> None:
    gate = Gate(2)
    writers = [Visit(gate.writing()) for _ in range(3)]
    await settle()
    assert [w.is_in for w in writers] == [True, True, False]
    await writers[0].leave()
    await settle()
    assert [w.is_in for w in writers] == [False, True, True]
    for writer in writers[1:]:
        await writer.leave()


async def test_alone_is_alone_and_later_writers_wait_for_it() -> None:
    gate = Gate()
    writer, clearing = Visit(gate.writing()), Visit(gate.alone())
    await settle()
    late = Visit(gate.writing())
    await settle()
    assert (writer.is_in, clearing.is_in, late.is_in) == (True, False, False)
    await writer.leave()
    await settle()
    assert (clearing.is_in, late.is_in) == (True, False)
    await clearing.leave()
    await settle()
    assert late.is_in
    await late.leave()


async def test_who_gives_up_waiting_leaves_the_gate_open() -> None:
    gate = Gate(1)
    writer = Visit(gate.writing())
    await settle()
    waiting = [Visit(gate.alone()), Visit(gate.writing())]
    await settle()
    for visit in waiting:
        visit.task.cancel()
    await asyncio.gather(*(visit.task for visit in waiting), return_exceptions=True)
    await writer.leave()
    last = Visit(gate.writing())
    await settle()
    assert last.is_in
    await last.leave()
