"""A chain in memory for the operator: blocks, forks, a pool, one account, and a fuse.

Every call of the operator burns the fuse by one; at its end the operator is killed there, in the
middle of whatever it did. Only the journal's file and the chain go on.
"""

import copy
from dataclasses import dataclass, field

import msgspec
from eth_hash.auto import keccak

from faas.chain.codec import JobStatus, Rejection
from faas.chain.contract import ChainJob
from faas.chain.journal import Block, CallKey, Journal, SeenCall, SignedTransaction
from faas.chain.ports import Nonces, Settlement
from faas.chain.rpc import Head, NodeRefusedError, RevertedError
from faas.chain.wallet import Transaction

ME = "0xMe"
OTHER = "0xOther"
TANGLE = "0xTangle"
FAR = 10**9
NO_HASH = bytes(32)


class KilledError(BaseException):
    """`kill -9` of the operator, here and now."""


class Fuse:
    def __init__(self) -> None:
        self.left: int | None = None

    def burn(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left <= 0:
            self.left = None
            raise KilledError


@dataclass
class Call:
    inputs: bytes
    operator: str = ME
    status: JobStatus = JobStatus.PENDING
    result_hash: bytes = NO_HASH
    is_answered: bool = False


@dataclass
class State:
    """What a block commits to."""

    calls: dict[CallKey, Call] = field(default_factory=dict)
    nonce: int = 0
    assigned: dict[int, list[CallKey]] = field(default_factory=dict)
    receipts: dict[bytes, Settlement] = field(default_factory=dict)
    mined: list[bytes] = field(default_factory=list)


def result_of(inputs: bytes) -> bytes:
    return keccak(inputs) + b"result"


class SimulatedWallet:
    address = ME

    async def sign(self, transaction: Transaction) -> SignedTransaction:
        raw = msgspec.msgpack.encode(transaction)
        return SignedTransaction(transaction.nonce, raw, keccak(raw))

    def read(self, signed: SignedTransaction) -> Transaction:
        return msgspec.msgpack.decode(signed.raw, type=Transaction)


class SimulatedChain:
    operator = ME
    tangle = TANGLE

    def __init__(self, fuse: Fuse) -> None:
        self.fuse = fuse
        self.forks = 0
        self.blocks = [(Block(0, self._hash(0)), State())]
        self.pool: dict[int, bytes] = {}
        self.second_answers = 0

    # What the machine does to it

    @property
    def state(self) -> State:
        return self.blocks[-1][1]

    def submit(self, inputs: bytes) -> CallKey:
        key = CallKey(0, len(self.state.calls))

        def change(state: State, number: int) -> None:
            state.calls[key] = Call(inputs)
            state.assigned.setdefault(number, []).append(key)

        self._append(change)
        return key

    def pass_on(self, key: CallKey) -> None:
        def change(state: State, _: int) -> None:
            state.calls[key].operator = OTHER

        self._append(change)

    def mine(self) -> None:
        self._append(self._include)

    def reorg(self, depth: int, *, pool_keeps: bool) -> None:
        depth = min(depth, len(self.blocks) - 1)
        if depth == 0:
            return
        gone = self.blocks[-depth:]
        self.forks += 1
        del self.blocks[-depth:]
        for _, state in gone:
            for raw in state.mined if pool_keeps else ():
                self.pool.setdefault(self._read(raw).nonce, raw)
        for _ in range(depth):
            self._append(lambda _state, _number: None)

    def lose_pool(self) -> None:
        self.pool.clear()

    # What the operator asks

    async def head(self) -> Head:
        self.fuse.burn()
        return Head(self.blocks[-1][0], timestamp=0, base_fee=10)

    async def block(self, number: int) -> Block | None:
        self.fuse.burn()
        return self.blocks[number][0] if number < len(self.blocks) else None

    async def assigned(self, first: int, last: int) -> list[SeenCall]:
        self.fuse.burn()
        return [
            SeenCall(
                key,
                0,
                self.state.calls[key].inputs,
                keccak(self.state.calls[key].inputs),
                FAR,
                self.blocks[number][0],
            )
            for number in range(first, last + 1)
            for key in self.state.assigned.get(number, [])
        ]

    async def job(self, key: CallKey, at: Block) -> ChainJob:
        self.fuse.burn()
        call = self._at(at).calls.get(key)
        if call is None:
            return ChainJob(OTHER, 0, 0, JobStatus.NONE, 0, False, NO_HASH)
        return ChainJob(call.operator, FAR, 0, call.status, 1, False, call.result_hash)

    async def is_spoilt(self, key: CallKey, at: Block) -> bool:
        call = self._at(at).calls[key]
        return call.is_answered and call.status is JobStatus.PENDING

    def results_call(self, results) -> bytes:
        return msgspec.msgpack.encode([(key.service, key.call, data) for key, data in results])

    async def gas_for(self, to: str, data: bytes) -> int:
        self.fuse.burn()
        for service, call, _ in msgspec.msgpack.decode(data):
            known = self.state.calls.get(CallKey(service, call))
            if known is None or known.is_answered:
                raise RevertedError(b"")
        return 100

    async def priority_fee(self) -> int:
        return 1

    async def nonces(self) -> Nonces:
        self.fuse.burn()
        pending = self.state.nonce
        while pending in self.pool:
            pending += 1
        return Nonces(self.state.nonce, pending)

    async def mined_at(self, block: Block) -> int:
        self.fuse.burn()
        return self._at(block).nonce

    async def broadcast(self, raw: bytes) -> None:
        self.fuse.burn()
        new = self._read(raw)
        if new.nonce < self.state.nonce:
            raise NodeRefusedError("nonce too low")
        old = self.pool.get(new.nonce)
        is_other = old is not None and old != raw
        if is_other and new.fees.max_fee * 10 < self._read(old).fees.max_fee * 11:
            raise NodeRefusedError("replacement transaction underpriced")
        self.pool[new.nonce] = raw
        self.fuse.burn()

    async def settlement(self, digest: bytes) -> Settlement | None:
        self.fuse.burn()
        return self.state.receipts.get(digest)

    # How it works inside

    def _at(self, block: Block) -> State:
        for known, state in self.blocks:
            if known == block:
                return state
        raise NodeRefusedError("unknown block")

    def _append(self, change) -> None:
        number = len(self.blocks)
        state = copy.deepcopy(self.state)
        state.mined = []
        change(state, number)
        self.blocks.append((Block(number, self._hash(number)), state))

    def _include(self, state: State, number: int) -> None:
        while raw := self.pool.pop(state.nonce, None):
            state.nonce += 1
            state.mined.append(raw)
            block = Block(number, self._hash(number))
            state.receipts[keccak(raw)] = self._apply(state, self._read(raw), block)
        self.pool = {nonce: raw for nonce, raw in self.pool.items() if nonce >= state.nonce}

    def _apply(self, state: State, transaction: Transaction, block: Block) -> Settlement:
        if transaction.to != TANGLE:
            return Settlement(block, is_success=True)
        entries = [
            (CallKey(service, call), data)
            for service, call, data in msgspec.msgpack.decode(transaction.data)
        ]
        known = [state.calls.get(key) for key, _ in entries]
        if any(call is None or call.is_answered for call in known):
            self.second_answers += any(call is not None and call.is_answered for call in known)
            return Settlement(block, is_success=False)
        accepted, rejected = set(), {}
        for key, data in entries:
            call = state.calls[key]
            call.is_answered = True
            if call.operator != ME:
                rejected[key] = Rejection.NOT_ASSIGNEE
            elif data[:32] != keccak(call.inputs):
                rejected[key] = Rejection.OTHER_INPUTS
            else:
                call.status, call.result_hash = JobStatus.DONE, keccak(data)
                accepted.add(key)
        return Settlement(block, True, frozenset(accepted), rejected)

    def _read(self, raw: bytes) -> Transaction:
        return msgspec.msgpack.decode(raw, type=Transaction)

    def _hash(self, number: int) -> bytes:
        return keccak(f"{number}/{self.forks}".encode())


def _fused(name):
    def method(self, *arguments, **named):
        self._fuse.burn()
        answer = getattr(Journal, name)(self, *arguments, **named)
        self._fuse.burn()
        return answer

    return method


class FusedJournal(Journal):
    """Dies right before or right after it has written."""

    def __init__(self, path, fuse: Fuse) -> None:
        super().__init__(path, chain_id=1, manager="0x")
        self._database.execute("PRAGMA synchronous = OFF")
        self._fuse = fuse

    see = _fused("see")
    rewind = _fused("rewind")
    started = _fused("started")
    ran = _fused("ran")
    sending = _fused("sending")
    unsent = _fused("unsent")
    confirmed = _fused("confirmed")
    rejected = _fused("rejected")
    expired = _fused("expired")


class SimulatedRunner:
    """The executor with its idempotency: a call with the same inputs runs once."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse

    async def run(self, seen: SeenCall, *, seconds: float) -> bytes:
        self._fuse.burn()
        return result_of(seen.inputs)

    async def failure(self, seen: SeenCall, error: Exception) -> bytes:
        return keccak(seen.inputs) + b"failed"
