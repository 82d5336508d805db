"""Transactions of one account: kept before they are sent, outbid when stuck, never sent twice.

The account's nonces are taken here one after the other. A transaction that a reorg threw out, or
a restarted node forgot, is sent again byte for byte; one whose nonce somebody else used can never
be mined, and only then is the submission signed anew.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from faas_sdk._errors import ConflictError, InvalidArgumentError, WrongStateError
from faas_sdk.tangle._errors import RefusedError, ResultPendingError
from faas_sdk.tangle._node import Block, Node, NodeRefusedError, Receipt
from faas_sdk.tangle._nonces import used_by
from faas_sdk.tangle._signer import Signer
from faas_sdk.tangle._submissions import Attempt, Submission, Submissions

_KNOWN = ("already known", "already imported", "known transaction")
_NONCE_USED = ("nonce too low", "nonce is too low", "invalid nonce", "old nonce")
_RESIGNS_MAX = 5
_LOOKS_MAX = 5
"""A node that says a nonce is used has the block that used it, or has it soon."""
_GAS_SHARE = (5, 4)
"""A quarter above the estimate: what else is in the block may change what storage costs."""


@dataclass(frozen=True)
class FeeSettings:
    """What a transaction offers."""

    max_fee_cap: int = 500 * 10**9
    bump_blocks: int = 3
    bump_percent: int = 20
    """Nodes want 10 % more to replace a transaction."""


class Sender:
    """Nobody else should sign for the account while this works."""

    def __init__(
        self, node: Node, signer: Signer, store: Submissions, *, chain_id: int, fees: FeeSettings
    ) -> None:
        self._node = node
        self._signer = signer
        self._store = store
        self._chain_id = chain_id
        self._settings = fees
        self._nonces_held = asyncio.Lock()
        self._next_nonce = 0
        self._on_the_way = 0

    @property
    def signer(self) -> Signer:
        """What signs for it."""
        return self._signer

    @property
    def address(self) -> str:
        """The account."""
        return self._signer.address

    def known(self, name: str) -> Optional[Submission]:
        """Recall what was submitted under this name; None when nothing was."""
        return self._store.known(name)

    def forget(self, name: str) -> None:
        """Forget a submission that no block will ever take."""
        self._store.forget(name)

    async def send(self, wanted: Submission, *, confirmations: int, seconds: float) -> Receipt:
        """Bring a submission onto the chain; what was sent under its name before is found again.

        Raises:
            ContractError: it would be refused, or was.
            ResultPendingError: it was not mined in time; it may be yet.
        """
        attempts = self._store.find(wanted)
        self._on_the_way += 1
        try:
            if not attempts:
                attempts = await self._sign_and_push(wanted)
            return await asyncio.wait_for(
                self._mined(wanted, attempts, confirmations=confirmations), seconds
            )
        except asyncio.TimeoutError:
            raise ResultPendingError(
                f"the transaction was not mined in {seconds:g} s",
                hint="ask again with the same idempotency key: it is not submitted twice",
            ) from None
        finally:
            self._on_the_way -= 1

    async def _mined(
        self, wanted: Submission, attempts: List[Attempt], *, confirmations: int
    ) -> Receipt:
        pushed_at: Optional[int] = None
        while True:
            heard = self._node.heads.rings
            receipt = await self._receipt(attempts)
            head: Optional[Block] = None
            if receipt is None or confirmations > 1:
                head = await self._node.head()
            if receipt is not None:
                if head is None or head.number - receipt.block_number + 1 >= confirmations:
                    return self._checked(wanted, receipt)
            elif await self._is_dead(attempts):
                for attempt in attempts:
                    self._store.drop(attempt)
                attempts, pushed_at = await self._sign_and_push(wanted), None
            elif head is not None:
                pushed_at = await self._keep_alive(wanted, attempts, head, pushed_at)
            await self._node.heads.wait(heard, seconds=self._node.poll_seconds)

    async def _keep_alive(
        self, wanted: Submission, attempts: List[Attempt], head: Block, pushed_at: Optional[int]
    ) -> int:
        if pushed_at is None:
            await self._push(attempts[0])
            return head.number
        if head.number < pushed_at:
            return head.number
        if head.number - pushed_at < self._settings.bump_blocks:
            return pushed_at
        attempts.insert(0, await self._outbid(wanted, attempts[0], head))
        return head.number

    async def _receipt(self, attempts: List[Attempt]) -> Optional[Receipt]:
        for attempt in attempts:
            if receipt := await self._node.receipt(attempt.hash):
                return receipt
        return None

    async def _is_dead(self, attempts: List[Attempt]) -> bool:
        """Whether the nonce went to another transaction, so that none of ours can be mined."""
        nonce = attempts[0].nonce
        if await self._node.transaction_count(self.address) <= nonce:
            return False
        winner = await used_by(self._node, self.address, nonce)
        return winner is not None and winner not in {attempt.hash for attempt in attempts}

    def _checked(self, wanted: Submission, receipt: Receipt) -> Receipt:
        if receipt.is_success:
            return receipt
        # What failed for good may be tried again under the same name.
        self._store.forget(wanted.name)
        raise RefusedError(
            f"the transaction 0x{receipt.transaction_hash.hex()} was mined and failed",
            hint="something changed between the trial and the block; try again",
        )

    async def _sign_and_push(self, wanted: Submission) -> List[Attempt]:
        estimate = await self._node.estimate_gas(
            wanted.to, wanted.data, sender=self.address, value=wanted.value
        )
        more, of = _GAS_SHARE
        for _ in range(_RESIGNS_MAX):
            async with self._nonces_held:
                fees = await self._fees(await self._node.head())
                nonce = await self._take_nonce()
                attempt = self._sign(wanted, nonce=nonce, gas=estimate * more // of, **fees)
                while self._store.is_known(attempt.hash):
                    # The same job under another name that was never sent: the two must differ, or
                    # one transaction would stand for both.
                    fees["max_fee"] += 1
                    attempt = self._sign(wanted, nonce=nonce, gas=attempt.gas, **fees)
                if not self._store.add(wanted, attempt, is_first=True):
                    return self._store.find(wanted)
                if await self._is_taken(wanted, attempt):
                    self._next_nonce = nonce + 1
                    return [attempt]
                self._store.drop(attempt)
        raise ConflictError(
            "another program uses the account at the same time", hint="give each its own account"
        )

    async def _take_nonce(self) -> int:
        pending = await self._node.transaction_count(self.address, with_pending=True)
        # Some nodes forget what they just took; alone, theirs is the truth.
        return max(pending, self._next_nonce) if self._on_the_way > 1 else pending

    async def _is_taken(self, wanted: Submission, attempt: Attempt) -> bool:
        """Send; False when the nonce is used up, so that this can never be mined."""
        try:
            await self._node.send_raw(attempt.raw)
        except NodeRefusedError as failure:
            said = str(failure).lower()
            if any(known in said for known in _KNOWN):
                return True
            if any(used in said for used in _NONCE_USED):
                # The answer to a first sending may have been lost: then it was by ourselves.
                return not await self._is_used_by_another(attempt)
            if "underpriced" in said:
                return False
            self._store.forget(wanted.name)
            raise self._refused(str(failure)) from failure
        return True

    async def _is_used_by_another(self, attempt: Attempt) -> bool:
        for _ in range(_LOOKS_MAX):
            if winner := await used_by(self._node, self.address, attempt.nonce):
                return winner != attempt.hash
            await asyncio.sleep(self._node.poll_seconds)
        return False  # Not known: it is waited for, and nothing is signed anew meanwhile.

    def _refused(self, said: str) -> Exception:
        if "insufficient funds" in said.lower():
            return InvalidArgumentError(
                f"the account {self.address} cannot pay for the transaction: {said}",
                hint="send coins to it",
            )
        return WrongStateError(f"the node did not take the transaction: {said}")

    async def _push(self, attempt: Attempt) -> None:
        try:
            await self._node.send_raw(attempt.raw)
        except NodeRefusedError:
            return  # It is known, mined or dead; the next look tells.

    async def _outbid(self, wanted: Submission, old: Attempt, head: Block) -> Attempt:
        share, cap = 100 + self._settings.bump_percent, self._settings.max_fee_cap
        fresh = await self._fees(head)
        raised = {
            "max_fee": min(cap, max(fresh["max_fee"], old.max_fee * share // 100 + 1)),
            "priority_fee": min(
                cap, max(fresh["priority_fee"], old.priority_fee * share // 100 + 1)
            ),
        }
        dearer = self._sign(wanted, nonce=old.nonce, gas=old.gas, **raised)
        self._store.add(wanted, dearer)
        await self._push(dearer)
        return dearer

    async def _fees(self, head: Block) -> Dict[str, int]:
        cap = self._settings.max_fee_cap
        priority = min(await self._node.priority_fee(), cap)
        return {"max_fee": min(2 * head.base_fee + priority, cap), "priority_fee": priority}

    def _sign(
        self, wanted: Submission, *, nonce: int, gas: int, max_fee: int, priority_fee: int
    ) -> Attempt:
        fields: Dict[str, Any] = {
            "type": 2,
            "chainId": self._chain_id,
            "to": wanted.to,
            "data": wanted.data,
            "value": wanted.value,
            "gas": gas,
            "nonce": nonce,
            "maxFeePerGas": max_fee,
            "maxPriorityFeePerGas": priority_fee,
        }
        raw, digest = self._signer.sign(fields)
        return Attempt(digest, nonce, gas, max_fee, priority_fee, raw)
