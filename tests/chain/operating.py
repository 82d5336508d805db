"""A real `faas operator` process over the fake runtime, and a user who submits jobs."""

import asyncio
import signal
import sys
from pathlib import Path

from faas.chain.codec import (
    ExecuteFunction,
    JobCall,
    JobKind,
    JobStatus,
    ResultEnvelope,
    decode_failure,
    decode_output,
    decode_result,
    encode_call,
    encode_output,
    encode_result,
    inputs_hash_of,
)
from faas.chain.contract import ChainJob, Contracts, Tangle, key_of
from faas.chain.dev import DevChain
from faas.chain.journal import CallKey
from faas.chain.rpc import Node

PATIENCE_SECONDS = 60


class OperatorProcess:
    """One operator of a development chain; `kill` and `start` as often as wanted."""

    def __init__(
        self, chain: DevChain, directory: Path, index: int = 0, *, runtime: str = "fake"
    ) -> None:
        self.chain = chain
        self.runtime = runtime
        self.keys = directory / "keys"
        self.index = index
        self.data_dir = directory / f"data-{index}"
        self.log = directory / f"operator-{index}.log"
        self.process = None
        chain.write(self.keys)

    async def start(self, *more: str, has_key: bool = True) -> "OperatorProcess":
        key = ("--key-file", str(self.keys / f"operator-{self.index}.key")) if has_key else ()
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "faas", "operator"),
                *("--chain", str(self.keys / "chain.json")),
                *key,
                *("--data-dir", str(self.data_dir), "--set", f"runtimes={self.runtime}"),
                *("--set", "drain_seconds=20", *more),
                stdout=log,
                stderr=log,
            )
        return self

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()

    def said(self) -> str:
        return self.log.read_text()[-4000:]


class User:
    """Submits jobs and looks at what became of them."""

    def __init__(self, chain: DevChain) -> None:
        self.chain = chain
        self.node = Node(chain.http_url)
        self.contracts = Contracts(self.node, chain.tangle, chain.manager)

    async def submit(self, inputs: bytes, *, job: int = 0, sender: str | None = None) -> CallKey:
        data = Tangle.SUBMIT_JOB.encode(self.chain.service, job, inputs)
        gas = 600_000 + 60 * len(inputs)
        sender = sender or self.chain.user.address
        fields = {"from": sender, "to": self.chain.tangle, "gas": hex(gas)}
        digest = await self.node.request(
            "eth_sendTransaction", fields | {"data": "0x" + data.hex()}
        )
        while (receipt := await self.node.receipt(bytes.fromhex(digest[2:]))) is None:
            await asyncio.sleep(0.01)
        assert receipt.is_success
        [submitted] = [
            entry for entry in receipt.logs if entry.topics[0] == Tangle.JOB_SUBMITTED.topic
        ]
        return key_of(submitted)

    async def echo(self, text: str) -> CallKey:
        return await self.submit(encode_call(ExecuteFunction("", ("echo", text), (), b"")))

    async def answer(self, operator: str, handle, output: bytes) -> None:
        """Hand in a result as an operator, whoever has the job."""
        seen = await self._inputs(handle)
        envelope = ResultEnvelope(
            JobStatus.DONE,
            inputs_hash_of(seen),
            bytes(32),
            encode_output(JobKind.EXECUTE_FUNCTION, output),
        )
        data = Tangle.SUBMIT_RESULT.encode(
            handle.service_id, handle.call_id, encode_result(envelope)
        )
        fields = {"from": operator, "to": self.chain.tangle, "gas": hex(600_000)}
        digest = await self.node.request(
            "eth_sendTransaction", fields | {"data": "0x" + data.hex()}
        )
        while (receipt := await self.node.receipt(bytes.fromhex(digest[2:]))) is None:
            await asyncio.sleep(0.01)
        assert receipt.is_success

    async def _inputs(self, handle) -> bytes:
        topics = (
            Tangle.JOB_SUBMITTED.topic,
            _word(handle.service_id),
            _word(handle.call_id),
        )
        head = await self.node.head()
        [entry] = await self.node.logs(self.chain.tangle, topics, first=0, last=head.block.number)
        return Tangle.JOB_SUBMITTED.decode(entry)[-1]

    async def do(self, job: JobCall) -> object:
        """Submit a job and return its output."""
        envelope = await self.outcome(job)
        assert envelope.status is JobStatus.DONE, decode_failure(envelope.output)
        return decode_output(job.kind, envelope.output)

    async def outcome(self, job: JobCall) -> ResultEnvelope:
        """Submit a job and return the one result that was handed in for it."""
        key = await self.submit(encode_call(job), job=job.kind)
        await self.over(key)
        [envelope] = await self.results(key)
        return envelope

    async def over(self, key: CallKey) -> ChainJob:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (job := await self.contracts.job(key)).is_over:
                await asyncio.sleep(0.05)
        return job

    async def results(self, key: CallKey) -> list[ResultEnvelope]:
        """Everything that was ever handed in for a call."""
        topics = (Tangle.JOB_RESULT_SUBMITTED.topic, _word(key.service), _word(key.call))
        head = await self.node.head()
        entries = await self.node.logs(self.chain.tangle, topics, first=0, last=head.block.number)
        return [decode_result(Tangle.JOB_RESULT_SUBMITTED.decode(entry)[0]) for entry in entries]


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")
