"""What happens to the jobs of a service, in order, and undone after a reorg."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import AsyncIterator, Deque, Optional

from faas_sdk._errors import ChainUnavailableError
from faas_sdk.tangle._abi import Manager
from faas_sdk.tangle._codec import JobStatus
from faas_sdk.tangle._contracts import Contracts
from faas_sdk.tangle._feed import Feed
from faas_sdk.tangle._models import JobEvent
from faas_sdk.tangle._node import LogEntry, word

REMEMBERED = 4096
"""Events that can be taken back; more in 256 blocks is no service of this blueprint."""
_REASONS = (
    "none",
    "not_pending",
    "malformed",
    "not_assignee",
    "timed_out_by_assignee",
    "other_inputs",
)


async def watch(
    contracts: Contracts, service_id: int, *, from_block: Optional[int]
) -> AsyncIterator[JobEvent]:
    """Yield events; a node that does not answer is waited for."""
    node = contracts.node
    events = (Manager.JOB_ASSIGNED, Manager.ACCEPTED, Manager.REJECTED, Manager.EXPIRED)
    topics = ([event.topic for event in events], word(service_id))
    first = (await node.head()).number + 1 if from_block is None else from_block
    feed = Feed(node, contracts.manager, topics, first_block=first)
    told: Deque[JobEvent] = deque(maxlen=REMEMBERED)
    while True:
        heard = node.heads.rings
        try:
            batch = await feed.poll()
        except ChainUnavailableError:
            await node.heads.wait(heard, seconds=node.poll_seconds)
            continue
        if batch.went_back_to is not None:
            while told and told[-1].block > batch.went_back_to:
                yield replace(told.pop(), is_removed=True)
        for entry in batch.entries:
            event = event_of(entry)
            told.append(event)
            yield event
        if batch.is_last:
            await node.heads.wait(heard, seconds=node.poll_seconds)


def event_of(entry: LogEntry) -> JobEvent:
    """Read one event of the manager."""
    event = JobEvent(
        kind="expired",
        service_id=entry.number(1),
        call_id=entry.number(2),
        operator=entry.account(3),
        block=entry.block_number,
        tx_hash="0x" + entry.transaction_hash.hex(),
    )
    topic = entry.topics[0]
    if topic == Manager.JOB_ASSIGNED.topic:
        job, attempt, deadline, _sticky = Manager.JOB_ASSIGNED.decode(entry.data)
        return replace(event, kind="assigned", job_id=job, attempt=attempt, deadline=deadline)
    if topic == Manager.ACCEPTED.topic:
        status = JobStatus(Manager.ACCEPTED.decode(entry.data)[0])
        return replace(event, kind="accepted", status=status)
    if topic == Manager.REJECTED.topic:
        number = int(Manager.REJECTED.decode(entry.data)[0])
        reason = _REASONS[number] if number < len(_REASONS) else f"reason {number}"
        return replace(event, kind="rejected", reason=reason)
    return event
