"""Whatever the chain does and wherever the operator dies: no job lost, none answered twice."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from tests.simulation.operator_world import (
    ME,
    Fuse,
    FusedJournal,
    KilledError,
    SimulatedChain,
    SimulatedRunner,
    SimulatedWallet,
    result_of,
)

from faas.chain.codec import JobStatus
from faas.chain.feed import Feed
from faas.chain.journal import CallKey
from faas.chain.rpc import NodeRefusedError
from faas.chain.sender import Sender, SendSettings
from faas.chain.worker import Worker, WorkSettings

INPUTS = st.sampled_from([b"a", b"b", b"c"])


class OperatorMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "journal"
        self.fuse = Fuse()
        self.chain = SimulatedChain(self.fuse)
        self.runner = asyncio.Runner()
        self._open()

    def _open(self):
        self.journal = FusedJournal(self.path, self.fuse)
        self.journal.interrupt_all()
        self.worker = Worker(
            self.chain, self.journal, SimulatedRunner(self.fuse), WorkSettings(margin_seconds=0)
        )
        self.feed = Feed(
            self.chain, self.journal, first_block=1, range_max=3, on_dropped=self.worker.drop
        )
        send = SendSettings(batch_max=2, in_flight_max=3, bump_blocks=2, max_fee_cap=10**6)
        self.sender = Sender(self.chain, self.journal, SimulatedWallet(), send)

    def _restart(self):
        self.fuse.left = None
        self.journal.close()
        self._open()

    def _do(self, step):
        try:
            self.runner.run(step())
        except KilledError:
            self._restart()
        except NodeRefusedError:
            pass  # the cursor's block is gone; the next poll says so

    async def _poll(self):
        self.head = await self.feed.poll()

    async def _work(self):
        head = await self.feed.poll()
        for entry in self.worker.due(head):
            await self.worker.answer(entry, head)

    async def _send(self):
        await self.sender.tick()

    @rule(inputs=INPUTS)
    def submit(self, inputs):
        self.chain.submit(inputs)

    @rule()
    def mine(self):
        self.chain.mine()

    @rule()
    def poll(self):
        self._do(self._poll)

    @rule()
    def work(self):
        self._do(self._work)

    @rule()
    def send(self):
        self._do(self._send)

    @rule(depth=st.integers(1, 4), pool_keeps=st.booleans())
    def reorg(self, depth, pool_keeps):
        self.chain.reorg(depth, pool_keeps=pool_keeps)

    @rule()
    def lose_pool(self):
        self.chain.lose_pool()

    @rule(after=st.integers(1, 30))
    def die(self, after):
        self.fuse.left = after

    @rule()
    def restart(self):
        self._restart()

    @precondition(lambda self: any(self._passable()))
    @rule(data=st.data())
    def pass_on(self, data):
        self.chain.pass_on(data.draw(st.sampled_from(self._passable())))

    def _passable(self):
        calls = self.chain.state.calls.items()
        return [key for key, call in calls if call.operator == ME and not call.is_answered]

    def teardown(self):
        try:
            self.fuse.left = None
            for _ in range(40):
                for step in (self._poll, self._work, self._send):
                    self.runner.run(step())
                self.chain.mine()
            self._check()
        finally:
            self.journal.close()
            self.runner.close()
            self.directory.cleanup()

    def _check(self):
        for key, call in self.chain.state.calls.items():
            if call.operator != ME or (call.is_answered and call.status is JobStatus.PENDING):
                continue
            assert call.status is JobStatus.DONE, f"{key} was lost"
        assert self.chain.second_answers == 0


OperatorMachine.TestCase.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, print_blob=True
)
TestOperatorMachine = pytest.mark.timeout(300)(OperatorMachine.TestCase)


@pytest.mark.parametrize("fuse", range(1, 60))
def test_killed_at_every_single_step_the_job_is_done_once(fuse):
    machine = OperatorMachine()
    key = machine.chain.submit(b"a")
    machine.fuse.left = fuse
    for _ in range(3):
        machine.work()
        machine.send()
        machine.mine()
    machine.teardown()
    call = machine.chain.state.calls[key]
    assert machine.chain.state.nonce == 1, "one transaction, whatever happened"
    assert call.status is JobStatus.DONE
    assert call.result_hash == machine_hash(b"a")


def machine_hash(inputs):
    from eth_hash.auto import keccak

    return keccak(result_of(inputs))


def test_calls_are_told_apart_by_service_and_number():
    assert CallKey(0, 1) != CallKey(1, 1)
