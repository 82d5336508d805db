"""What is wrong around an operator is named before it starts."""

from dataclasses import replace

import pytest

from faas.chain.contract import Contracts, Tangle
from faas.chain.dev import deploy, dev_account, find_anvil, run_anvil
from faas.chain.rpc import Node
from faas.chain.surroundings import Expected, look, refuse_bad
from faas.clock import SystemClock
from faas.errors import InvalidConfigError


@pytest.fixture
async def chain(forge_build):
    """A node of its own: tests of the shared one turn its clock forward."""
    async with run_anvil(find_anvil(), port=0) as url:
        yield await deploy(url, operators=1)


@pytest.fixture
async def contracts(chain):
    node = Node(chain.http_url)
    yield Contracts(node, chain.tangle, chain.manager)
    await node.aclose()


async def _bad(contracts, *expected):
    found = await look(contracts, Expected(*expected), SystemClock())
    return [finding.name for finding in found if not finding.is_ok]


async def test_development_chain_is_as_an_operator_needs_it(contracts, chain):
    operator = chain.operators[0].address
    found = await look(contracts, Expected(31337, operator, chain.service), SystemClock())
    assert [finding for finding in found if not finding.is_ok] == []
    assert {"node", "clock", "binding", "version", "balance", "membership"} <= {
        finding.name for finding in found
    }


async def test_wrong_chain_and_stranger_are_told(contracts, chain):
    stranger = dev_account(15).address
    assert await _bad(contracts, 1, stranger, chain.service) == [
        "node",
        "registration",
        "membership",
    ]


async def test_address_without_code_is_told(contracts):
    elsewhere = replace(contracts, manager=dev_account(2).address)
    assert await _bad(elsewhere) == ["manager"]


async def test_contract_that_is_not_the_manager_is_told(contracts):
    assert await _bad(replace(contracts, manager=contracts.tangle)) == ["contract"]


async def test_node_that_does_not_answer_is_told(chain):
    node = Node("http://127.0.0.1:9")
    assert await _bad(Contracts(node, chain.tangle, chain.manager)) == ["node"]
    await node.aclose()


async def test_operator_refuses_to_start_with_a_bad_finding(contracts):
    found = await look(contracts, Expected(1, None, None), SystemClock())
    with pytest.raises(InvalidConfigError) as raised:
        refuse_bad(found)
    assert "not 1" in str(raised.value.details["problems"])


RETURNS_14_WORDS = "0x6101c06000f3"


async def test_tangle_whose_structs_have_another_layout_is_told(contracts, chain):
    """An ABI that moved decodes silently into wrong fields; so its size is looked at."""
    await contracts.node.request("anvil_setCode", dev_account(9).address, RETURNS_14_WORDS)
    drifted = replace(contracts, tangle=dev_account(9).address)
    found = await look(drifted, Expected(), SystemClock())
    [layout] = [finding for finding in found if finding.name == "layout"]
    assert not layout.is_ok
    assert "not 416" in layout.detail


async def test_newest_submission_is_compared_with_its_call(contracts, chain):
    from tests.chain.operating import User

    user = User(chain)
    await user.echo("hi")
    await user.node.aclose()
    found = await look(contracts, Expected(), SystemClock())
    assert [finding for finding in found if not finding.is_ok] == []
    # The same event with the job indexed, as the published ABI has it, and nothing behind it.
    emitter = dev_account(10).address
    topic = Tangle.JOB_SUBMITTED.topic.hex()
    code = "6000600060006000" + "7f" + topic + "60006000a4" + "00"
    await contracts.node.request("anvil_setCode", emitter, "0x" + code)
    fields = {"from": chain.user.address, "to": emitter}
    await contracts.node.request("eth_sendTransaction", fields)
    found = await look(replace(contracts, tangle=emitter), Expected(), SystemClock())
    layout = [finding.detail for finding in found if finding.name == "layout"]
    assert "4 topics, not 3" in str(layout) or "refused" in str(found)
