"""Reads assigned calls into the journal, in block order, and notices reorgs by hash.

The truth is what the node's logs say between the cursor and its head. A range is taken only when,
after it was read, the block at its end and the cursor before it are still on the node's fork.

A node that is behind the cursor and has nothing that speaks against it lags: it is waited for. When
it stays behind, the chain has become shorter.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from faas import logs
from faas.chain.journal import Block, CallKey, Journal
from faas.chain.ports import Chain
from faas.chain.rpc import RANGE_MAX, Head, NodeRefusedError
from faas.clock import Clock, SystemClock
from faas.errors import ChainUnavailableError

_GROWTH: Final = 8
"""A search that a node answered makes the next one larger by an eighth."""

_log = logs.bind(__name__)


class Feed:
    """The cursor's owner."""

    def __init__(
        self,
        chain: Chain,
        journal: Journal,
        *,
        first_block: int = 0,
        range_max: int = RANGE_MAX,
        on_dropped: Callable[[Iterable[CallKey]], None] | None = None,
        clock: Clock | None = None,
        lag_seconds: float = 0,
    ) -> None:
        self._chain = chain
        self._journal = journal
        self._first_block = first_block
        self._range_max = self._range = range_max
        self._on_dropped = on_dropped
        self._clock = clock or SystemClock()
        self._lag_seconds = lag_seconds
        self._behind_ns: int | None = None
        self.reorgs = 0
        self.lags = 0

    async def poll(self) -> Head:
        """Read up to the node's head, and return it: its block is the last that was taken.

        Raises:
            ChainUnavailableError: the node is behind what was read before.
        """
        head = await self._chain.head()
        cursor = self._journal.head()
        if cursor is not None and not await self._is_there(cursor):
            await self._refuse_lag(head, cursor)
            cursor = await self._go_back()
        self._behind_ns = None
        while (first := cursor.number + 1 if cursor else self._first_block) <= head.block.number:
            try:
                last = await self._read(first, head, cursor)
            except NodeRefusedError:
                # Nodes differ in how many blocks, and how many bytes of events, they tell at once.
                asked = min(self._range, head.block.number - first + 1)
                if asked == 1:
                    raise
                self._range = asked // 2
                continue
            if last is None:
                break
            cursor = last
            self._range = min(self._range_max, self._range + self._range // _GROWTH + 1)
        return head if cursor is None else replace(head, block=cursor)

    async def _read(self, first: int, head: Head, cursor: Block | None) -> Block | None:
        number = min(first + self._range - 1, head.block.number)
        last = head.block if number == head.block.number else await self._chain.block(number)
        if last is None:
            return None
        calls = await self._chain.assigned(first, number)
        for block in (last, cursor):
            if block is not None and not await self._is_there(block):
                return None
        self._journal.see(calls, head=last)
        return last

    async def _refuse_lag(self, head: Head, cursor: Block) -> None:
        # Asked for by number, and not by the head: behind a balancer that may be another node's.
        if await self._chain.block(cursor.number) is not None:
            return
        before = self._journal.block_at_most(min(head.block.number, cursor.number - 1))
        if before is not None and not await self._is_there(before):
            return  # what it has speaks against what we read: a reorg
        now = self._clock.monotonic_ns()
        if self._behind_ns is None:
            self._behind_ns = now
            self.lags += 1
        if now - self._behind_ns < self._lag_seconds * 1e9:
            raise ChainUnavailableError(
                f"the node is at block {head.block.number}, and {cursor.number} was read",
                hint="a node that lags is waited for",
            )

    async def _go_back(self) -> Block | None:
        ancestor = None
        for block in self._journal.blocks():
            if await self._is_there(block):
                ancestor = block
                break
        to = ancestor.number if ancestor else self._first_block - 1
        dropped = self._journal.rewind(to)
        self.reorgs += 1
        _log.warning("the chain was reorganised", back_to=to, dropped=len(dropped))
        if self._on_dropped:
            self._on_dropped(dropped)
        return ancestor

    async def _is_there(self, block: Block) -> bool:
        return await self._chain.block(block.number) == block
