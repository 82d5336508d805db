"""The same job by several operators: they agree, or the one that lies is told by name."""

import asyncio
import re

import pytest
from tests.chain.operating import PATIENCE_SECONDS, OperatorProcess, User

from faas.chain.contract import Manager, StatusRegistry
from faas.chain.dev import deploy, find_anvil, run_anvil
from faas_sdk import InvalidArgumentError, ResourceExhaustedError
from faas_sdk._errors import IdempotencyConflictError
from faas_sdk.tangle import (
    JobFailedError,
    JobNotFoundError,
    ResultsDisagreeError,
    SyncTangleClient,
    TangleClient,
    TooFewOperatorsError,
)

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def chain(forge_build):
    async with run_anvil(find_anvil(), port=0) as url:
        yield await deploy(url, operators=3, capacity=8)


@pytest.fixture
async def user(chain):
    made = User(chain)
    yield made
    await made.node.aclose()


@pytest.fixture
def file(chain, tmp_path):
    return chain.write(tmp_path / "keys")


@pytest.fixture
async def client(file):
    async with TangleClient(chain=file) as made:
        yield made


@pytest.fixture
async def operators(chain, tmp_path):
    """Three, not started."""
    made = [OperatorProcess(chain, tmp_path, index) for index in range(3)]
    yield made
    for each in made:
        await each.kill()


async def _all_beat(user):
    """Wait until none is passed over for its silence: then equals take turns."""
    for each in user.chain.operators:
        data = StatusRegistry.IS_ONLINE.encode(user.chain.service, each.address)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not StatusRegistry.IS_ONLINE.decode(
                await user.node.call(user.chain.status_registry, data)
            )[0]:
                await asyncio.sleep(0.05)


async def _send(user, sender, to, data):
    fields = {"from": sender, "to": to, "data": "0x" + data.hex()}
    digest = await user.node.request("eth_sendTransaction", fields)
    while (receipt := await user.node.receipt(bytes.fromhex(digest[2:]))) is None:
        await asyncio.sleep(0.01)
    assert receipt.is_success


async def test_three_operators_that_agree_give_one_result_with_their_names(
    operators, client, chain, user, file
):
    for each in operators:
        await each.start()
    await _all_beat(user)
    result = await client.execute_function("", ["echo", "same"], verify_with=3)
    assert result.result == b"same\n"
    assert set(result.agreed_by) == {each.address for each in chain.operators}
    secret = await client.execute_function("", ["cat"], payload=b"s", sealed=True, verify_with=2)
    assert (secret.result, len(secret.agreed_by)) == (b"s", 2)
    # Agreeing that it fails is agreeing.
    with pytest.raises(JobFailedError) as raised:
        await client.execute_function("", ["exit", "3"], verify_with=2)
    assert len(raised.value.result.agreed_by) == 2

    def use() -> int:
        with SyncTangleClient(chain=file) as plain:
            return len(plain.execute_function("", ["echo", "x"], verify_with=2).agreed_by)

    assert await asyncio.to_thread(use) == 2


async def test_operator_that_lies_is_found_and_the_honest_ones_have_the_majority(
    operators, client, chain, user
):
    for each in operators[:2]:
        await each.start()
    liar = chain.operators[2].address
    beat = StatusRegistry.HEARTBEAT.encode(chain.service, chain.blueprint, 0, b"")
    await _send(user, liar, chain.status_registry, beat)
    await _all_beat(user)
    before = await _served_by(client, liar)
    running = asyncio.ensure_future(
        client.execute_function("", ["echo", "truth"], verify_with=3, timeout=PATIENCE_SECONDS)
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (mine := await _served_by(client, liar) - before):
            await asyncio.sleep(0.05)
    await user.answer(liar, client.job(mine.pop()), b"a lie\n")
    with pytest.raises(ResultsDisagreeError) as raised:
        await running
    error = raised.value
    assert {each.operator: each.result for each in error.results} == {
        chain.operators[0].address: b"truth\n",
        chain.operators[1].address: b"truth\n",
        liar: b"a lie\n",
    }
    assert error.majority is not None
    assert error.majority.result == b"truth\n"
    assert liar not in error.majority.agreed_by
    # What each put its name to is at hand, and the liar has signed nothing.
    assert all(each.receipt for each in error.results if each.operator != liar)
    assert liar in str(error)


async def test_of_two_that_disagree_none_has_the_majority(client, chain, user):
    running = asyncio.ensure_future(
        client.execute_function("", ["echo", "truth"], verify_with=2, timeout=PATIENCE_SECONDS)
    )
    for call in range(2):
        operator = await _assigned(client, call)
        await user.answer(operator, client.job(call), b"%d" % call)
    with pytest.raises(ResultsDisagreeError) as raised:
        await running
    assert raised.value.majority is None
    assert [each.call_id for each in raised.value.results] == [0, 1]


async def test_more_operators_than_serve_are_refused_before_anything_is_paid(client):
    with pytest.raises(TooFewOperatorsError) as raised:
        await client.execute_function("", ["true"], verify_with=4)
    assert isinstance(raised.value, ResourceExhaustedError)
    assert raised.value.calls == ()
    with pytest.raises(InvalidArgumentError):
        await client.execute_advanced("", ["true"], resource="inst-1", verify_with=2)
    with pytest.raises(InvalidArgumentError):
        await client.start_instance(verify_with=2)
    with pytest.raises(InvalidArgumentError):
        await client.execute_function("", ["true"], verify_with=0)
    with pytest.raises(JobNotFoundError):
        await client.get_job(0)


async def test_copy_is_not_submitted_to_an_operator_that_has_one(client, chain, user, monkeypatch):
    """One is left that takes jobs: asked for two operators, one copy is submitted, and no more."""
    monkeypatch.setattr("faas_sdk.tangle._verification.TURN_SECONDS", 0.2)
    for each in chain.operators[1:]:
        await _send(user, each.address, chain.manager, Manager.SET_CAPACITY.encode(8, True))
    with pytest.raises(TooFewOperatorsError) as raised:
        await client.execute_function("", ["true"], verify_with=2)
    assert raised.value.calls == (0,)
    with pytest.raises(JobNotFoundError):
        await client.get_job(1)


async def test_copy_that_is_passed_on_to_who_has_another_compares_nothing(client, chain, user):
    running = asyncio.ensure_future(
        client.execute_function("", ["true"], verify_with=3, timeout=PATIENCE_SECONDS)
    )
    first, second, third = [await _assigned(client, call) for call in range(3)]
    await _send(user, third, chain.manager, Manager.REASSIGN.encode(chain.service, 2))
    passed_on = await _assigned(client, 2)
    assert passed_on in (first, second)
    for call, operator in enumerate((first, second, passed_on)):
        await user.answer(operator, client.job(call), b"same")
    with pytest.raises(TooFewOperatorsError) as raised:
        await running
    assert raised.value.calls == (0, 1, 2)


async def test_copies_are_bought_from_operators_that_quote(operators, client, chain):
    doors = []
    for price, each in zip((700, 500, 600), operators, strict=True):
        await each.start("--quote-port", "0", "--price-wei", str(price))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := re.search(r"listening on (http://\S+)", each.said())):
                await asyncio.sleep(0.05)
        doors.append(found.group(1))
    result = await client.execute_function(
        "", ["echo", "paid"], verify_with=2, quotes_from=[*doors, doors[0]]
    )
    # The two cheapest, each by a call of its own that Tangle lets nobody else answer.
    assert set(result.agreed_by) == {each.address for each in chain.operators[1:]}
    calls = [await client.get_job_call(number) for number in range(2)]
    assert sorted((call.is_quoted, call.payment) for call in calls) == [(True, 500), (True, 600)]
    with pytest.raises(TooFewOperatorsError):
        await client.execute_function("", ["true"], verify_with=2, quotes_from=[doors[0]] * 2)
    one = await client.execute_function("", ["echo", "one"], quotes_from=doors)
    assert one.agreed_by == (chain.operators[1].address,)


async def test_same_key_takes_the_copies_up_again_after_a_restart(client, file, tmp_path, user):
    store = tmp_path / "store"
    async with TangleClient(chain=file, store=store) as first:
        running = asyncio.ensure_future(
            first.execute_function("", ["true"], verify_with=3, idempotency_key="k")
        )
        operators = [await _assigned(client, call) for call in range(2)]
        running.cancel()
    async with TangleClient(chain=file, store=store) as second:
        again = asyncio.ensure_future(
            second.execute_function("", ["true"], verify_with=3, idempotency_key="k")
        )
        operators.append(await _assigned(client, 2))
        for call, operator in enumerate(operators):
            await user.answer(operator, client.job(call), b"out")
        result = await asyncio.wait_for(again, PATIENCE_SECONDS)
        assert set(result.agreed_by) == set(operators)
        with pytest.raises(IdempotencyConflictError):
            await second.execute_function("", ["false"], verify_with=3, idempotency_key="k")
    with pytest.raises(JobNotFoundError):
        await client.get_job(3)


async def _assigned(client, call):
    """Who has a call, once it is there."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await client.get_assigned_operator(call)
            except JobNotFoundError:
                await asyncio.sleep(0.05)


async def _served_by(client, operator):
    """The calls that an operator has now."""
    found, call = set(), 0
    while True:
        try:
            job = await client.get_job(call)
        except JobNotFoundError:
            return found
        found |= {call} if job.operator == operator else set()
        call += 1
