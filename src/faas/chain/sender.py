"""Brings stored results onto the chain: the only owner of the account's nonces.

A result is stored before it is signed, and the signed bytes before they are sent, so a restart
sends the same bytes again and never a second answer. What the manager says about a call settles
every doubt: a transaction that was replaced, a batch that reverted, a call that was passed on.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from eth_hash.auto import keccak

from faas import logs
from faas.chain.codec import JobStatus, Rejection
from faas.chain.journal import Block, CallKey, JobState, Journal, JournalEntry, SignedTransaction
from faas.chain.ports import Chain, Settlement
from faas.chain.rpc import Head, NodeRefusedError, RevertedError
from faas.chain.wallet import Fees, Transaction, Wallet

_GAS_SHARE: Final = (5, 4)
"""A quarter above the estimate: other results of the block may change what storage costs."""
_TRANSFER_GAS: Final = 21_000

_log = logs.bind(__name__)


@dataclass(frozen=True, slots=True)
class SendSettings:
    """How results are sent."""

    confirmations: int = 1
    """Blocks, its own included, after which an accepted result is final to us."""
    batch_max: int = 50
    batch_bytes_max: int = 96 * 1024
    """Below the 128 KiB that nodes take in one transaction."""
    in_flight_max: int = 16
    bump_blocks: int = 3
    bump_percent: int = 20
    max_fee_cap: int = 200 * 10**9


@dataclass(slots=True)
class SendCounts:
    """What the sender did."""

    sent: int = 0
    confirmed: int = 0
    rejected: int = 0
    expired: int = 0
    bumped: int = 0
    resent: int = 0
    gaps_filled: int = 0
    cancelled: int = 0
    hook_failures: int = 0


class Sender:
    """Nobody else signs for the account; one step at a time."""

    def __init__(
        self, chain: Chain, journal: Journal, wallet: Wallet, settings: SendSettings
    ) -> None:
        self._chain = chain
        self._journal = journal
        self._wallet = wallet
        self._settings = settings
        self._pushed_at: dict[bytes, int] = {}
        self._chores: dict[int, SignedTransaction] = {}
        self._nonces_held = asyncio.Lock()
        self.counts = SendCounts()

    async def tick(self) -> None:
        """Settle what was sent, then send what waits."""
        cursor = self._journal.head()
        if cursor is None:
            return
        async with self._nonces_held:
            # All is judged as of the journal's cursor: a reorg above it undoes nothing we decided,
            # and one below it is noticed by the feed, which undoes it.
            head = replace(await self._chain.head(), block=cursor)
            await self._tick(head, await self._chain.mined_at(cursor))

    async def _tick(self, head: Head, mined: int) -> None:
        await self._settle(head, mined)
        latest = (await self._chain.nonces()).mined
        for nonce in [nonce for nonce in self._chores if nonce < min(mined, latest)]:
            del self._chores[nonce]
        await self._cancel_abandoned(head, latest)
        await self._fill_gap(head)
        await self._send_waiting(head)
        self._forget_pushed()

    async def do(self, to: str, data: bytes, head: Head) -> None:
        """Send something that is not a result, such as the capacity.

        Raises:
            RevertedError: it would be refused.
        """
        async with self._nonces_held:
            gas, fees = await self._gas(to, data), await self._fees(head)
            signed = await self._sign(to, data, gas, fees, await self._next_nonce())
            self._chores[signed.nonce] = signed
            await self._push(signed, head)

    @property
    def chores(self) -> int:
        """Transactions that carry no results and are not mined yet."""
        return len(self._chores)

    async def _settle(self, head: Head, mined: int) -> None:
        for digest, entries in _by_transaction(self._journal.in_state(JobState.SENT)).items():
            signed = self._journal.transaction(digest)
            found = await self._chain.settlement(digest)
            if found is not None:
                if head.block.number - found.block.number + 1 >= self._settings.confirmations:
                    await self._read(found, entries)
            elif signed is None or signed.nonce < mined:
                for entry in entries:
                    await self._look_up(entry, head)
            else:
                await self._push_again(signed, entries, head)
        for signed in self._chores.values():
            age = head.block.number - self._pushed_at.get(signed.hash, -self._settings.bump_blocks)
            if signed.nonce >= mined and not 0 <= age < self._settings.bump_blocks:
                await self._push(signed, head)

    async def _read(self, found: Settlement, entries: Sequence[JournalEntry]) -> None:
        keys = [entry.seen.key for entry in entries]
        if not found.is_success:
            # One bad entry undoes a batch; tried again, the bad one is found out.
            self._journal.unsent(keys)
            return
        taken = [key for key in keys if key in found.accepted]
        self._journal.confirmed(taken, block=found.block.number)
        self.counts.confirmed += len(taken)
        for key in keys:
            if key in found.rejected:
                reason = Rejection(found.rejected[key]).name.lower()
                self._reject(key, f"the manager refused it: {reason}", found.block)
            elif key not in found.accepted:
                self.counts.hook_failures += 1
                self._reject(key, "the manager's hook failed", found.block)

    async def _look_up(self, entry: JournalEntry, head: Head) -> bool:
        """Let the manager decide; whether the result is still to be sent."""
        key = entry.seen.key
        job, is_spoilt = await asyncio.gather(
            self._chain.job(key, head.block), self._chain.is_spoilt(key, head.block)
        )
        if job.status is JobStatus.NONE:
            return False  # a reorg took the call, and the feed will say so
        if job.is_over:
            self._conclude(entry, job.result_hash, head)
            return False
        if job.operator != self._chain.operator:
            self._expire(key, f"it was passed on to {job.operator}", head)
            return False
        if is_spoilt:
            self._reject(key, "the manager takes no answer of ours any more", head.block)
            return False
        if entry.state is JobState.SENT:
            self._journal.unsent([key])
        return True

    def _conclude(self, entry: JournalEntry, result_hash: bytes, head: Head) -> None:
        if entry.result is not None and result_hash == keccak(entry.result):
            self._journal.confirmed([entry.seen.key], block=head.block.number)
            self.counts.confirmed += 1
        else:
            self._expire(entry.seen.key, "somebody else settled it", head)

    async def _push_again(
        self, signed: SignedTransaction, entries: Sequence[JournalEntry], head: Head
    ) -> None:
        pushed_at = self._pushed_at.get(signed.hash)
        if pushed_at is None or pushed_at > head.block.number:
            self.counts.resent += pushed_at is None
            await self._push(signed, head)
        elif head.block.number - pushed_at >= self._settings.bump_blocks:
            await self._bump(signed, entries, head)

    async def _bump(
        self, signed: SignedTransaction, entries: Sequence[JournalEntry], head: Head
    ) -> None:
        old = self._wallet.read(signed)
        cap = self._settings.max_fee_cap
        raised = old.fees.raised(self._settings.bump_percent, to_at_most=cap)
        if raised.max_fee == old.fees.max_fee:
            _log.error("a transaction is stuck at the fee cap", nonce=old.nonce, cap=cap)
            await self._push(signed, head)
            return
        wanted = await self._fees(head)
        fees = Fees(
            max(raised.max_fee, wanted.max_fee), max(raised.priority_fee, wanted.priority_fee)
        )
        dearer = await self._sign(old.to, old.data, old.gas, fees, old.nonce)
        self._journal.sending([entry.seen.key for entry in entries], dearer)
        self.counts.bumped += 1
        await self._push(dearer, head)

    async def _cancel_abandoned(self, head: Head, mined: int) -> None:
        """Outbid what carries answers to calls that a reorg took, with nothing.

        The call's number comes back for another call, and Tangle takes one answer of ours to it.
        """
        found = {signed.nonce: signed for signed in self._journal.abandoned(mined)}
        for nonce, signed in found.items():
            if nonce in self._chores:
                continue
            old = self._wallet.read(signed).fees
            cap = self._settings.max_fee_cap
            fees = old.raised(self._settings.bump_percent, to_at_most=cap)
            self._chores[nonce] = empty = await self._sign(
                self._chain.operator, b"", _TRANSFER_GAS, fees, nonce
            )
            self.counts.cancelled += 1
            await self._push(empty, head)

    async def _fill_gap(self, head: Head) -> None:
        """Send an empty transaction with a nonce that a reorg or a crash left out."""
        ours = self._journal.nonces_in_flight() | set(self._chores)
        pending = (await self._chain.nonces()).pending
        if ours and pending < max(ours) and pending not in ours:
            _log.warning("a gap in the nonces is filled", nonce=pending)
            self.counts.gaps_filled += 1
            signed = await self._sign(
                self._chain.operator, b"", _TRANSFER_GAS, await self._fees(head), pending
            )
            self._chores[pending] = signed
            await self._push(signed, head)

    async def _send_waiting(self, head: Head) -> None:
        room = self._settings.in_flight_max - len(self._journal.nonces_in_flight())
        if room <= 0:
            return
        waiting = await self._on_fork(
            self._journal.in_state(JobState.RAN, limit=room * self._settings.batch_max)
        )
        wanted = await asyncio.gather(*(self._look_up(entry, head) for entry in waiting))
        good = [entry for entry, is_wanted in zip(waiting, wanted, strict=True) if is_wanted]
        for batch in self._batches(good)[:room]:
            await self._send(batch, head)

    async def _on_fork(self, entries: Sequence[JournalEntry]) -> list[JournalEntry]:
        """Leave out calls of blocks that are gone: their numbers may be other calls' by now."""
        blocks = {entry.seen.block for entry in entries}
        there = {block for block in blocks if await self._chain.block(block.number) == block}
        return [entry for entry in entries if entry.seen.block in there]

    def _batches(self, entries: Sequence[JournalEntry]) -> list[list[JournalEntry]]:
        found: list[list[JournalEntry]] = []
        ordered = sorted(entries, key=lambda entry: entry.seen.key.service)
        for _, of_service in groupby(ordered, key=lambda entry: entry.seen.key.service):
            batch: list[JournalEntry] = []
            size = 0
            for entry in of_service:
                length = len(entry.result or b"") + 256
                is_full = len(batch) == self._settings.batch_max
                if batch and (is_full or size + length > self._settings.batch_bytes_max):
                    found.append(batch)
                    batch, size = [], 0
                batch.append(entry)
                size += length
            found.append(batch)
        return found

    async def _send(self, batch: list[JournalEntry], head: Head) -> None:
        data = self._chain.results_call([(e.seen.key, e.result or b"") for e in batch])
        try:
            gas = await self._gas(self._chain.tangle, data)
        except RevertedError as failure:
            if len(batch) == 1:
                await self._refused(batch[0], failure, head)
                return
            for entry in batch:
                await self._send([entry], head)
            return
        signed = await self._sign(
            self._chain.tangle, data, gas, await self._fees(head), await self._next_nonce()
        )
        self._journal.sending([entry.seen.key for entry in batch], signed)
        self.counts.sent += len(batch)
        await self._push(signed, head)

    def _forget_pushed(self) -> None:
        kept = {entry.transaction_hash for entry in self._journal.in_state(JobState.SENT)}
        kept |= {signed.hash for signed in self._chores.values()}
        self._pushed_at = {key: at for key, at in self._pushed_at.items() if key in kept}

    async def _refused(self, entry: JournalEntry, failure: RevertedError, head: Head) -> None:
        # It may have been settled since: judged when the cursor is the newest block. If the
        # manager still wants it, Tangle has an answer of ours, or the service is over.
        is_newest = (await self._chain.head()).block == head.block
        if is_newest and await self._look_up(entry, head):
            self._reject(entry.seen.key, f"Tangle refused it: {failure}", head.block)

    async def _push(self, signed: SignedTransaction, head: Head) -> None:
        self._pushed_at[signed.hash] = head.block.number
        try:
            await self._chain.broadcast(signed.raw)
        except NodeRefusedError as failure:
            # It is stored: the next ticks find it mined, replaced, or send it again.
            _log.warning(
                "the node did not take a transaction", nonce=signed.nonce, why=str(failure)
            )

    async def _sign(
        self, to: str, data: bytes, gas: int, fees: Fees, nonce: int
    ) -> SignedTransaction:
        return await self._wallet.sign(Transaction(to, data, gas, nonce, fees))

    async def _next_nonce(self) -> int:
        nonces = await self._chain.nonces()
        ours = self._journal.nonces_in_flight() | set(self._chores)
        return max(nonces.mined, nonces.pending, max(ours, default=-1) + 1)

    async def _fees(self, head: Head) -> Fees:
        priority = min(await self._chain.priority_fee(), self._settings.max_fee_cap)
        return Fees(min(2 * head.base_fee + priority, self._settings.max_fee_cap), priority)

    async def _gas(self, to: str, data: bytes) -> int:
        more, of = _GAS_SHARE
        return await self._chain.gas_for(to, data) * more // of

    def _reject(self, key: CallKey, reason: str, block: Block) -> None:
        _log.error("a result was rejected", service=key.service, call=key.call, why=reason)
        self._journal.rejected(key, reason, block=block.number)
        self.counts.rejected += 1

    def _expire(self, key: CallKey, reason: str, head: Head) -> None:
        self._journal.expired(key, reason, block=head.block.number)
        self.counts.expired += 1


def _by_transaction(entries: Sequence[JournalEntry]) -> dict[bytes, list[JournalEntry]]:
    found: dict[bytes, list[JournalEntry]] = {}
    for entry in entries:
        found.setdefault(entry.transaction_hash or b"", []).append(entry)
    return found
