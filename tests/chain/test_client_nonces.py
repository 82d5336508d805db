"""A client signs anew only when another transaction has its nonce: else it would submit twice."""

import asyncio

import pytest
from tests.chain.operating import PATIENCE_SECONDS, User

from faas.chain.dev import deploy, find_anvil, run_anvil
from faas_sdk.tangle import ExecuteFunction, JobNotFoundError, TangleClient
from faas_sdk.tangle._node import NodeRefusedError
from faas_sdk.tangle._nonces import used_by

ECHO = ExecuteFunction("", ("echo", "hi"))


@pytest.fixture
async def chain(forge_build):
    async with run_anvil(find_anvil(), port=0) as url:
        yield await deploy(url, operators=1)


@pytest.fixture
async def client(chain, tmp_path):
    async with TangleClient(chain=chain.write(tmp_path / "keys")) as made:
        yield made


async def test_receipt_that_comes_later_than_the_count_is_waited_for(client):
    """As nodes behind one address do: one counts the transaction, the other does not have it."""
    node = client.calls.contracts.node
    look, looks = node.receipt, []

    async def blind(digest):
        looks.append(digest)
        return None if len(looks) < 6 else await look(digest)

    node.receipt = blind
    assert (await client.submit_job(ECHO)).call_id == 0
    assert len(set(looks)) == 1
    with pytest.raises(JobNotFoundError):
        await client.get_job(1)


async def test_lost_answer_to_a_sending_is_not_taken_for_a_used_nonce(client):
    """The node took it and mined it; what is heard of it is that the nonce is too low."""
    node = client.calls.contracts.node
    send, sent = node.send_raw, []

    async def lossy(raw):
        sent.append(raw)
        await send(raw)
        raise NodeRefusedError("nonce too low")

    node.send_raw = lossy
    handle = asyncio.ensure_future(client.submit_job(ECHO))
    assert (await asyncio.wait_for(handle, PATIENCE_SECONDS)).call_id == 0
    assert len(sent) == 1
    with pytest.raises(JobNotFoundError):
        await client.get_job(1)


async def test_who_used_a_nonce_is_found_however_long_ago_it_was(client, chain):
    user = User(chain)
    node = client.calls.contracts.node
    try:
        before = await user.node.transaction_count(client.address)
        digests = []
        for _ in range(3):
            handle = await client.submit_job(ECHO)
            digests.append(bytes.fromhex(handle.tx_hash[2:]))
            await user.node.request("anvil_mine", hex(17))
        for n, digest in enumerate(digests):
            assert await used_by(node, client.address, before + n) == digest
        assert await used_by(node, client.address, before + 3) is None
        assert await used_by(node, chain.operators[0].address, 10**6) is None
    finally:
        await user.node.aclose()
