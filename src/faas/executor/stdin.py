"""Feeds a running command's stdin, in order, at the speed it reads."""

import asyncio

from faas.clock import Clock
from faas.errors import WrongStateError
from faas.executor.active import Active

FULL_SECONDS = 0.02
"""Pause before what a full pipe refused is sent again."""


async def feed(
    active: Active, data: bytes, *, offset: int | None, is_last: bool, clock: Clock
) -> int:
    """Deliver all of `data` and return the offset after it; None goes on after the last.

    Raises:
        WrongStateError: the command takes no input, or no more.
    """
    if not active.entry.spec.stdin_open:
        raise WrongStateError(
            "the execution takes no input", hint="ask for it with stdin_open when it is started"
        )
    while active.process is None:
        if active.is_over:
            raise WrongStateError("the execution has ended")
        await active.change()
    process = active.process
    if active.stdin_turn is None:
        active.stdin_turn = asyncio.Lock()
    async with active.stdin_turn:
        if offset is None:
            # One that goes on from memory, or outlived a gateway, has taken some from others.
            known = active.stdin_taken
            offset = known or await process.write_stdin(b"", offset=0)
        end = offset + len(data)
        taken = offset
        while True:
            before = taken
            rest = data[max(0, taken - offset) :]
            taken = await process.write_stdin(rest, offset=taken, is_last=is_last)
            active.stdin_taken = max(active.stdin_taken, taken)
            if taken >= end:
                return taken
            if taken <= before:
                await clock.sleep(FULL_SECONDS)
