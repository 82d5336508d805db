"""The real chain behind `ports.Chain`: one node, Tangle, our manager, one account."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from faas.chain.contract import (
    ChainJob,
    Contracts,
    Manager,
    Tangle,
    address_word,
    key_of,
    operator_of,
    word,
)
from faas.chain.journal import Block, CallKey, SeenCall
from faas.chain.ports import Nonces, Results, Settlement
from faas.chain.rpc import Head, LogEntry, NodeRefusedError, Receipt, Topics
from faas.errors import ChainUnavailableError

_TOPICS_MAX: Final = 100
"""Calls of one query; public nodes refuse longer filters."""
_KNOWN: Final = ("already known", "already imported", "known transaction")


class TangleChain:
    """What one operator sees and does."""

    def __init__(self, contracts: Contracts, operator: str, *, first_block: int = 0) -> None:
        self._contracts = contracts
        self._node = contracts.node
        self._operator = operator
        self._first_block = first_block

    @property
    def operator(self) -> str:
        """The account whose jobs these are."""
        return self._operator

    @property
    def tangle(self) -> str:
        """Where results go."""
        return self._contracts.tangle

    async def head(self) -> Head:
        """The newest block."""
        return await self._node.head()

    async def block(self, number: int) -> Block | None:
        """One block of the node's present fork."""
        return await self._node.block(number)

    async def assigned(self, first: int, last: int) -> list[SeenCall]:
        """Calls that were given to this operator in these blocks, with their inputs."""
        topics = (Manager.JOB_ASSIGNED.topic, None, None, address_word(self._operator))
        entries = await self._node.logs(self._contracts.manager, topics, first=first, last=last)
        inputs = await self._inputs(entries, first, last)
        # A range read while the chain was reorganised may name a call without its submission.
        return [_seen(entry, inputs[key_of(entry)]) for entry in entries if key_of(entry) in inputs]

    async def job(self, key: CallKey, at: Block) -> ChainJob:
        """How the manager has a call as of a block."""
        return await self._contracts.job(key, at=at.hash)

    async def is_spoilt(self, key: CallKey, at: Block) -> bool:
        """Whether no answer of this operator to this call is taken any more, as of a block."""
        return await self._contracts.ask_manager(
            Manager.HAD_ITS_CHANCE, key.service, key.call, self._operator, at=at.hash
        )

    def results_call(self, results: Results) -> bytes:
        """The call that hands in results."""
        if len(results) == 1:
            key, result = results[0]
            return Tangle.SUBMIT_RESULT.encode(key.service, key.call, result)
        calls = [key.call for key, _ in results]
        data = [result for _, result in results]
        return Tangle.SUBMIT_RESULTS.encode(results[0][0].service, calls, data)

    async def gas_for(self, to: str, data: bytes) -> int:
        """Try a transaction of this operator."""
        return await self._node.estimate_gas(to, data, sender=self._operator)

    async def priority_fee(self) -> int:
        """What to offer above the base fee."""
        return await self._node.priority_fee()

    async def nonces(self) -> Nonces:
        """The account's next nonces."""
        mined = await self._node.transaction_count(self._operator)
        pending = await self._node.transaction_count(self._operator, with_pending=True)
        return Nonces(mined, max(mined, pending))

    async def mined_at(self, block: Block) -> int:
        """How many transactions of the account are mined up to a block."""
        return await self._node.transaction_count_at(self._operator, block.hash)

    async def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the node."""
        try:
            await self._node.send_raw(raw)
        except NodeRefusedError as failure:
            if not any(known in str(failure).lower() for known in _KNOWN):
                raise

    async def settlement(self, digest: bytes) -> Settlement | None:
        """What a transaction did, when it is mined on the present fork."""
        receipt = await self._node.receipt(digest)
        return None if receipt is None else self._read(receipt)

    def _read(self, receipt: Receipt) -> Settlement:
        accepted: set[CallKey] = set()
        rejected: dict[CallKey, int] = {}
        hook_failed = False
        for entry in receipt.logs:
            topic = entry.topics[0] if entry.topics else b""
            if entry.address.lower() == self._contracts.tangle.lower():
                hook_failed |= topic == Tangle.HOOK_FAILED.topic
            if entry.address.lower() != self._contracts.manager.lower():
                continue
            if topic == Manager.ACCEPTED.topic and operator_of(entry) == self._operator:
                accepted.add(key_of(entry))
            elif topic == Manager.REJECTED.topic and operator_of(entry) == self._operator:
                rejected[key_of(entry)] = Manager.REJECTED.decode(entry)[0]
        return Settlement(
            receipt.block, receipt.is_success, frozenset(accepted), rejected, hook_failed
        )

    async def _inputs(
        self, assigned: Sequence[LogEntry], first: int, last: int
    ) -> "dict[CallKey, _Submission]":
        keys = [key_of(entry) for entry in assigned]
        found: dict[CallKey, _Submission] = {}
        for start in range(0, len(keys), _TOPICS_MAX):
            some = set(keys[start : start + _TOPICS_MAX])
            topics = _of_calls(some)
            entries = await self._node.logs(self._contracts.tangle, topics, first=first, last=last)
            found |= {
                key_of(entry): _submission(entry) for entry in entries if key_of(entry) in some
            }
        for entry in assigned:
            # A call that was passed on to us was submitted before, perhaps long before.
            if (key := key_of(entry)) not in found and _attempt(entry) > 1:
                earlier = await self._node.newest_logs(
                    self._contracts.tangle, _of_calls({key}), first=self._first_block, last=first
                )
                if earlier:
                    found[key] = _submission(earlier[-1])
        return found


@dataclass(frozen=True, slots=True)
class _Submission:
    job: int
    caller: str
    inputs: bytes
    is_quoted: bool


def _of_calls(keys: Collection[CallKey]) -> Topics:
    return (
        (Tangle.JOB_SUBMITTED.topic, Tangle.JOB_SUBMITTED_FROM_QUOTE.topic),
        [word(service) for service in sorted({key.service for key in keys})],
        [word(call) for call in sorted({key.call for key in keys})],
    )


def _attempt(entry: LogEntry) -> int:
    return Manager.JOB_ASSIGNED.decode(entry)[1]


def _submission(entry: LogEntry) -> _Submission:
    is_plain = entry.topics[0] == Tangle.JOB_SUBMITTED.topic
    event = Tangle.JOB_SUBMITTED if is_plain else Tangle.JOB_SUBMITTED_FROM_QUOTE
    fields = event.decode(entry)
    return _Submission(fields[0], to_checksum_address(fields[1]), fields[-1], not is_plain)


def _seen(entry: LogEntry, found: _Submission) -> SeenCall:
    assigned_job, _attempt, deadline, _sticky = Manager.JOB_ASSIGNED.decode(entry)
    if found.job != assigned_job:
        raise ChainUnavailableError("Tangle and the manager disagree about a job")
    digest = keccak(found.inputs)
    key = key_of(entry)
    return SeenCall(
        *(key, found.job, found.inputs, digest, deadline, entry.block),
        caller=found.caller,
        is_quoted=found.is_quoted,
    )
