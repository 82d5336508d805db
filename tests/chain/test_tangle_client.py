"""The user's side: `faas_sdk.tangle` against a real node and a real operator process."""

import asyncio
import contextlib
import re

import pytest
from tests.chain.operating import PATIENCE_SECONDS, OperatorProcess, User

from faas.chain.dev import deploy, find_anvil, run_anvil
from faas_sdk import InvalidArgumentError, ResourceExhaustedError, UnavailableError
from faas_sdk._errors import IdempotencyConflictError
from faas_sdk.tangle import (
    DeadlineNotReachedError,
    ExecuteFunction,
    JobFailedError,
    JobNotFoundError,
    JobOverdueError,
    JobStatus,
    NoOperatorFreeError,
    NotPermittedCallerError,
    QuoteRefusedError,
    ResultPendingError,
    SyncTangleClient,
    TangleClient,
)

ECHO = ExecuteFunction("", ("echo", "hi"))


@pytest.fixture
async def chain(forge_build):
    """A node of its own, on which two operators serve."""
    async with run_anvil(find_anvil(), port=0) as url:
        yield await deploy(url, operators=2, capacity=2)


@pytest.fixture
async def operator(chain, tmp_path):
    made = OperatorProcess(chain, tmp_path)
    yield made
    await made.kill()


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
async def both(chain, tmp_path, operator):
    """Both operators at work."""
    second = OperatorProcess(chain, tmp_path, index=1)
    await operator.start()
    await second.start()
    yield (operator, second)
    await second.kill()


async def test_job_of_the_readme_comes_back(both, client, chain, user):
    result = await client.execute_function("", ["echo", "Hello from the chain!"])
    assert (result.call_id, result.service_id, result.job_id) == (0, 0, 0)
    assert result.result == b"Hello from the chain!\n"
    assert result.status is JobStatus.DONE
    assert result.ok
    assert await client.get_assigned_operator(result.call_id) == result.operator
    assert result.operator in {each.address for each in chain.operators}
    call = await client.get_job_call(result.call_id)
    assert call.is_completed
    assert call.caller == client.address == chain.user.address
    assert await client.get_job_result(result.call_id) == result


async def test_arguments_reach_the_command(both, client):
    result = await client.execute_function("", ["cat"], {"A": "1"}, b"payload")
    assert result.result == b"payload"
    advanced = await client.execute_advanced("", "echo from a shell", timeout_ms=5000)
    assert advanced.job_id == 1


async def test_failed_job_is_an_error_with_its_code(both, client):
    with pytest.raises(JobFailedError) as raised:
        await client.execute_function("", ["exit", "3"])
    assert raised.value.failure_code == "command_failed"
    assert raised.value.result.status is JobStatus.FAILED
    handle = client.job(raised.value.result.call_id)
    result = await handle.wait(PATIENCE_SECONDS)
    assert not result.ok
    assert result.failure.code == "command_failed"


async def test_job_is_taken_up_again_by_another_program(client, operator, file):
    handle = await client.submit_job(ECHO)
    with pytest.raises(ResultPendingError):
        await handle.result(0.05)
    assert await client.get_job_result(handle.call_id) is None
    async with TangleClient(chain=file) as other:
        # Whoever has it may not be the operator that serves: it is passed on after its deadline.
        assert (await other.get_job(handle.call_id)).status is JobStatus.PENDING
        waiting = asyncio.ensure_future(other.job(handle.call_id).result(PATIENCE_SECONDS))
        operator.index = [each.address for each in operator.chain.operators].index(
            await client.get_assigned_operator(handle.call_id)
        )
        await operator.start()
        assert (await waiting).result == b"hi\n"
    assert (await handle.result(PATIENCE_SECONDS)).result == b"hi\n"


async def test_same_key_submits_once_also_after_a_restart(file, tmp_path, client):
    for _ in range(2):
        async with TangleClient(chain=file, store=tmp_path / "store") as first:
            handle = await first.submit_job(ECHO, idempotency_key="order-17")
            assert handle.call_id == 0
            with pytest.raises(IdempotencyConflictError):
                await first.submit_job(
                    ExecuteFunction("", ("echo", "other")), idempotency_key="order-17"
                )
    with pytest.raises(JobNotFoundError):
        await client.get_job(1)


async def test_same_key_at_the_same_time_submits_once(file, tmp_path):
    path = tmp_path / "store"
    async with TangleClient(chain=file, store=path) as a, TangleClient(chain=file, store=path) as b:
        submits = (each.submit_job(ECHO, idempotency_key="k") for each in (a, a, b, b))
        assert {handle.call_id for handle in await asyncio.gather(*submits)} == {0}
        with pytest.raises(JobNotFoundError):
            await a.get_job(1)


async def test_signed_and_not_sent_is_sent_by_the_next_start(file, tmp_path, client):
    """As if killed after the bytes were stored: the node never saw them."""
    path = tmp_path / "store"
    async with TangleClient(chain=file, store=path) as first:

        async def dies(_raw: bytes) -> None:
            raise _KilledError

        first.calls.contracts.node.send_raw = dies
        with pytest.raises(_KilledError):
            await first.submit_job(ECHO, idempotency_key="a")
    with pytest.raises(JobNotFoundError):
        await client.get_job(0)
    async with TangleClient(chain=file, store=path) as second:
        assert (await second.submit_job(ECHO, idempotency_key="a")).call_id == 0
    # Another transaction took the nonce of one that was never sent: only then is it signed anew.
    async with TangleClient(chain=file, store=path) as third:
        third.calls.contracts.node.send_raw = dies
        with pytest.raises(_KilledError):
            await third.submit_job(ECHO, idempotency_key="b")
        del third.calls.contracts.node.send_raw
        assert (await third.submit_job(ECHO, idempotency_key="c")).call_id == 1
    async with TangleClient(chain=file, store=path) as fourth:
        assert (await fourth.submit_job(ECHO, idempotency_key="b")).call_id == 2
        assert (await fourth.submit_job(ECHO, idempotency_key="c")).call_id == 1


async def test_full_service_is_a_typed_refusal(client):
    for _ in range(4):
        await client.submit_job(ECHO)
    with pytest.raises(NoOperatorFreeError) as raised:
        await client.submit_job(ECHO)
    assert isinstance(raised.value, ResourceExhaustedError)
    assert raised.value.revert == "NoOperatorFree"
    assert raised.value.arguments == {"serviceId": 0}
    assert raised.value.retryable


async def test_stranger_is_refused_by_name(file, chain):
    async with TangleClient(chain=file, signer=chain.owner.key) as stranger:
        with pytest.raises(NotPermittedCallerError) as raised:
            await stranger.submit_job(ECHO)
    assert raised.value.arguments["caller"].lower() == chain.owner.address.lower()


async def test_jobs_are_spread_over_the_operators(client):
    await asyncio.gather(*(client.submit_job(ECHO) for _ in range(4)))
    assert [each.load for each in await client.get_operators()] == [2, 2]
    assert not any(each.is_free for each in await client.get_operators())


async def test_job_that_nobody_answers_is_overdue_and_passed_on(client, user, file, monkeypatch):
    handle = await client.submit_job(ECHO)
    with pytest.raises(DeadlineNotReachedError):
        await client.reassign(handle.call_id)
    job = await handle.get()
    await user.node.request("evm_setNextBlockTimestamp", job.deadline + 1)
    await user.node.request("evm_mine")
    monkeypatch.setattr("faas_sdk.tangle._settlement.time.time", lambda: job.deadline + 1000)
    with pytest.raises(JobOverdueError) as raised:
        await handle.result(PATIENCE_SECONDS)
    assert f"reassign({handle.call_id})" in raised.value.hint
    passed_on = await client.reassign(handle.call_id)
    assert passed_on != job.operator
    assert await client.get_assigned_operator(handle.call_id) == passed_on
    assert (await handle.get()).attempts == 2


async def test_rejected_result_is_no_result(client, chain, user):
    """Tangle tells of a rival's answer as of the right one; the client waits for the manager."""
    handle = await client.submit_job(ECHO)
    assigned = await client.get_assigned_operator(handle.call_id)
    waiting = asyncio.ensure_future(handle.wait(PATIENCE_SECONDS))
    events = client.watch_jobs(from_block=0)
    for operator in sorted((each.address for each in chain.operators), key=lambda a: a == assigned):
        assert not waiting.done()
        await user.answer(operator, handle, b"from " + operator.encode())
    result = await waiting
    assert result.operator == assigned
    assert result.result == b"from " + assigned.encode()
    kinds = [(event.kind, event.reason) async for event in _first(events, 3)]
    assert kinds == [("assigned", None), ("rejected", "not_assignee"), ("accepted", None)]


async def test_dropped_socket_is_opened_again(both, chain, file):
    async with _Relay(chain.ws_url) as relay, TangleClient(relay.url, chain=file) as client:
        first = asyncio.ensure_future(client.execute_function("", ["sleep", "1"]))
        for _ in range(5):
            await asyncio.sleep(0.2)
            relay.drop()
        await first
        relay.drop()
        assert (await client.execute_function("", ["echo", "on"])).result == b"on\n"
        assert client.calls.contracts.node.reconnects >= 2


async def test_plain_http_does_as_well(both, chain, file):
    async with TangleClient(chain.http_url, chain=file) as client:
        assert (await client.execute_function("", ["echo", "on"])).result == b"on\n"


async def test_reorg_under_a_submission_moves_the_handle_to_its_new_number(client, user):
    before = await user.node.request("evm_snapshot")
    handle = await client.submit_job(ECHO)
    waiting = asyncio.ensure_future(handle.wait(PATIENCE_SECONDS))
    assert handle.call_id == 0
    await user.node.request("evm_revert", before)
    other = await user.submit(ExecuteFunction("", ("echo", "other")).encode())
    assert other.call == 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while handle.call_id == 0:
            await user.node.request("evm_mine")
            await asyncio.sleep(0.1)
    assert handle.call_id == 1
    operator = await client.get_assigned_operator(1)
    await user.answer(operator, handle, b"moved")
    assert (await waiting).result == b"moved"


async def test_reorg_under_a_result_is_waited_out(user, file):
    async with TangleClient(chain=file, confirmations=3) as client:
        handle = await client.submit_job(ECHO)
        operator = await client.get_assigned_operator(handle.call_id)
        before = await user.node.request("evm_snapshot")
        waiting = asyncio.ensure_future(handle.wait(PATIENCE_SECONDS))
        await user.answer(operator, handle, b"gone")
        await user.node.request("evm_mine")
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await user.node.request("evm_revert", before)
        await user.answer(operator, handle, b"stays")
        for _ in range(3):
            await user.node.request("evm_mine")
        assert (await waiting).result == b"stays"


async def test_watcher_is_told_what_a_reorg_took_back(client, user):
    before = await user.node.request("evm_snapshot")
    events = client.watch_jobs()
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.3)
    await client.submit_job(ECHO)
    assigned = await first
    assert (assigned.kind, assigned.is_removed, assigned.job_id) == ("assigned", False, 0)
    await user.node.request("evm_revert", before)
    for _ in range(3):
        await user.node.request("evm_mine")
    async with asyncio.timeout(PATIENCE_SECONDS):
        removed = await anext(events)
    assert removed.is_removed
    assert removed.tx_hash == assigned.tx_hash


async def test_stuck_transaction_is_outbid(user, file):
    await user.node.request("evm_setAutomine", False)
    async with TangleClient(chain=file) as client:
        submitting = asyncio.ensure_future(client.submit_job(ECHO))
        await asyncio.sleep(0.5)
        # Blocks go by, and none of them takes it: it offers too little.
        price = hex(10**12)
        await user.node.request("anvil_setNextBlockBaseFeePerGas", price)
        for _ in range(4):
            await user.node.request("anvil_setNextBlockBaseFeePerGas", price)
            await user.node.request("evm_mine")
            await asyncio.sleep(0.3)
        assert not submitting.done()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not submitting.done():
                await user.node.request("anvil_setNextBlockBaseFeePerGas", hex(10**9))
                await user.node.request("evm_mine")
                await asyncio.sleep(0.1)
        assert (await submitting).call_id == 0


async def test_sealed_job_shows_its_secrets_to_the_operators_alone(both, client, user):
    result = await client.execute_function(
        "", ["cat"], {"TOKEN": "env-secret"}, b"payload-secret", sealed=True
    )
    assert result.result == b"payload-secret"
    head = await user.node.head()
    entries = await user.node.logs(
        client.calls.contracts.tangle, (), first=0, last=head.block.number
    )
    assert entries
    assert not any(b"secret" in entry.data for entry in entries)


async def test_job_whose_box_is_stolen_does_not_open_for_another(both, client, file):
    """Somebody copies the bytes from the chain into a call that prints them."""
    sealed = await client.seal(ExecuteFunction("", ("true",), payload=b"secret"))
    stolen = ExecuteFunction("", ("cat",), payload=sealed.call.payload)
    with pytest.raises(JobFailedError) as raised:
        await (await client.submit_job(stolen)).result(PATIENCE_SECONDS)
    assert raised.value.failure_code == "invalid_argument"


async def test_any_bytes_are_data_also_those_that_look_like_a_form(both, client):
    for data in (b"\xfffaas1\x02box", b"\xfffaas1", b"\xff"):
        assert (await client.execute_function("", ["cat"], payload=data)).result == data


async def test_quoted_job_is_paid_for_and_done_by_who_signed(client, operator, user):
    await operator.start("--quote-port", "0", "--price-wei", "500")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := re.search(r"listening on (http://\S+)", operator.said())):
            await asyncio.sleep(0.05)
    nobody = "http://127.0.0.1:9"
    [quote] = await client.quote(ECHO, [nobody, found.group(1)])
    assert quote.price == 500
    assert quote.operator == operator.chain.operators[0].address
    with pytest.raises(InvalidArgumentError):
        await client.submit_from_quote(ExecuteFunction("", ("echo", "other")), [quote])
    handle = await client.submit_from_quote(ECHO, [quote])
    result = await handle.result(PATIENCE_SECONDS)
    assert (result.result, result.operator) == (b"hi\n", quote.operator)
    call = await client.get_job_call(handle.call_id)
    assert (call.is_quoted, call.payment) == (True, 500)
    with pytest.raises(QuoteRefusedError) as raised:
        await client.submit_from_quote(ECHO, [quote])
    assert raised.value.revert == "QuoteAlreadyUsed"
    with pytest.raises(UnavailableError):
        await client.quote(ECHO, [nobody])


async def test_client_without_async_is_the_same(both, file):
    def use() -> tuple[bytes, str]:
        with SyncTangleClient(chain=file) as client:
            handle = client.submit_job(ECHO)
            result = handle.result(PATIENCE_SECONDS)
            assert client.get_job_result(handle.call_id) == result
            events = client.watch_jobs(from_block=0)
            return result.result, next(events).kind

    assert await asyncio.to_thread(use) == (b"hi\n", "assigned")


class _KilledError(Exception):
    """As if the program had ended here."""


async def _first(events, count):
    async for event in events:
        yield event
        count -= 1
        if not count:
            return


class _Relay:
    """Passes bytes to the node, until it is told to drop everybody."""

    def __init__(self, url: str) -> None:
        self._to = url.removeprefix("ws://").split(":")
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.drop()

    def drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader, writer) -> None:
        there, back = await asyncio.open_connection(self._to[0], int(self._to[1]))
        pair = {writer, back}
        self._writers |= pair
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(_pass(reader, back), _pass(there, writer))
        self._writers -= pair
        for each in pair:
            each.close()


async def _pass(reader, writer) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
