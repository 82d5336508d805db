"""`faas chain dev`: one command, and everything an operator and a client need is there."""

import asyncio
import signal
import sys

import pytest

from faas.chain.contract import Contracts, Manager, Tangle
from faas.chain.dev import find_anvil, read_dev_chain
from faas.chain.rpc import Node, RevertedError
from faas.chain.wallet import open_wallet


@pytest.fixture
async def chain_dev(forge_build, tmp_path):
    """`faas chain dev` as a process; the directory it wrote to."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "faas", "chain", "dev", "--port", "0", "--operators", "2"),
        *("--dir", str(tmp_path / "chain"), "--anvil", str(find_anvil())),
        stdout=asyncio.subprocess.PIPE,
    )
    line = await process.stdout.readline()
    assert line.decode().strip() == str(tmp_path / "chain" / "chain.json")
    yield process, tmp_path / "chain"
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def test_one_command_gives_a_chain_with_a_service_and_funded_accounts(chain_dev):
    process, directory = chain_dev
    chain = read_dev_chain(directory / "chain.json")
    node = Node(chain.http_url)
    contracts = Contracts(node, chain.tangle, chain.manager)
    assert await contracts.ask_manager(Manager.TANGLE) == chain.tangle.lower()
    serving = await contracts.ask_tangle(Tangle.GET_SERVICE_OPERATORS, chain.service)
    assert serving == tuple(each.address.lower() for each in chain.operators)
    assert await contracts.ask_tangle(Tangle.IS_PERMITTED, chain.service, chain.user.address)
    wallet = open_wallet(directory / "operator-1.key", None, chain_id=chain.chain_id)
    assert wallet.address == chain.operators[1].address
    assert await node.balance(wallet.address) > 10**18
    await node.aclose()
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


async def test_read_pinned_to_a_block_does_not_see_what_came_after(world):
    node = Node(world.w3.provider.endpoint_uri)
    contracts = Contracts(node, world.tangle.address, world.faas.address)
    before = await node.head()
    call, _ = await world.submit()
    function = Manager.GET_ASSIGNED
    assert await contracts.ask_manager(function, world.service, call) != "0x" + "0" * 40
    pinned = await contracts.ask_manager(function, world.service, call, at=before.block.hash)
    assert pinned == "0x" + "0" * 40
    await node.aclose()


async def test_refusal_of_the_contract_has_its_name(world):
    node = Node(world.w3.provider.endpoint_uri)
    data = Tangle.SUBMIT_JOB.encode(world.service, 12, b"")
    with pytest.raises(RevertedError) as raised:
        await node.call(world.tangle.address, data, sender=world.user)
    assert raised.value.name == "InvalidJobIndex"
    await node.aclose()
