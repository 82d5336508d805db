"""What nodes do to an operator: they forget, restart, reorganise, refuse. No job is lost."""

import asyncio
import contextlib
import os
import socket
from dataclasses import replace

import pytest
from tests.chain.node_proxy import NodeProxy
from tests.chain.operating import PATIENCE_SECONDS, OperatorProcess, User

from faas.chain.codec import (
    ExecuteFunction,
    JobKind,
    JobStatus,
    decode_failure,
    decode_output,
    encode_call,
    encode_result,
)
from faas.chain.contract import Manager, Tangle, key_of
from faas.chain.dev import CHAIN_ID, deploy, find_anvil, run_anvil

pytestmark = pytest.mark.timeout(240)
SLOW = encode_call(ExecuteFunction("", ("sh", "-c", "sleep 1; echo slow"), (), b""))


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
async def operator(chain, tmp_path):
    made = OperatorProcess(chain, tmp_path)
    yield made
    await made.kill()


async def _done(user, key, output):
    assert (await user.over(key)).status is JobStatus.DONE
    [result] = await user.results(key)
    assert decode_output(JobKind.EXECUTE_FUNCTION, result.output) == output


async def _pending(user, operator):
    """The hashes of what the account has in the node's pool, by nonce."""
    pool = await user.node.request("txpool_content")
    found = {}
    for part in (pool["pending"], pool["queued"]):
        for sender, transactions in part.items():
            if sender.lower() == operator.lower():
                found |= {int(nonce): each["hash"] for nonce, each in transactions.items()}
    return found


async def _until_pending(user, operator, count):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found := await _pending(user, operator)) < count:
            await asyncio.sleep(0.05)
    return found


async def _mine_until_over(user, keys):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not all([(await user.contracts.job(key)).is_over for key in keys]):
            await user.node.request("evm_mine")
            await asyncio.sleep(0.2)


async def test_result_that_the_pool_lost_is_sent_again_and_its_nonce_blocks_nothing(
    operator, user, chain
):
    """The first of two is dropped: the second waits behind the gap until it is filled."""
    me = chain.operators[0].address
    await operator.start()
    await user.over(await user.echo("warm"))
    await user.node.request("evm_setAutomine", False)
    digests = [
        await user.node.request(
            "eth_sendTransaction", _submission(user, encode_call(_printing(number)))
        )
        for number in range(2)
    ]
    await user.node.request("evm_mine")
    keys = [await _key(user, digest) for digest in digests]
    found = await _until_pending(user, me, 2)
    await user.node.request("anvil_dropTransaction", found[min(found)])
    await _mine_until_over(user, keys)
    await user.node.request("evm_setAutomine", True)
    for number, key in enumerate(keys):
        await _done(user, key, f"{number}\n".encode())


async def test_nonce_that_another_program_took_is_no_lost_result(operator, user, chain):
    """A transfer by the same account outbids the result: it can never be mined, and is signed
    anew."""
    me = chain.operators[0].address
    await operator.start()
    await user.over(await user.echo("warm"))
    await user.node.request("evm_setAutomine", False)
    digest = await user.node.request("eth_sendTransaction", _submission(user, SLOW))
    await user.node.request("evm_mine")
    key = await _key(user, digest)
    [nonce] = await _until_pending(user, me, 1)
    dear = {"maxFeePerGas": hex(10**12), "maxPriorityFeePerGas": hex(10**12)}
    await user.node.request(
        "eth_sendTransaction",
        {"from": me, "to": me, "nonce": hex(nonce), "gas": hex(21_000)} | dear,
    )
    await user.node.request("evm_mine")
    assert not (await user.contracts.job(key)).is_over
    await _mine_until_over(user, [key])
    await user.node.request("evm_setAutomine", True)
    await _done(user, key, b"slow\n")


@pytest.mark.parametrize("has_seen_it", [True, False])
async def test_reorg_under_a_sent_result_settles_it_again(operator, user, chain, has_seen_it):
    """The node reorganises by itself: no event says so, and the block's number comes back."""
    await operator.start("--result-confirmations", "4")
    key = await user.echo("again")
    await user.over(key)
    if has_seen_it:
        await asyncio.sleep(2)  # two looks of the feed
    await user.node.request("anvil_reorg", 1, [])
    async with asyncio.timeout(PATIENCE_SECONDS):
        while has_seen_it and "reorganised" not in operator.said():
            await asyncio.sleep(0.05)
    for _ in range(6):
        await user.node.request("evm_mine")
        await asyncio.sleep(0.1)
    await _done(user, key, b"again\n")


async def test_node_that_restarts_without_its_pool_gets_the_result_again(forge_build, tmp_path):
    port = _free_port()
    async with _anvil(port, tmp_path) as url:
        chain = await deploy(url, operators=1)
        user = User(chain)
        operator = OperatorProcess(chain, tmp_path)
        await operator.start()
        await user.over(await user.echo("warm"))
        await user.node.request("evm_setAutomine", False)
        digest = await user.node.request("eth_sendTransaction", _submission(user, SLOW))
        await user.node.request("evm_mine")
        key = await _key(user, digest)
        await _until_pending(user, chain.operators[0].address, 1)
        await user.node.aclose()
    try:
        await asyncio.sleep(1)
        async with _anvil(port, tmp_path):
            user = User(chain)
            assert (await user.contracts.job(key)).status is JobStatus.PENDING
            await _mine_until_over(user, [key])
            await _done(user, key, b"slow\n")
            await _done(user, await user.echo("after"), b"after\n")
            await user.node.aclose()
    finally:
        await operator.kill()


async def test_node_that_searches_few_blocks_at_once_is_asked_for_fewer(chain, user, tmp_path):
    proxy = NodeProxy(chain.http_url)
    proxy.range_max = 7
    await user.node.request("anvil_mine", hex(40))
    key = await user.echo("far behind")
    async with proxy.run() as address:
        operator = OperatorProcess(
            replace(chain, http_url=f"http://{address}", ws_url=f"ws://{address}"), tmp_path
        )
        try:
            await operator.start()
            await _done(user, key, b"far behind\n")
        finally:
            await operator.kill()


async def test_job_that_was_passed_on_long_after_its_submission_is_found(forge_build, tmp_path):
    """Its inputs lie further before its assignment than one search of this node reaches."""
    async with run_anvil(find_anvil(), port=0) as url:
        chain = await deploy(url, operators=2)
        user = User(chain)
        key = await user.echo("long ago")
        first = (await user.contracts.job(key)).operator
        index = next(n for n, each in enumerate(chain.operators) if each.address != first)
        proxy = NodeProxy(url)
        proxy.range_max = 7
        async with proxy.run() as address:
            far = replace(chain, http_url=f"http://{address}", ws_url=f"ws://{address}")
            operator = OperatorProcess(far, tmp_path, index)
            try:
                await operator.start()
                await user.node.request("anvil_mine", hex(40))
                fields = {"from": first, "to": chain.manager}
                data = Manager.REASSIGN.encode(key.service, key.call)
                await user.node.request("eth_sendTransaction", fields | {"data": "0x" + data.hex()})
                await _done(user, key, b"long ago\n")
            finally:
                await operator.kill()
                await user.node.aclose()


async def test_inputs_that_do_not_decode_get_the_same_bytes_from_every_operator(
    forge_build, tmp_path
):
    async with run_anvil(find_anvil(), port=0) as url:
        chain = await deploy(url, operators=2)
        user = User(chain)
        both = [OperatorProcess(chain, tmp_path, index) for index in range(2)]
        try:
            # Nobody beats yet, so equals take turns.
            keys = [await user.submit(b"\xba\xd0") for _ in range(2)]
            for each in both:
                await each.start()
            jobs = [await user.over(key) for key in keys]
            assert len({job.operator for job in jobs}) == 2
            assert [job.status for job in jobs] == [JobStatus.FAILED] * 2
            results = [encode_result(result) for key in keys for result in await user.results(key)]
            assert len(results) == 2
            assert len(set(results)) == 1
        finally:
            for each in both:
                await each.kill()
            await user.node.aclose()


async def test_output_too_large_for_the_chain_is_a_failure_and_not_a_stuck_job(operator, user):
    await operator.start()
    script = ";".join(["echo " + "x" * 99] * 330)
    large = ExecuteFunction("", ("sh", "-c", script), (), b"")
    key = await user.submit(encode_call(large))
    assert (await user.over(key)).status is JobStatus.FAILED
    [result] = await user.results(key)
    assert decode_failure(result.output)[0] == "too_large"


def _printing(number):
    """The later one takes so much longer that its result goes alone."""
    return ExecuteFunction("", ("sh", "-c", f"sleep {0.5 + 4 * number}; echo {number}"), (), b"")


def _submission(user, inputs):
    data = Tangle.SUBMIT_JOB.encode(user.chain.service, 0, inputs)
    fields = {"from": user.chain.user.address, "to": user.chain.tangle, "gas": hex(600_000)}
    return fields | {"data": "0x" + data.hex()}


async def _key(user, digest):
    receipt = await user.node.receipt(bytes.fromhex(digest[2:]))
    assert receipt is not None
    assert receipt.is_success
    [entry] = [e for e in receipt.logs if e.topics[0] == Tangle.JOB_SUBMITTED.topic]
    return key_of(entry)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.asynccontextmanager
async def _anvil(port, directory):
    """A node that keeps its chain, and not its pool, in a file."""
    process = await asyncio.create_subprocess_exec(
        *(str(find_anvil()), "--host", "127.0.0.1", "--port", str(port), "--silent"),
        *("--chain-id", str(CHAIN_ID), "--accounts", "20"),
        *("--state", str(directory / "chain-state.json"), "--preserve-historical-states"),
        env={"PATH": os.defpath, "HOME": str(directory)},
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
