"""Events of one contract in block order, each once; a reorg is noticed by hash and said.

What is read is what the node's logs hold between a cursor and its head. A range counts only when,
after it was read, the block at its end is still on the node's fork.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Deque, List, Optional, Sequence, Tuple

from faas_sdk.tangle._node import Block, LogEntry, Node, Topic

RANGE_MAX = 2000
"""Blocks of one query: what public nodes allow."""
REMEMBERED = 256
"""Blocks whose hashes are kept to find where two forks part: four times as deep as `finalized`."""


@dataclass(frozen=True)
class Batch:
    """What a look found: first what is no more, then what is new."""

    entries: Tuple[LogEntry, ...]
    head: Block
    went_back_to: Optional[int] = None
    """After a reorg: the last block of before that still counts."""
    is_last: bool = True
    """Whether this reaches up to what was the head."""


class Feed:
    """One reader's place in the chain."""

    def __init__(
        self,
        node: Node,
        address: str,
        topics: Sequence[Topic],
        *,
        first_block: int,
        confirmations: int = 1,
    ) -> None:
        self._node = node
        self._address = address
        self._topics = topics
        self._next = first_block
        self._behind = confirmations - 1
        self._seen: Deque[Tuple[int, bytes]] = deque(maxlen=REMEMBERED)

    async def poll(self) -> Batch:
        """Look once."""
        head = await self._node.head()
        went_back_to = await self._went_back(head)
        last = head.number - self._behind
        if last < self._next:
            return Batch((), head, went_back_to)
        last = min(last, self._next + RANGE_MAX - 1)
        entries = await self._node.logs(self._address, self._topics, first=self._next, last=last)
        end = await self._node.block(last)
        if end is None or any(e.block_number == last and e.block_hash != end.hash for e in entries):
            return Batch((), head, went_back_to)
        self._remember(entries, end)
        self._next = last + 1
        return Batch(tuple(entries), head, went_back_to, last >= head.number - self._behind)

    def _remember(self, entries: List[LogEntry], end: Block) -> None:
        for entry in entries:
            if not self._seen or self._seen[-1][0] < entry.block_number:
                self._seen.append((entry.block_number, entry.block_hash))
        if not self._seen or self._seen[-1][0] < end.number:
            self._seen.append((end.number, end.hash))

    async def _went_back(self, head: Block) -> Optional[int]:
        if not self._seen or self._seen[-1] in (
            (head.number, head.hash),
            (head.number - 1, head.parent),
        ):
            return None
        is_other = False
        while self._seen:
            number, digest = self._seen[-1]
            block = await self._node.block(number)
            if block is not None and block.hash == digest:
                break
            is_other = True
            self._seen.pop()
        if not is_other:
            return None
        # Nothing is known of blocks between two that are remembered: they are read again.
        self._next = self._seen[-1][0] + 1 if self._seen else max(0, self._next - REMEMBERED)
        return self._next - 1
