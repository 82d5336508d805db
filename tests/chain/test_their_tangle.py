"""Operator and client on the protocol's own contracts, where the record of a deployment is at hand.

`test_dev_tangle_flow.py` holds the contracts to one another; here the programs run on theirs.
"""

import asyncio
import re

import pytest
from tests.chain.operating import PATIENCE_SECONDS, OperatorProcess, User
from tests.chain.world import Ground, deploy_world
from web3 import AsyncHTTPProvider, AsyncWeb3

from faas.chain.contract import Contracts, StatusRegistry
from faas.chain.dev import CHAIN_ID, DevChain, dev_account
from faas.chain.rpc import Node
from faas.chain.surroundings import Expected, look
from faas.clock import SystemClock
from faas_sdk.tangle import ExecuteFunction, NoOperatorFreeError, QuoteRefusedError, TangleClient

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def chain(forge_build, their_timely_tangle):
    """A service of two operators, described as `faas chain dev` describes its own."""
    w3 = AsyncWeb3(AsyncHTTPProvider(their_timely_tangle.url))
    world = await deploy_world(Ground(w3, their_timely_tangle), operators=2, capacity=8)
    registry = w3.to_checksum_address(their_timely_tangle.status_registry)
    await world.send(world.faas.functions.setStatusRegistry(registry), world.owner)
    yield DevChain(
        http_url=their_timely_tangle.url,
        ws_url=their_timely_tangle.url.replace("http", "ws", 1),
        chain_id=CHAIN_ID,
        tangle=world.tangle.address,
        manager=world.faas.address,
        status_registry=registry,
        blueprint=world.blueprint,
        service=world.service,
        owner=dev_account(0),
        user=dev_account(1),
        operators=(dev_account(6), dev_account(7)),
    )
    await w3.provider.disconnect()


@pytest.fixture
async def operators(chain, tmp_path):
    made = [OperatorProcess(chain, tmp_path, index) for index in range(2)]
    yield made
    for each in made:
        await each.kill()


@pytest.fixture
async def client(chain, tmp_path):
    async with TangleClient(chain=chain.write(tmp_path / "keys")) as made:
        yield made


async def test_the_surroundings_are_as_an_operator_needs_them(chain):
    node = Node(chain.http_url)
    contracts = Contracts(node, chain.tangle, chain.manager)
    expected = Expected(CHAIN_ID, chain.operators[0].address, chain.service)
    findings = await look(contracts, expected, SystemClock())
    await node.aclose()
    assert [each for each in findings if not each.is_ok] == []


async def test_jobs_come_back_and_several_operators_agree(operators, client, chain):
    for each in operators:
        await each.start()
    result = await client.execute_function("", ["echo", "theirs"], timeout=PATIENCE_SECONDS)
    assert result.result == b"theirs\n"
    assert (await client.get_job_call(result.call_id)).is_completed
    await _all_beat(chain)
    checked = await client.execute_function("", ["echo", "same"], verify_with=2)
    assert set(checked.agreed_by) == {each.address for each in chain.operators}
    results = await asyncio.gather(
        *(client.execute_function("", ["echo", str(n)]) for n in range(12))
    )
    assert [each.text for each in results] == [f"{n}\n" for n in range(12)]


async def test_operator_killed_while_it_runs_answers_once(operators, client, chain):
    # One of the two is the assignee; both serve.
    for each in operators:
        await each.start()
    handle = await client.submit_job(ExecuteFunction("", ("sh", "-c", "sleep 1; echo once")))
    addresses = [each.address for each in chain.operators]
    assignee = addresses.index(await client.get_assigned_operator(handle.call_id))
    await asyncio.sleep(0.5)
    await operators[assignee].kill()
    await operators[assignee].start()
    assert (await handle.result(PATIENCE_SECONDS)).result == b"once\n"
    assert (await client.get_job_call(handle.call_id)).result_count == 1


async def test_quoted_job_is_done_by_who_signed_and_its_quote_is_good_once(
    operators, client, chain
):
    await operators[1].start("--quote-port", "0")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := re.search(r"listening on (http://\S+)", operators[1].said())):
            await asyncio.sleep(0.05)
    job = ExecuteFunction("", ("echo", "quoted"))
    quotes = await client.quote(job, [found.group(1)])
    result = await (await client.submit_from_quote(job, quotes)).result(PATIENCE_SECONDS)
    assert (result.result, result.operator) == (b"quoted\n", chain.operators[1].address)
    with pytest.raises(QuoteRefusedError):
        await client.submit_from_quote(job, quotes)


async def test_refusal_of_the_manager_keeps_its_name(client):
    for _ in range(16):
        await client.submit_job(ExecuteFunction("", ("true",)))
    with pytest.raises(NoOperatorFreeError):
        await client.submit_job(ExecuteFunction("", ("true",)))


async def _all_beat(chain):
    user = User(chain)
    try:
        for each in chain.operators:
            data = StatusRegistry.IS_ONLINE.encode(chain.service, each.address)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not StatusRegistry.IS_ONLINE.decode(
                    await user.node.call(chain.status_registry, data)
                )[0]:
                    await asyncio.sleep(0.05)
    finally:
        await user.node.aclose()
