"""What goes wrong round an operator, on a real node: no job is lost and none is answered twice."""

import asyncio
from dataclasses import replace

import pytest
from tests.chain.node_proxy import NodeProxy
from tests.chain.operating import OperatorProcess, User

from faas.chain.codec import ExecuteFunction, JobKind, JobStatus, decode_output, encode_call
from faas.chain.contract import Manager
from faas.chain.dev import deploy, find_anvil, run_anvil

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def chain(forge_build):
    async with run_anvil(find_anvil(), port=0) as url:
        yield await deploy(url, operators=1)


@pytest.fixture
async def user(chain):
    made = User(chain)
    yield made
    await made.node.aclose()


@pytest.fixture
async def proxy(chain):
    made = NodeProxy(chain.http_url)
    async with made.run() as address:
        made.address = address
        yield made


@pytest.fixture
async def operator(chain, proxy, tmp_path):
    """Behind the proxy; the user is not."""
    far = replace(chain, http_url=f"http://{proxy.address}", ws_url=f"ws://{proxy.address}")
    made = OperatorProcess(far, tmp_path)
    yield made
    await made.kill()


async def _output(user, key):
    job = await user.over(key)
    assert job.status is JobStatus.DONE
    [result] = await user.results(key)
    return decode_output(JobKind.EXECUTE_FUNCTION, result.output)


async def _until(condition, seconds=60):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def test_node_that_goes_away_and_comes_back_costs_no_job(operator, user, proxy):
    await operator.start()
    assert await _output(user, await user.echo("before")) == b"before\n"
    proxy.is_down = True
    await proxy.drop_sockets()
    keys = [await user.echo(f"while down {n}") for n in range(3)]
    await _until(lambda: "could not be asked" in operator.said())
    proxy.is_down = False
    for n, key in enumerate(keys):
        assert await _output(user, key) == f"while down {n}\n".encode()


async def test_dropped_socket_is_opened_again_and_jobs_go_on_meanwhile(operator, user, proxy):
    await operator.start()
    await _until(lambda: proxy.sockets)
    await proxy.drop_sockets()
    assert await _output(user, await user.echo("by polling")) == b"by polling\n"
    await _until(lambda: proxy.sockets)
    assert await _output(user, await user.echo("by news")) == b"by news\n"


async def test_node_that_lags_is_waited_for_and_no_reorg_is_seen(operator, user, proxy):
    await operator.start()
    first = await user.echo("first")
    await _output(user, first)
    # More than what came after the block of the job: the cursor is at that at least.
    proxy.lag = 4
    await _until(lambda: "was read" in operator.said())
    second = await user.echo("second")
    proxy.lag = 0
    assert await _output(user, second) == b"second\n"
    assert "reorganised" not in operator.said()
    assert len(await user.results(first)) == 1


async def test_fee_spike_makes_a_stuck_result_dearer_until_it_lands(operator, user):
    await operator.start()
    await _output(user, await user.echo("warm"))
    key = await user.submit(encode_call(ExecuteFunction("", ("sleep", "1"), (), b"")))
    await user.node.request("evm_setAutomine", False)
    async with asyncio.timeout(60):
        while not await _pool(user):
            await asyncio.sleep(0.05)
    # Blocks go by whose price the result does not pay.
    for _ in range(12):
        await user.node.request("anvil_setNextBlockBaseFeePerGas", hex(12 * 10**9))
        await user.node.request("evm_mine")
        await asyncio.sleep(0.4)
        if (await user.contracts.job(key)).is_over:
            break
    await user.node.request("evm_setAutomine", True)
    async with asyncio.timeout(60):
        while not (await user.contracts.job(key)).is_over:
            await user.node.request("evm_mine")
            await asyncio.sleep(0.2)
    assert len(await user.results(key)) == 1


async def _pool(user):
    found = await user.node.request("txpool_content")
    return found["pending"] or found["queued"]


async def test_reorg_under_a_running_job_gives_its_number_to_another(operator, user):
    await operator.start()
    await _output(user, await user.echo("warm"))
    snapshot = await user.node.request("evm_snapshot")
    old = await user.submit(
        encode_call(ExecuteFunction("", ("sh", "-c", "sleep 6; echo old"), (), b""))
    )
    await asyncio.sleep(1.5)
    await user.node.request("evm_revert", snapshot)
    new = await user.echo("new")
    assert new == old
    for _ in range(4):
        await user.node.request("evm_mine")
    assert await _output(user, new) == b"new\n"


async def test_job_of_a_silent_operator_is_done_by_the_other_after_the_deadline(
    forge_build, tmp_path
):
    async with run_anvil(find_anvil(), port=0) as url:
        chain = await deploy(url, operators=2)
        user = User(chain)
        serving = OperatorProcess(chain, tmp_path, index=1)
        try:
            # Nobody beats yet, so equals take turns: one of two calls is the silent one's.
            keys = [await user.echo(str(n)) for n in range(2)]
            silent = chain.operators[0].address
            [late] = [k for k in keys if (await user.contracts.job(k)).operator == silent]
            await serving.start()
            deadline = (await user.contracts.job(late)).deadline
            [own] = [k for k in keys if k != late]
            await user.over(own)
            await user.node.request("evm_setNextBlockTimestamp", deadline + 1)
            await user.node.request("evm_mine")
            data = "0x" + Manager.REASSIGN.encode(late.service, late.call).hex()
            fields = {"from": chain.user.address, "to": chain.manager, "data": data}
            await user.node.request("eth_sendTransaction", fields)
            job = await user.over(late)
            assert (job.status, job.operator) == (JobStatus.DONE, chain.operators[1].address)
        finally:
            await serving.kill()
            await user.node.aclose()


async def test_two_operators_that_race_for_one_job_end_it_once(forge_build, tmp_path):
    """A job is passed on while its first operator still runs it: only the new one's result ends
    it."""
    async with run_anvil(find_anvil(), port=0) as url:
        chain = await deploy(url, operators=2)
        user = User(chain)
        both = [OperatorProcess(chain, tmp_path, index) for index in range(2)]
        try:
            for each in both:
                await each.start()
            await user.over(await user.echo("warm"))
            slow = encode_call(ExecuteFunction("", ("sh", "-c", "sleep 4; echo done"), (), b""))
            key = await user.submit(slow)
            first = (await user.contracts.job(key)).operator
            data = "0x" + Manager.REASSIGN.encode(key.service, key.call).hex()
            await asyncio.sleep(1)
            # The assignee may decline at once; here somebody does it in its name.
            fields = {"from": first, "to": chain.manager, "data": data}
            await user.node.request("eth_sendTransaction", fields)
            job = await user.over(key)
            assert job.operator != first
            await asyncio.sleep(3)
            assert await _output(user, key) == b"done\n"
        finally:
            for each in both:
                await each.kill()
            await user.node.aclose()
