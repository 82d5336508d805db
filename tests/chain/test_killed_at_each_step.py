"""`kill -9` of a real operator at each step of a job, on a real node: the next start ends the job,
and hands in one result in one transaction.

The steps are found, not timed: a question to the node is held, the operator killed meanwhile.
"""

import asyncio
import contextlib
import sqlite3
from dataclasses import dataclass, replace

import pytest
from tests.chain.node_proxy import Hold, NodeProxy
from tests.chain.operating import PATIENCE_SECONDS, OperatorProcess, User

from faas.chain.codec import ExecuteFunction, JobKind, JobStatus, decode_output, encode_call
from faas.chain.contract import Manager
from faas.chain.dev import deploy, find_anvil, run_anvil

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Step:
    """Where the operator dies, and what its journal then says of the call."""

    name: str
    state: str | None
    method: str = ""
    is_after: bool = False
    is_about_tangle: bool = False


STEPS = (
    Step("reading the call", None, "eth_getLogs"),
    Step("asking whether it is still ours", "seen", "eth_call"),
    Step("running it", "running"),
    Step("trying the result", "ran", "eth_estimateGas", is_about_tangle=True),
    Step("sending, before the node has it", "sent", "eth_sendRawTransaction", is_about_tangle=True),
    Step(
        *("sending, before the node answers", "sent", "eth_sendRawTransaction"),
        is_after=True,
        is_about_tangle=True,
    ),
    Step("looking for its receipt", "sent", "eth_getTransactionReceipt"),
    Step("done", "confirmed"),
)


@pytest.fixture
async def chain(forge_build):
    async with run_anvil(find_anvil(), port=0) as url:
        yield await deploy(url, operators=1)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
async def test_killed_at_this_step_the_job_is_answered_once(step, chain, tmp_path):
    user, proxy = User(chain), NodeProxy(chain.http_url)
    async with proxy.run() as address:
        far = replace(chain, http_url=f"http://{address}", ws_url=f"ws://{address}")
        operator = OperatorProcess(far, tmp_path)
        try:
            # No heartbeat comes between: what the account sends is the result, and nothing else.
            await operator.start("--heartbeat-seconds", "3600")
            await user.over(await user.echo("warm"))
            await _idle(operator)
            before = await user.node.transaction_count(chain.operators[0].address)
            proxy.hold = _hold(step, chain)
            key = await user.submit(
                encode_call(ExecuteFunction("", ("sh", "-c", "sleep 1; echo once"), (), b""))
            )
            await _reached(step, operator, proxy, key)
            await operator.kill()
            if proxy.hold:
                proxy.hold.may_go.set()
            proxy.hold = None
            assert _state(operator, key) == step.state
            await operator.start("--heartbeat-seconds", "3600")
            assert (await user.over(key)).status is JobStatus.DONE, operator.said()
            await _idle(operator)
            [result] = await user.results(key)
            assert decode_output(JobKind.EXECUTE_FUNCTION, result.output) == b"once\n"
            sent = await user.node.transaction_count(chain.operators[0].address) - before
            # The second start beats once.
            assert sent <= 2
        finally:
            await operator.kill()
            await user.node.aclose()


def _hold(step, chain):
    if not step.method:
        return None
    about = chain.tangle[2:] if step.is_about_tangle else ""
    if step.method == "eth_call":
        about = Manager.GET_JOB.encode(0, 1).hex()
    return Hold(step.method, about, is_after=step.is_after)


async def _reached(step, operator, proxy, key) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        if proxy.hold:
            await proxy.hold.is_met.wait()
            return
        while _state(operator, key) != step.state:
            await asyncio.sleep(0.02)


async def _idle(operator) -> None:
    """All that it had is behind it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while set(_states(operator).values()) != {"confirmed"}:
            await asyncio.sleep(0.05)


def _state(operator, key):
    return _states(operator).get((key.service, key.call))


def _states(operator):
    """Read the journal beside its owner, as it lies on the disk."""
    path = operator.data_dir / "operator.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT service, call, state FROM jobs").fetchall()
    return {(service, call): state for service, call, state in rows}
