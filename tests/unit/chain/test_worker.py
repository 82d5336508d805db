"""Jobs that change one instance run one at a time, in the order of their calls."""

import asyncio

import pytest
from tests.simulation.operator_world import ME, NO_HASH

from faas.chain.codec import (
    ExecuteFunction,
    JobStatus,
    PauseInstance,
    ResumeInstance,
    StopInstance,
    encode_call,
    inputs_hash_of,
)
from faas.chain.contract import ChainJob
from faas.chain.journal import Block, CallKey, JobState, Journal, SeenCall
from faas.chain.rpc import Head
from faas.chain.worker import Worker, WorkSettings

BLOCK = Block(1, bytes(32))
HEAD = Head(BLOCK, 0, 0)


class _Chain:
    operator = ME

    async def job(self, key, at):
        return ChainJob(ME, 10**9, 0, JobStatus.PENDING, 1, False, NO_HASH)


class _Runner:
    def __init__(self):
        self.began = []
        self.may_end = asyncio.Event()

    async def run(self, seen, *, seconds):
        self.began.append(seen.key.call)
        await self.may_end.wait()
        return b"result"

    async def failure(self, seen, error):
        return b"failed"


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "journal", chain_id=1, manager="0x")
    yield made
    made.close()


def _seen(number, job, *, caller="0xA", deadline=1000):
    inputs = encode_call(job)
    key = CallKey(0, number)
    return SeenCall(key, job.kind, inputs, inputs_hash_of(inputs), deadline, BLOCK, caller)


async def _started(journal, calls):
    journal.see(calls, head=BLOCK)
    runner = _Runner()
    worker = Worker(_Chain(), journal, runner, WorkSettings(margin_seconds=0))
    worker.start_due(HEAD)
    await asyncio.sleep(0.01)
    return worker, runner


async def test_second_job_on_an_instance_waits_for_the_first_and_others_do_not(journal):
    calls = [
        _seen(3, ResumeInstance("i"), deadline=10),
        _seen(1, PauseInstance("i"), deadline=900),
        _seen(2, PauseInstance("other")),
        _seen(4, StopInstance("i"), caller="0xB"),
        _seen(5, ExecuteFunction("", ("true",), (), b"")),
    ]
    worker, runner = await _started(journal, calls)
    assert sorted(runner.began) == [1, 2, 4, 5]
    worker.start_due(HEAD)
    await asyncio.sleep(0.01)
    assert 3 not in runner.began
    runner.may_end.set()
    async with asyncio.timeout(10):
        while worker.running:
            await asyncio.sleep(0.01)
    worker.start_due(HEAD)
    async with asyncio.timeout(10):
        while journal.get(CallKey(0, 3)).state is not JobState.RAN:
            await asyncio.sleep(0.01)
    assert runner.began[-1] == 3
    await worker.aclose()


async def test_job_that_a_reorg_took_lets_the_next_on_its_instance_begin(journal):
    calls = [_seen(1, PauseInstance("i")), _seen(2, ResumeInstance("i"))]
    worker, runner = await _started(journal, calls)
    assert runner.began == [1]
    worker.drop([CallKey(0, 1)])
    journal.expired(CallKey(0, 1), "gone")
    worker.start_due(HEAD)
    await asyncio.sleep(0.01)
    assert runner.began == [1, 2]
    await worker.aclose()
