"""The chain: jobs a second through one operator, balance of three, latency, gas, restart.

Everything is real: anvil, operator processes over the embedded runtime, echo jobs. The submitter
signs beforehand, so that it measures the operator and not itself.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_hash.auto import keccak

from benchmarks.harness import Report, Samples
from faas.chain.codec import ExecuteFunction, encode_call
from faas.chain.contract import Contracts, Manager, StatusRegistry, Tangle, operator_of
from faas.chain.dev import DevChain, deploy, find_anvil, run_anvil
from faas.chain.journal import Block, CallKey, Journal, SeenCall
from faas.chain.rpc import LogEntry, Node

PATIENCE_SECONDS = 300
BLOCK_SECONDS = 2
JOURNAL_ROWS = 10_000
ECHO = encode_call(ExecuteFunction("", ("echo", "hi"), (), b""))


def run(count: int) -> Report:
    """Hold the promises of the chain against the clock."""
    report = Report("Chain: real node, operator processes, embedded runtime, echo jobs")
    jobs = max(30, 2 * count)
    rate, cpu_ms = asyncio.run(_throughput(jobs))
    balance, spread = asyncio.run(_balance(count))
    at_once, latency = asyncio.run(_latency(max(5, count // 10)))
    gas = asyncio.run(_gas(min(count, 50)))
    first_start, restart, restart_cpu = asyncio.run(_restart())
    report.samples(at_once, latency)
    report.note(f"{jobs} jobs, one operator: {rate:.1f} jobs/s; {count} over three: {balance}")
    load, cores = os.getloadavg()[0], os.cpu_count()
    report.note(f"load average at the end: {load:.1f} on {cores} cores; what takes turns is slower")
    report.claim("jobs/s, one operator", value=rate, limit=60, at_least=True)
    report.claim("the operator's own CPU a job, ms; 60 jobs/s fit", value=cpu_ms, limit=1000 / 60)
    report.claim("most less fewest of three operators", value=spread, limit=1)
    waited = (statistics.mean(latency.values) - statistics.mean(at_once.values)) / 1000
    report.claim(
        "submitted to accepted, mean, less the same without waiting for blocks, in blocks",
        value=waited / BLOCK_SECONDS,
        limit=1.5,
    )
    report.claim("gas of a submitJob with 2 operators, the dearest", value=gas, limit=300_000)
    report.note(f"first start of an operator: {first_start:.2f} s")
    report.claim(f"restart with {JOURNAL_ROWS} rows, s", value=restart, limit=2)
    report.claim("the same, the operator's own CPU, s", value=restart_cpu, limit=2)
    return report


class _User:
    """Submits signed transactions one after the other and does not wait for each."""

    def __init__(self, chain: DevChain, node: Node) -> None:
        self.chain = chain
        self.node = node
        self.contracts = Contracts(node, chain.tangle, chain.manager)
        self.data = Tangle.SUBMIT_JOB.encode(chain.service, 0, ECHO)

    async def sign(self, count: int) -> list[bytes]:
        nonce = await self.node.transaction_count(self.chain.user.address)
        account: Any = Account.from_key(self.chain.user.key)
        fields = {
            "type": 2,
            "chainId": self.chain.chain_id,
            "to": self.chain.tangle,
            "data": self.data,
            "value": 0,
            "gas": 500_000,
            "maxFeePerGas": 10**11,
            "maxPriorityFeePerGas": 10**9,
        }
        return [
            bytes(account.sign_transaction(fields | {"nonce": nonce + n}).raw_transaction)
            for n in range(count)
        ]

    async def accepted(self, count: int, *, first: int) -> list[LogEntry]:
        """Wait for that many acceptances from a block on."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = await self._events(Manager.ACCEPTED.topic, first)
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.02)

    async def online(self, operator: str) -> None:
        """Wait for an operator's first heartbeat."""
        function, registry = StatusRegistry.IS_ONLINE, self.chain.status_registry
        data = function.encode(self.chain.service, operator)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not function.decode(await self.node.call(registry, data))[0]:
                await asyncio.sleep(0.05)

    async def assigned(self, *, first: int) -> list[LogEntry]:
        return await self._events(Manager.JOB_ASSIGNED.topic, first)

    async def _events(self, topic: bytes, first: int) -> list[LogEntry]:
        last = (await self.node.head()).block.number
        if last < first:
            return []
        return await self.node.logs(self.chain.manager, (topic,), first=first, last=last)


async def _throughput(jobs: int) -> tuple[float, float]:
    """Jobs a second, and milliseconds of the operator's processor for each."""
    async with _world(operators=1, capacity=1024) as (user, serve):
        served = await serve(0)
        await _warm(user)
        used = served.cpu_seconds()
        first = (await user.node.head()).block.number + 1
        signed = await user.sign(jobs)
        started = time.monotonic()
        for raw in signed:
            await user.node.send_raw(raw)
        sent = time.monotonic() - started
        await user.accepted(jobs, first=first)
        print(f"sent {jobs} in {sent:.2f} s", file=sys.stderr)
        rate = jobs / (time.monotonic() - started)
        return rate, (served.cpu_seconds() - used) * 1000 / jobs


async def _balance(jobs: int) -> tuple[list[int], int]:
    async with _world(operators=3, capacity=1024) as (user, serve):
        for index in range(3):
            await serve(index)
        # One that sent no heartbeat yet is passed over.
        for operator in user.chain.operators:
            await user.online(operator.address)
        first = (await user.node.head()).block.number + 1
        # All are on the chain before any operator sees one: that is what concurrent means here.
        await user.node.request("evm_setAutomine", False)  # noqa: FBT003  JSON
        for raw in await user.sign(jobs):
            await user.node.send_raw(raw)
        while len(assigned := await user.assigned(first=first)) < jobs:
            await user.node.request("evm_mine")
        await user.node.request("evm_setAutomine", True)  # noqa: FBT003  JSON
        await user.node.request("evm_mine")
        await user.accepted(jobs, first=first)
        counts = Counter(operator_of(entry) for entry in assigned)
        shares = sorted(counts.values())
        return shares, shares[-1] - (shares[0] if len(shares) == 3 else 0)


async def _latency(count: int) -> tuple[Samples, Samples]:
    async with _world(operators=1, capacity=64) as (user, serve):
        await serve(0)
        await _warm(user)
        at_once = [await _answered(user, raw) for raw in await user.sign(count)]
        await user.node.request("evm_setAutomine", False)  # noqa: FBT003  JSON
        await user.node.request("evm_setIntervalMining", BLOCK_SECONDS)
        values: list[float] = []
        for number, raw in enumerate(await user.sign(count)):
            await _new_block(user)
            # Each moment between two blocks is as likely: they are tried in turn.
            await asyncio.sleep((number + 0.5) / count * BLOCK_SECONDS)
            values.append(await _answered(user, raw))
        name = "submitted to accepted, a block"
        return (
            Samples(f"{name} per transaction", tuple(at_once)),
            Samples(f"{name} every {BLOCK_SECONDS} s", tuple(values)),
        )


async def _answered(user: _User, raw: bytes) -> float:
    first = (await user.node.head()).block.number + 1
    started = time.monotonic()
    await user.node.send_raw(raw)
    await user.accepted(1, first=first)
    return (time.monotonic() - started) * 1000


async def _new_block(user: _User) -> None:
    before = (await user.node.head()).block
    while (await user.node.head()).block == before:
        await asyncio.sleep(0.01)


async def _gas(count: int) -> int:
    """What the dearest of some submissions cost, in a service of two."""
    async with _world(operators=2, capacity=1024) as (user, _):
        signed = await user.sign(count)
        for raw in signed:
            await user.node.send_raw(raw)
        dearest = 0
        for raw in signed:
            receipt = await user.node.receipt(keccak(raw))
            if receipt is None or not receipt.is_success:
                raise RuntimeError("a submission was not mined, or failed")
            dearest = max(dearest, receipt.gas_used)
        return dearest


async def _restart() -> tuple[float, float, float]:
    async with _world(operators=1, capacity=64) as (user, serve):
        started = time.monotonic()
        served = await serve(0)
        first_start = time.monotonic() - started
        await _warm(user)
        path = await served.stop()
        journal = Journal(
            path / "operator.sqlite", chain_id=user.chain.chain_id, manager=user.chain.manager
        )
        head = journal.head() or Block(0, bytes(32))
        calls = [
            SeenCall(CallKey(1, n), 0, ECHO, bytes(32), 0, Block(0, bytes(32)))
            for n in range(JOURNAL_ROWS)
        ]
        journal.see(calls, head=head)
        journal.close()
        with contextlib.closing(sqlite3.connect(path / "operator.sqlite")) as database:
            database.execute(
                "UPDATE jobs SET state = 'confirmed', result = ?, settled = 0 WHERE service = 1",
                (bytes(600),),
            )
            database.commit()
        started = time.monotonic()
        again = await serve(0)
        return first_start, time.monotonic() - started, again.cpu_seconds()


async def _warm(user: _User) -> None:
    first = (await user.node.head()).block.number + 1
    for raw in await user.sign(3):
        await user.node.send_raw(raw)
    await user.accepted(3, first=first)


@contextlib.asynccontextmanager
async def _world(*, operators: int, capacity: int) -> AsyncGenerator[tuple[_User, Any]]:
    directory = Path(tempfile.mkdtemp(prefix="faas-bench-"))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        url = await stack.enter_async_context(run_anvil(find_anvil(), port=0))
        chain = await deploy(url, operators=operators, capacity=capacity)
        chain.write(directory)
        node = Node(url)
        stack.push_async_callback(node.aclose)

        async def serve(index: int) -> _Served:
            return await _serve(directory, index, stack)

        yield _User(chain, node), serve


@dataclass(frozen=True, slots=True)
class _Served:
    """An operator at work."""

    process: asyncio.subprocess.Process
    data_dir: Path

    async def stop(self) -> Path:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await self.process.wait()
        return self.data_dir

    def cpu_seconds(self) -> float:
        """Of the operator alone; sandboxes and their launcher are processes of their own."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _serve(directory: Path, index: int, stack: contextlib.AsyncExitStack) -> _Served:
    """Start an operator; returns when it serves."""
    data_dir = directory / f"data-{index}"
    log = directory / f"log-{index}"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "faas", "operator"),
            *("--chain", str(directory / "chain.json")),
            *("--key-file", str(directory / f"operator-{index}.key")),
            *("--data-dir", str(data_dir), "--set", "drain_seconds=5"),
            *("--set", "runtimes=embedded"),
            stdout=file,
            stderr=file,
        )

    served = _Served(process, data_dir)
    stack.push_async_callback(served.stop)
    async with asyncio.timeout(60):
        while b"operator started" not in log.read_bytes():
            if process.returncode is not None:
                raise RuntimeError(log.read_text()[-2000:])
            await asyncio.sleep(0.01)
    return served
