"""When a job has ended: the manager's acceptance, deep enough, and the bytes it accepted.

Tangle says `JobResultSubmitted` for rejected results too, so it proves nothing. What counts is
`JobResultAccepted` of the manager; the result is taken from the same transaction, operator and
call, and must have the hash that was accepted. One reader of the manager's events serves all who
wait; `getJob` is asked at first, and now and then besides, so that a lost event loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from eth_hash.auto import keccak

from faas_sdk._errors import ChainUnavailableError, DataLossError
from faas_sdk.tangle._abi import Manager, Tangle
from faas_sdk.tangle._carried import unpack
from faas_sdk.tangle._codec import (
    Envelope,
    JobStatus,
    decode_envelope,
    decode_failure,
    decode_output,
)
from faas_sdk.tangle._contracts import Contracts
from faas_sdk.tangle._errors import JobOverdueError
from faas_sdk.tangle._feed import RANGE_MAX, Feed
from faas_sdk.tangle._models import Failure, JobResult
from faas_sdk.tangle._node import LogEntry, NodeRefusedError, account_word, word
from faas_sdk.tangle._transport import Bell

LOOK_SECONDS = 10.0
"""Between two questions for a job of which no event came: a safety net, not the way."""
OVERDUE_SECONDS = 120.0
"""After the deadline; another operator may close the job in this time."""
MISSES_MAX = 10
"""A node behind a load balancer may lag behind the one that told of the acceptance."""

Key = Tuple[int, int]


@dataclass
class _Waiter:
    bell: Bell
    found: Optional[LogEntry] = None
    count: int = 0


class Settlements:
    """Everybody who waits for a job."""

    def __init__(self, contracts: Contracts, *, confirmations: int, first_block: int) -> None:
        self._contracts = contracts
        self._node = contracts.node
        self._confirmations = confirmations
        self._first_block = first_block
        self._waiters: Dict[Key, _Waiter] = {}
        self._reader: Optional[asyncio.Task[None]] = None
        self._feed: Optional[Feed] = None
        self.reorgs = 0

    async def aclose(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    async def wait(
        self,
        key: Key,
        *,
        job_id: Optional[int],
        inputs_hash: Optional[bytes],
        first_block: Optional[int],
    ) -> JobResult:
        """Wait for the end of a job.

        Raises:
            JobOverdueError: its operator did not answer in time.
            LookAgainError: the call may have another number now.
            OtherInputsError: the call of that number is not of these inputs (any more).
            DataLossError: what was accepted cannot be found or read.
        """
        reorgs, misses = self.reorgs, 0
        waiter = self._register(key)
        try:
            while True:
                heard, new_block = waiter.bell.rings, self._node.heads.rings
                if self.reorgs != reorgs:
                    raise LookAgainError
                if waiter.found is None:
                    waiter.found = await self._look(
                        key, self._first_block if first_block is None else first_block
                    )
                if waiter.found is None:
                    await waiter.bell.wait(heard, seconds=LOOK_SECONDS)
                    if waiter.found is None:
                        raise LookAgainError
                if not await self._is_there(waiter.found):
                    raise LookAgainError
                if await self._is_deep(waiter.found):
                    raw = await self._accepted_bytes(key, waiter.found)
                    if raw is not None:
                        return await self._result(key, waiter.found, raw, job_id, inputs_hash)
                    misses += 1
                    if misses >= MISSES_MAX:
                        raise DataLossError(f"the node has no accepted result of job call {key[1]}")
                await self._node.heads.wait(new_block, seconds=self._node.poll_seconds)
        finally:
            self._leave(key, waiter)

    async def find(self, key: Key) -> Optional[JobResult]:
        """Read the result of a job that has ended; None for one that has not."""
        entry = await self._look(key, self._first_block, is_overdue_fine=True)
        if entry is None or not await self._is_deep(entry):
            return None
        raw = await self._accepted_bytes(key, entry)
        return None if raw is None else await self._result(key, entry, raw, None, None)

    async def _look(
        self, key: Key, first_block: int, *, is_overdue_fine: bool = False
    ) -> Optional[LogEntry]:
        job = await self._contracts.job(*key)
        if job.status.is_over:
            topics = (Manager.ACCEPTED.topic, word(key[0]), word(key[1]))
            last = (await self._node.head()).number
            # Newest first: a job ends but once, and mostly not long ago.
            while last >= first_block:
                first = max(first_block, last - RANGE_MAX + 1)
                found = await self._node.logs(
                    self._contracts.manager, topics, first=first, last=last
                )
                if found:
                    return found[-1]
                last = first - 1
            return None
        if is_overdue_fine or job.status is JobStatus.NONE:
            return None
        if time.time() > job.deadline + OVERDUE_SECONDS:
            raise JobOverdueError(
                f"{job.operator} did not answer job call {key[1]} before its deadline",
                hint=f"client.reassign({key[1]}) passes it on",
            )
        return None

    async def _is_deep(self, accepted: LogEntry) -> bool:
        if self._confirmations == 1:
            return True
        head = await self._node.head()
        return head.number - accepted.block_number + 1 >= self._confirmations

    async def _accepted_bytes(self, key: Key, accepted: LogEntry) -> Optional[bytes]:
        _status, output_hash = Manager.ACCEPTED.decode(accepted.data)
        topics = (
            Tangle.JOB_RESULT_SUBMITTED.topic,
            *(word(number) for number in key),
            account_word(accepted.account(3)),
        )
        found = await self._node.logs_of(accepted.block_hash, self._contracts.tangle, topics)
        for entry in found:
            result = Tangle.JOB_RESULT_SUBMITTED.decode(entry.data)[0]
            is_same = entry.transaction_hash == accepted.transaction_hash
            if is_same and keccak(result) == output_hash:
                return result
        return None

    async def _result(
        self,
        key: Key,
        accepted: LogEntry,
        raw: bytes,
        job_id: Optional[int],
        inputs_hash: Optional[bytes],
    ) -> JobResult:
        job = (await self._contracts.job(*key)).job_id if job_id is None else job_id
        status = JobStatus(Manager.ACCEPTED.decode(accepted.data)[0])
        output, failure = None, None
        envelope = _envelope(raw)
        if envelope is None:
            failure = Failure("malformed_result", "the operator handed in what is no result")
        elif inputs_hash is not None and envelope.inputs_hash != inputs_hash:
            raise OtherInputsError
        elif status is JobStatus.DONE:
            output = decode_output(job, envelope.output)
            output = unpack(output) if isinstance(output, bytes) else output
        elif status is JobStatus.TIMED_OUT:
            failure = Failure("deadline_exceeded", "no operator answered before the deadline")
        else:
            failure = Failure(*decode_failure(envelope.output))
        return JobResult(
            call_id=key[1],
            service_id=key[0],
            job_id=job,
            result=output,
            operator=accepted.account(3),
            tx_hash="0x" + accepted.transaction_hash.hex(),
            block=accepted.block_number,
            status=status,
            failure=failure,
            receipt=envelope.receipt if envelope else b"",
        )

    async def _is_there(self, entry: LogEntry) -> bool:
        block = await self._node.block(entry.block_number)
        return block is not None and block.hash == entry.block_hash

    # The reader

    def _register(self, key: Key) -> _Waiter:
        waiter = self._waiters.setdefault(key, _Waiter(Bell()))
        waiter.count += 1
        if self._reader is None or self._reader.done():
            self._reader = asyncio.ensure_future(self._read())
        return waiter

    def _leave(self, key: Key, waiter: _Waiter) -> None:
        waiter.count -= 1
        if not waiter.count and self._waiters.get(key) is waiter:
            del self._waiters[key]

    async def _read(self) -> None:
        self._feed = None
        while self._waiters:
            heard = self._node.heads.rings
            is_all = True
            with contextlib.suppress(ChainUnavailableError, NodeRefusedError):
                is_all = await self._read_once()
            if is_all:
                await self._node.heads.wait(heard, seconds=self._node.poll_seconds)

    async def _read_once(self) -> bool:
        if self._feed is None:
            first = (await self._node.head()).number
            topics: List[bytes] = [Manager.ACCEPTED.topic]
            self._feed = Feed(self._node, self._contracts.manager, topics, first_block=first)
        batch = await self._feed.poll()
        if batch.went_back_to is not None:
            self.reorgs += 1
            for waiter in self._waiters.values():
                waiter.found = None
                waiter.bell.ring()
        for entry in batch.entries:
            waiter = self._waiters.get((entry.number(1), entry.number(2)))
            if waiter is not None:
                waiter.found = entry
                waiter.bell.ring()
        return batch.is_last


class LookAgainError(Exception):
    """Blocks were taken back, or may have been unnoticed: is the call still of that number?"""


class OtherInputsError(Exception):
    """The call was answered for other inputs than ours: a reorg gave its number away."""


def _envelope(result: bytes) -> Optional[Envelope]:
    try:
        return decode_envelope(result)
    except DataLossError:
        return None
