"""One operator's jobs over the whole platform in memory: its key, its store, and its callers."""

from dataclasses import dataclass, field, replace

from eth_account import Account

from faas.blobs.local import LocalBlobStore
from faas.chain.carriage import Carriage, SharedStore
from faas.chain.codec import (
    JobCall,
    JobStatus,
    ResultEnvelope,
    decode_failure,
    decode_output,
    decode_result,
    encode_call,
    inputs_hash_of,
)
from faas.chain.handlers import JobRunner
from faas.chain.job_context import JobSettings
from faas.chain.journal import Block, CallKey, SeenCall
from faas.chain.receipts import decode_receipt
from faas.chain.wallet import LocalWallet
from faas.executor.fake import FakePlatform

CHAIN = 31337
MANAGER = "0x" + "11" * 20
ALICE = Account.from_key("0x" + "a1" * 32).address
MALLORY = Account.from_key("0x" + "b2" * 32).address
STORE = "s3://shared/jobs"


@dataclass
class Outcome:
    envelope: ResultEnvelope
    seen: SeenCall
    job: JobCall | None

    @property
    def output(self):
        assert self.envelope.status is JobStatus.DONE, self.failure
        return decode_output(self.job.kind, self.envelope.output)

    @property
    def failure(self):
        assert self.envelope.status is JobStatus.FAILED
        return decode_failure(self.envelope.output)

    @property
    def code(self):
        return self.failure[0]

    @property
    def receipt(self):
        return decode_receipt(self.envelope.receipt).receipt


@dataclass
class Desk:
    platform: FakePlatform
    wallet: LocalWallet = field(
        default_factory=lambda: LocalWallet(bytes.fromhex("c3" * 32), chain_id=CHAIN)
    )
    settings: JobSettings = field(default_factory=lambda: JobSettings(CHAIN, MANAGER))
    calls: int = 0
    has_store: bool = True

    @property
    def store(self):
        return LocalBlobStore(self.platform.data_dir / "shared")

    @property
    def runner(self):
        store = SharedStore(STORE, self.store) if self.has_store else None
        carriage = Carriage(CHAIN, MANAGER, store, self.wallet)
        return JobRunner(
            self.platform.executor,
            self.settings,
            carriage=carriage,
            clock=self.platform.clock,
            notary=self.wallet,
        )

    def seen(self, inputs: bytes, *, job: int, caller: str = ALICE, call: int | None = None):
        if call is None:
            call, self.calls = self.calls, self.calls + 1
        block = Block(1, bytes(32))
        return SeenCall(
            CallKey(0, call), job, inputs, inputs_hash_of(inputs), 10**10, block, caller
        )

    async def do(self, job: JobCall, *, caller: str = ALICE) -> Outcome:
        return await self.again(self.seen(encode_call(job), job=job.kind, caller=caller), job)

    async def again(self, seen: SeenCall, job: JobCall | None = None) -> Outcome:
        """Run a call, perhaps one that ran before."""
        result = await self.runner.run(seen, seconds=500)
        return Outcome(decode_result(result), seen, job)

    async def restart(self) -> None:
        """`kill -9` of the operator, and its next start on the same machine."""
        await self.platform.crash()
        self.platform = await self.platform.reopen()

    def limited(self, **limits) -> None:
        ceilings = replace(self.settings.ceilings, **limits)
        self.settings = replace(self.settings, ceilings=ceilings)
