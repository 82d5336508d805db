"""What an operator does beside its jobs: quotes, approvals, heartbeats, keys elsewhere, metrics."""

import asyncio
import json
import re
import time
import urllib.error
import urllib.request

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_hash.auto import keccak
from tests.chain.operating import OperatorProcess, User

from faas.chain import gauges
from faas.chain.codec import (
    ExecuteFunction,
    JobStatus,
    decode_failure,
    encode_call,
    inputs_hash_of,
)
from faas.chain.contract import Function, Manager, StatusRegistry, Tangle, key_of
from faas.chain.dev import NOBODY, deploy, dev_account, find_anvil, run_anvil
from faas.chain.receipts import problems_of
from faas.chain.rpc import RevertedError

FROM_QUOTE = Function(
    "submitJobFromQuote(uint64,uint8,bytes,((address,uint64,uint8,uint256,uint64,uint64,uint8,"
    "bytes32),bytes,address)[])"
)
ECHO = encode_call(ExecuteFunction("", ("echo", "hi"), (), b""))


@pytest.fixture
async def chain(forge_build):
    async with run_anvil(find_anvil(), port=0) as url:
        yield await deploy(url, operators=2)


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


async def _door(operator, number=0):
    """The address of the operator's nth HTTP port, once it says so."""
    async with asyncio.timeout(60):
        while True:
            found = re.findall(r"listening on (http://\S+)", operator.said())
            if len(found) > number:
                return found[number]
            await asyncio.sleep(0.05)


async def _http(url, body=None):
    def ask():
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    return await asyncio.to_thread(ask)


def _wish(chain, account, *, inputs=ECHO, job=0, service=0, **changes):
    told = {
        "requester": account.address,
        "service_id": service,
        "job_index": job,
        "inputs_hash": "0x" + inputs_hash_of(inputs).hex(),
        "timestamp": int(time.time()),
    } | changes
    digest = keccak(
        encode(
            ("bytes32", "uint64", "address", "uint64", "uint8", "bytes32", "uint64"),
            (
                *(keccak(b"FaaSQuoteRequest.v1"), chain.chain_id, chain.tangle, service, job),
                *(bytes.fromhex(told["inputs_hash"][2:]), told["timestamp"]),
            ),
        )
    )
    signed = Account.sign_message(encode_defunct(digest), account.key)
    return told | {"signature": "0x" + bytes(signed.signature).hex()}


async def _submit_quoted(user, quotes, inputs=ECHO, job=0, value=0):
    signed = [
        (
            tuple(
                int(v) if k == "price" else bytes.fromhex(v[2:]) if k == "inputsHash" else v
                for k, v in quote["details"].items()
            ),
            bytes.fromhex(quote["signature"][2:]),
            quote["operator"],
        )
        for quote in quotes
    ]
    data = FROM_QUOTE.encode(user.chain.service, job, inputs, signed)
    fields = {
        "from": user.chain.user.address,
        "to": user.chain.tangle,
        "data": "0x" + data.hex(),
        "value": hex(value),
        "gas": hex(900_000),
    }
    digest = await user.node.request("eth_sendTransaction", fields)
    while (receipt := await user.node.receipt(bytes.fromhex(digest[2:]))) is None:
        await asyncio.sleep(0.01)
    assert receipt.is_success
    [found] = [e for e in receipt.logs if e.topics[0] == Tangle.JOB_SUBMITTED_FROM_QUOTE.topic]
    return key_of(found)


async def test_quoted_job_is_done_by_the_operator_that_signed_for_it(operator, user, chain):
    await operator.start("--quote-port", "0", "--price-wei", "0", "--price-wei", "1=500")
    door = await _door(operator)
    status, told = await _http(f"{door}/info")
    assert json.loads(told)["operator"] == chain.operators[0].address
    for job, price in ((0, 0), (1, 500)):
        inputs = ECHO if job == 0 else b"\xba\xd0"
        status, told = await _http(
            f"{door}/quote", _wish(chain, chain.user, job=job, inputs=inputs)
        )
        assert status == 200, told
        quote = json.loads(told)
        assert int(quote["details"]["price"]) == price
        key = await _submit_quoted(user, [quote], inputs, job, price)
        done = await user.over(key)
        assert done.operator == chain.operators[0].address
    [first] = await user.results(key)
    assert decode_failure(first.output)[0] == "invalid_argument"


async def test_who_may_not_call_gets_no_quote(operator, chain):
    await operator.start("--quote-port", "0")
    door = await _door(operator)
    stranger = dev_account(2)
    ask = chain.user
    refusals = [
        (_wish(chain, stranger), 403),
        (_wish(chain, stranger) | {"requester": ask.address}, 403),
        (_wish(chain, ask) | {"signature": "0x00"}, 400),
        (_wish(chain, ask, timestamp=int(time.time()) - 3600), 400),
        (_wish(chain, ask, job=10), 501),
        (_wish(chain, ask, job=200), 501),
        (_wish(chain, ask, service=99), 400),
        (_wish(chain, ask) | {"more": 1}, 400),
        (_wish(chain, ask) | {"requester": "nobody"}, 400),
        ({"signature": "0x" * 4000}, 413),
    ]
    for body, expected in refusals:
        status, told = await _http(f"{door}/quote", body)
        assert status == expected, told
        assert "code" in json.loads(told)


async def test_slots_are_kept_for_quotes_and_then_there_are_none(operator, chain):
    await operator.start("--quote-port", "0")
    door = await _door(operator)
    codes = [
        (await _http(f"{door}/quote", _wish(chain, chain.user, inputs=bytes([n]))))[0]
        for n in range(5)
    ]
    assert codes == [200, 200, 200, 200, 429]


async def test_killed_operator_honours_its_quotes_and_gives_no_more_than_slots(
    operator, user, chain
):
    await operator.start("--quote-port", "0")
    door = await _door(operator)
    wishes = [_wish(chain, chain.user, inputs=each) for each in (ECHO, b"1", b"2", b"3")]
    quotes = [(await _http(f"{door}/quote", wish))[1] for wish in wishes]
    await operator.kill()
    await operator.start("--quote-port", "0")
    door = await _door(operator, 1)
    assert (await _http(f"{door}/quote", _wish(chain, chain.user, inputs=b"4")))[0] == 429
    again = _wish(chain, chain.user)
    assert (await _http(f"{door}/quote", again))[1] == quotes[0]
    key = await _submit_quoted(user, [json.loads(quotes[0])])
    assert (await user.over(key)).status is JobStatus.DONE, operator.said()
    # Its job was seen, so the slot is free again.
    status, told = await _http(f"{door}/quote", _wish(chain, chain.user, inputs=b"4"))
    assert status == 200, told


async def test_service_request_of_an_allowed_requester_is_approved_and_others_are_not(
    operator, user, chain
):
    me = chain.operators[0].address
    await operator.start("--approve", chain.owner.address)
    for requester in (chain.user, chain.owner):
        data = Tangle.REQUEST_SERVICE.encode(0, [me], b"", [], 0, NOBODY, 0, 0)
        fields = {"from": requester.address, "to": chain.tangle, "data": "0x" + data.hex()}
        await user.node.request("eth_sendTransaction", fields)
    async with asyncio.timeout(60):
        while (await user.contracts.ask_tangle(Tangle.SERVICE_COUNT)) < 2:
            await asyncio.sleep(0.1)
    await user.over(await user.echo("still serves"))
    found = await user.contracts.ask_tangle(Tangle.GET_SERVICE, 1)
    assert found[1] == chain.owner.address.lower()
    assert await user.contracts.ask_tangle(Tangle.SERVICE_COUNT) == 2


async def test_operator_beats_while_it_serves_and_says_when_it_goes(operator, user, chain):
    me = chain.operators[0].address

    async def is_online():
        data = StatusRegistry.IS_ONLINE.encode(chain.service, me)
        answer = await user.node.call(chain.status_registry, data)
        return StatusRegistry.IS_ONLINE.decode(answer)[0]

    assert not await is_online()
    await operator.start("--heartbeat-seconds", "1")
    async with asyncio.timeout(60):
        while not await is_online():
            await asyncio.sleep(0.1)
    assert await operator.stop() == 0, operator.said()
    assert not await is_online()


async def test_key_in_a_remote_signer_signs_results_receipts_quotes_and_registration(
    operator, user, chain, tmp_path
):
    # anvil holds the keys of its accounts, and signs as signers do.
    newcomer = dev_account(13).address
    await operator.start(
        *("--signer-url", chain.http_url, "--address", newcomer, "--register", "5"),
        *("--approve", "any", "--quote-port", "0"),
        has_key=False,
    )
    await _door(operator)
    assert (await user.contracts.ask_manager(Manager.OPERATORS, newcomer))[1] == 5
    data = Tangle.REQUEST_SERVICE.encode(0, [newcomer], b"", [], 0, NOBODY, 0, 0)
    fields = {"from": chain.user.address, "to": chain.tangle, "data": "0x" + data.hex()}
    await user.node.request("eth_sendTransaction", fields)
    async with asyncio.timeout(60):
        while (await user.contracts.ask_tangle(Tangle.SERVICE_COUNT)) < 2:
            await asyncio.sleep(0.1)
    from dataclasses import replace

    user.chain = replace(chain, service=1)
    key = await user.submit(ECHO)
    assert (await user.over(key)).status is JobStatus.DONE, operator.said()
    [done] = await user.results(key)
    assert problems_of(done, inputs=ECHO) == []
    door = await _door(operator)
    status, told = await _http(f"{door}/quote", _wish(chain, chain.user, service=1))
    assert status == 200, told
    assert (await user.over(await _submit_quoted(user, [json.loads(told)]))).operator == newcomer
    second = OperatorProcess(chain, tmp_path / "second")
    await second.start("--signer-url", chain.http_url, "--address", newcomer, has_key=False)
    async with asyncio.timeout(60):
        assert await second.process.wait() == 5
    assert "another operator uses the key" in second.said()


async def test_dry_operator_runs_jobs_and_hands_nothing_in(operator, user, chain):
    me = chain.operators[0].address
    await operator.start("--address", me, "--metrics-port", "0", has_key=False)
    door = await _door(operator)
    keys = [await user.echo("hi") for _ in range(2)]
    async with asyncio.timeout(60):
        while 'jobs{state="ran"} 1' not in (await _http(f"{door}/metrics"))[1]:
            await asyncio.sleep(0.1)
    assert [(await user.contracts.job(key)).status for key in keys] == [JobStatus.PENDING] * 2
    assert "faas_operator_dry 1" in (await _http(f"{door}/metrics"))[1]


async def test_metrics_and_health_tell_how_it_stands_and_every_name_is_known(operator, user, chain):
    await operator.start("--metrics-port", "0", "--quote-port", "0")
    door = await _door(operator)
    for _ in range(2):
        await user.echo("hi")
    async with asyncio.timeout(60):
        # One of two, or both: who beats is chosen before who is silent.
        while not re.search(
            r'jobs{state="confirmed"} [12]', told := (await _http(f"{door}/metrics"))[1]
        ):
            await asyncio.sleep(0.1)
    names = {
        line.split(" ")[0].split("{")[0].removeprefix(gauges.PREFIX).removesuffix("_total")
        for line in told.splitlines()
        if not line.startswith("#")
    }
    assert names <= {*gauges.COUNTERS, *gauges.GAUGES, gauges.JOBS}
    assert {"sender_confirmed", "head_age_seconds", "balance_ether", "socket_connected"} <= names
    assert (await _http(f"{door}/health"))[0] == 200


async def test_quote_is_used_once_and_by_its_requester_only(operator, user, chain):
    await operator.start("--quote-port", "0")
    door = await _door(operator)
    quote = json.loads((await _http(f"{door}/quote", _wish(chain, chain.user)))[1])
    await _submit_quoted(user, [quote])
    details = quote["details"]
    signed = (
        (
            *(details["requester"], 0, 0, 0, details["timestamp"], details["expiry"], 0),
            bytes.fromhex(details["inputsHash"][2:]),
        ),
        bytes.fromhex(quote["signature"][2:]),
        quote["operator"],
    )
    data = FROM_QUOTE.encode(chain.service, 0, ECHO, [signed])
    with pytest.raises(RevertedError) as again:
        await user.node.call(chain.tangle, data, sender=chain.user.address)
    assert again.value.name == "QuoteAlreadyUsed"
