"""The client against the fake gateway: what users do all day."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from faas_sdk import (
    ClientConfig,
    CommandFailedError,
    ExecutionNotFoundError,
    ExecutionTimeoutError,
    ExitEvent,
    FaaSClient,
    FunctionBuilder,
    GatewayUnreachableError,
    IdempotencyConflictError,
    InvalidArgumentError,
    OutputEvent,
    Runtime,
    SyncFaaSClient,
    UnsupportedError,
    WrongStateError,
)
from faas_sdk._connection import client_options
from faas_sdk.testing import FakeCommand, FakeGateway, Outcome


async def test_a_command_answers_with_both_spellings(client: FaaSClient) -> None:
    result = await client.execute("echo out; echo err >&2")
    assert (result.stdout, result.output, result.stdout_bytes) == ("out\n", "out\n", b"out\n")
    assert (result.stderr, result.logs, result.stderr_bytes) == ("err\n", "err\n", b"err\n")
    assert result.request_id == result.execution_id
    assert result.duration_ms > 0
    assert result.ok


def test_the_sync_twin_answers_the_same(sync_client: SyncFaaSClient) -> None:
    result = sync_client.execute("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert (result.exit_code, result.ok) == (3, False)
    events = sync_client.stream_logs(result.request_id)
    assert [event.text for event in events if isinstance(event, OutputEvent)] == ["out\n", "err\n"]


def test_a_sync_stream_takes_input_and_ends(sync_client: SyncFaaSClient) -> None:
    with sync_client.stream("cat", stdin_open=True) as stream:
        stream.write_stdin("hello ")
        stream.write_stdin("world", is_last=True)
        events = list(stream)
    assert events == [OutputEvent("stdout", 0, b"hello world"), ExitEvent(0, "exited", None, 1)]


def test_a_client_needs_no_context_manager(gateway: FakeGateway) -> None:
    client = gateway.client()
    assert asyncio.run(client.execute("echo one")).output == "one\n"
    assert asyncio.run(client.execute("echo two")).output == "two\n"


async def test_a_closed_client_opens_again(client: FaaSClient) -> None:
    await client.execute("true")
    await client.aclose()
    assert (await client.execute("true")).ok


async def test_bytes_that_are_not_text_are_exact(client: FaaSClient, gateway: FakeGateway) -> None:
    gateway.on("noise", stdout=b"\xff\x00ok", stderr=b"\xfe")
    result = await client.execute("noise")
    assert (result.stdout_bytes, result.stderr_bytes) == (b"\xff\x00ok", b"\xfe")
    assert result.stdout == "�\x00ok"


async def test_a_failing_command_is_a_result_until_asked(client: FaaSClient) -> None:
    result = await client.execute("echo why >&2; exit 7")
    assert (result.exit_code, result.error) == (7, "Process exited with code 7")
    with pytest.raises(CommandFailedError, match=r"code 7 \(exited\): why") as caught:
        result.raise_for_exit()
    assert caught.value.result is result


async def test_success_passes_through_raise_for_exit(client: FaaSClient) -> None:
    result = await client.execute("true")
    assert result.raise_for_exit() is result


async def test_running_out_of_time_raises_with_the_result(client: FaaSClient) -> None:
    with pytest.raises(ExecutionTimeoutError) as caught:
        await client.execute("echo before; sleep 60", timeout_ms=1000)
    result = caught.value.result
    assert (result.output, result.exit_code, result.reason) == ("before\n", 124, "timed_out")
    assert client.metrics.errors == 1


async def test_options_reach_the_gateway(client: FaaSClient, gateway: FakeGateway) -> None:
    result = await client.execute(
        'echo "$GREETING"; pwd; cat',
        env_vars={"GREETING": "hi there"},
        working_dir="/srv",
        payload=b"in",
        memory_mb=64,
        cpu_cores=0.5,
    )
    assert result.output == "hi there\n/srv\nin"
    assert gateway.requests[-1][2]["memory_mb"] == 64
    assert gateway.requests[-1][2]["cpu_cores"] == 0.5


async def test_code_arrives_unquoted_and_unexpanded(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    code = "print('$HOME', \"`x`\", '\\n')"
    gateway.on("*", stdout="ran")
    await client.run_python(code, timeout_ms=5)
    sent = gateway.requests[-1][2]
    assert sent["command"] == ["python3", "-c", code]
    assert (sent["image"], sent["timeout_ms"]) == ("python:3.11-slim", 5)


async def test_the_image_of_a_language_can_be_chosen(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    gateway.on("*")
    await client.run_javascript("1", image="node:22")
    await client.run_bash("true")
    assert gateway.requests[0][2]["image"] == "node:22"
    assert "image" not in gateway.requests[1][2]


async def test_code_and_files_travel_together(client: FaaSClient, gateway: FakeGateway) -> None:
    gateway.on("*")
    await client.run_typescript("let a: number", files={"b.txt": "b"})
    assert [one["path"] for one in gateway.requests[-1][2]["files"]] == [
        "b.txt",
        "/tmp/faas-code.ts",
    ]


async def test_a_lost_answer_runs_nothing_twice(client: FaaSClient, gateway: FakeGateway) -> None:
    gateway.lose_answer(times=2)
    assert (await client.execute("echo once")).output == "once\n"
    assert gateway.executions == 1
    assert len(gateway.requests) == 3


async def test_one_key_is_one_run_and_another_body_is_refused(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    first = await client.execute("echo a", idempotency_key="k")
    again = await client.execute("echo a", idempotency_key="k")
    assert first == again
    assert gateway.executions == 1
    with pytest.raises(IdempotencyConflictError):
        await client.execute("echo b", idempotency_key="k")


async def test_submitted_executions_are_found_waited_for_and_listed(client: FaaSClient) -> None:
    ids = [
        (
            await client.submit(
                "echo",
            )
        ).id
        for _ in range(3)
    ]
    assert (await client.wait(ids[0])).ok
    page = await client.list_executions(limit=2)
    assert [execution.id for execution in page.executions] == [ids[2], ids[1]]
    assert page.executions[0].result is None
    rest = await client.list_executions(cursor=page.next_cursor)
    assert [execution.id for execution in rest.executions] == [ids[0]]
    assert rest.next_cursor is None


async def test_waiting_is_bounded_when_asked(client: FaaSClient) -> None:
    execution = await client.submit("cat", stdin_open=True)
    with pytest.raises(TimeoutError, match="has not ended"):
        await client.wait(execution.id, timeout_seconds=0.0)
    assert not (await client.get_execution(execution.id)).is_final


async def test_a_cancelled_execution_says_so(client: FaaSClient) -> None:
    execution = await client.submit("cat", stdin_open=True)
    await client.cancel(execution.id)
    await client.cancel(execution.id)
    result = await client.wait(execution.id)
    assert (result.reason, result.exit_code, result.ok) == ("cancelled", 137, False)
    with pytest.raises(WrongStateError):
        await client.write_stdin(execution.id, "late")


async def test_repeated_input_is_taken_once(client: FaaSClient, gateway: FakeGateway) -> None:
    stream = client.stream("cat", stdin_open=True, payload="zero ")
    await stream.start()
    gateway.lose_answer()
    await stream.write_stdin("one ")
    await stream.write_stdin("two", is_last=True)
    assert (await stream.result()).output == "zero one two"


async def test_leaving_a_stream_early_ends_the_command(client: FaaSClient) -> None:
    async with client.stream("cat", stdin_open=True) as stream:
        execution_id = await stream.start()
    assert (await client.wait(execution_id)).reason == "cancelled"


async def test_the_reason_for_leaving_a_stream_is_never_hidden(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.stream("cat", stdin_open=True):
            gateway.fail_next(InvalidArgumentError)
            raise ZeroDivisionError


async def test_failing_to_end_a_command_that_was_left_is_told(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    with pytest.raises(InvalidArgumentError):
        async with client.stream("cat", stdin_open=True):
            gateway.fail_next(InvalidArgumentError)


async def test_leaving_a_stream_after_its_end_cancels_nothing(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    async with client.stream("echo hi") as stream:
        assert (await stream.result()).output == "hi\n"
    assert not [path for _, path, _ in gateway.requests if path.endswith("/cancel")]


async def test_a_streamed_command_that_runs_out_of_time_raises_at_its_result(
    client: FaaSClient,
) -> None:
    async with client.stream("sleep 9", timeout_ms=10) as stream:
        events = [event async for event in stream]
        assert events == [ExitEvent(124, "timed_out", None, 10)]
        with pytest.raises(ExecutionTimeoutError):
            await stream.result()


async def test_a_stream_that_only_ever_breaks_gives_up(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    execution = await client.submit("echo hi")
    gateway.cut_stream(*[0] * 50)
    with pytest.raises(GatewayUnreachableError, match="connection to the gateway broke"):
        async for _ in client.stream_logs(execution.id):
            pass


async def test_logs_are_read_from_any_byte(client: FaaSClient, gateway: FakeGateway) -> None:
    gateway.on("noise", stdout=b"\xff\xfe\xfd", stderr=b"e")
    execution = await client.submit("noise")
    assert await client.get_logs(execution.id) == b"\xff\xfe\xfd"
    assert await client.get_logs(execution.id, offset=1, limit=1) == b"\xfe"
    assert await client.get_logs(execution.id, stream="stderr") == b"e"


async def test_long_logs_are_read_piece_by_piece(client: FaaSClient, gateway: FakeGateway) -> None:
    output = bytes(range(256)) * 10_000
    gateway.on("long", stdout=output)
    execution = await client.submit("long")
    assert await client.get_logs(execution.id) == output
    assert await client.get_logs(execution.id, offset=5, limit=2_000_000) == output[5:2_000_005]


async def test_an_unknown_id_is_not_found_and_cannot_leave_its_path(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    with pytest.raises(ExecutionNotFoundError):
        await client.get_execution("exec-nope")
    with pytest.raises(ExecutionNotFoundError):
        await client.get_execution("../../health")
    assert gateway.requests[-1][1].startswith("/api/v1/executions/")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.fork_execution("exec-1", "true"),
        lambda client: client.create_snapshot("exec-1", "name"),
        lambda client: client.list_snapshots(),
        lambda client: client.restore_snapshot("snap-1"),
        lambda client: client.delete_snapshot("snap-1"),
        lambda client: client.create_instance("alpine:latest"),
        lambda client: client.list_instances(),
        lambda client: client.exec_instance("inst-1", "true"),
        lambda client: client.stop_instance("inst-1"),
        lambda client: client.delete_instance("inst-1"),
    ],
)
async def test_what_a_gateway_does_not_have_is_unsupported(client: FaaSClient, call: Any) -> None:
    with pytest.raises(UnsupportedError):
        await call(client)


async def test_a_fork_names_its_parent(client: FaaSClient, gateway: FakeGateway) -> None:
    with pytest.raises(UnsupportedError):
        await client.fork_execution("exec-1", "test_a.py", env_vars={"A": "1"})
    sent = gateway.requests[-1][2]
    assert (sent["mode"], sent["branch_from"], sent["env_vars"]) == (
        "branched",
        "exec-1",
        {"A": "1"},
    )


async def test_nothing_is_cached_unless_asked_for(client: FaaSClient, gateway: FakeGateway) -> None:
    client.set_caching(True)
    await client.execute("date | true")
    await client.execute("date | true")
    assert gateway.executions == 2


@pytest.mark.parametrize("options", [{"mode": "cached"}, {"cache_key": "v1"}])
async def test_the_opt_in_cache_answers_a_repeat(
    client: FaaSClient, gateway: FakeGateway, options: Any
) -> None:
    told: list[str] = []
    client.set_caching(True)
    for name in ("cache-hit", "cache-miss"):
        client.on(name, lambda _facts, name=name: told.append(name))
    first = await client.execute("echo a", **options)
    again = await client.execute("echo a", **options)
    assert (first.cache_hit, again.cache_hit, again.output) == (False, True, "a\n")
    assert gateway.executions == 1
    assert told == ["cache-miss", "cache-hit"]
    assert client.metrics.cache_hit_rate == 0.5


async def test_the_cache_tells_requests_apart_by_everything_in_them(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    client.set_caching(True)
    for value in ("1", "2"):
        result = await client.execute("echo $A", cache_key="k", env_vars={"A": value})
        assert result.output == f"{value}\n"
    assert gateway.executions == 2


async def test_failures_are_never_cached(client: FaaSClient, gateway: FakeGateway) -> None:
    client.set_caching(True)
    await client.execute("exit 9", mode="cached")
    await client.execute("exit 9", mode="cached")
    assert gateway.executions == 2


async def test_the_cache_is_off_by_default_and_forgets_when_turned_off(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    assert client.config.cache_enabled is False
    client.set_caching(True)
    await client.execute("echo a", mode="cached")
    client.set_caching(False).set_caching(True)
    await client.execute("echo a", mode="cached")
    assert gateway.executions == 2


async def test_the_cache_is_bounded(gateway: FakeGateway) -> None:
    config = ClientConfig(cache_enabled=True, cache_entries_max=2)
    async with gateway.client(config) as client:
        for word in ("a", "b", "c", "a"):
            await client.execute(f"echo {word}", mode="cached")
    assert gateway.executions == 4


async def test_one_execution_event_per_execute(client: FaaSClient) -> None:
    told: list[dict[str, Any]] = []
    client.on("execution", told.append)
    result = await client.execute("echo a")
    assert len(told) == 1
    assert told[0]["result"] is result
    assert told[0]["elapsed_ms"] > 0
    assert told[0]["cache_hit"] is False


async def test_errors_are_told_and_counted(client: FaaSClient, gateway: FakeGateway) -> None:
    told: list[dict[str, Any]] = []
    client.on("error", told.append)
    gateway.fail_next(InvalidArgumentError("no", hint="yes"))
    with pytest.raises(InvalidArgumentError, match="no"):
        await client.execute("echo a")
    assert told[0]["error"].hint == "yes"
    assert client.get_client_metrics().error_rate == 1.0


async def test_a_listener_can_be_taken_off(client: FaaSClient) -> None:
    told: list[Any] = []
    client.on("execution", told.append).off("execution", told.append)
    await client.execute("true")
    assert told == []


def test_unknown_events_and_async_listeners_are_refused(sync_client: SyncFaaSClient) -> None:
    async def listener(_facts: Any) -> None: ...

    with pytest.raises(ValueError, match="there are: execution, retry"):
        sync_client.on("executed", print)
    with pytest.raises(TypeError, match="plain function"):
        sync_client.on("execution", listener)


async def test_client_metrics_count_and_a_copy_stands_still(client: FaaSClient) -> None:
    await client.execute("true")
    before = client.get_client_metrics()
    await client.execute("true")
    after = client.get_client_metrics()
    assert (before.total_requests, after.total_requests) == (1, 2)
    assert after.average_latency_ms > 0
    assert (after.error_rate, after.cache_hit_rate) == (0.0, 0.0)


async def test_many_at_once_get_their_own_answers(client: FaaSClient) -> None:
    results = await asyncio.gather(*(client.execute(f"echo Test {i}") for i in range(20)))
    assert [result.output for result in results] == [f"Test {i}\n" for i in range(20)]


def test_a_builder_describes_a_function_and_runs_it(sync_client: SyncFaaSClient) -> None:
    function = (
        FunctionBuilder("resize")
        .runtime(Runtime.DOCKER)
        .with_env("A", "1")
        .with_memory(512)
        .with_cpu(2)
        .with_timeout(1000)
    )
    assert function.build() == {
        "name": "resize",
        "runtime": Runtime.DOCKER,
        "env_vars": {"A": "1"},
        "memory_mb": 512,
        "cpu_cores": 2,
        "timeout_ms": 1000,
    }
    assert sync_client.execute("echo $A", **function.options()).output == "1\n"


class Hanging:
    """A gateway whose execute never answers, until it is asked not to wait."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.seen: list[tuple[str, Any, str | None]] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.seen.append((request.url.path, body, request.headers.get("Idempotency-Key")))
        state = {"execution_id": "exec-1", "state": "running"}
        if body is not None and body.get("wait") is not False:
            self.arrived.set()
            await asyncio.Event().wait()
        return httpx.Response(200, json=state)


async def give_up(hanging: Hanging, **options: Any) -> None:
    transport = httpx.MockTransport(hanging)
    async with FaaSClient("http://gateway.test", transport=transport) as client:
        running = asyncio.ensure_future(client.execute("sleep 60", **options))
        await hanging.arrived.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_caller_that_gives_up_ends_its_command() -> None:
    hanging = Hanging()
    await give_up(hanging)
    (_, first, key), (_, again, same_key), (path, _, _) = hanging.seen
    assert again == {**first, "wait": False}
    assert key == same_key
    assert path == "/api/v1/executions/exec-1/cancel"


async def test_a_callers_own_key_lets_the_command_run_on() -> None:
    hanging = Hanging()
    await give_up(hanging, idempotency_key="mine")
    assert len(hanging.seen) == 1


async def test_handlers_answer_from_what_they_see(client: FaaSClient, gateway: FakeGateway) -> None:
    def double(command: FakeCommand) -> Outcome | None:
        return Outcome(command.stdin * 2) if command.argv == ("double",) else None

    gateway.answer(double)
    assert (await client.execute(["double"], stdin="ab")).output == "abab"
    assert (await client.execute(["echo", "x"])).output == "x\n"


async def test_what_is_not_scripted_says_so(client: FaaSClient) -> None:
    result = await client.execute(["make", "coffee"])
    assert result.exit_code == 127
    assert "'make' is not scripted" in result.stderr


async def test_the_fake_refuses_what_a_gateway_would(client: FaaSClient) -> None:
    with pytest.raises(InvalidArgumentError):
        await client.execute("")


@pytest.mark.parametrize(
    ("address", "trusts"),
    [
        ("http://localhost:8080", False),
        ("http://127.0.0.1:1", False),
        ("http://[::1]:1", False),
        ("http://faas.example.org", True),
    ],
)
def test_a_proxy_from_the_environment_is_not_for_loopback(address: str, trusts: bool) -> None:
    assert client_options(ClientConfig(address))["trust_env"] is trusts


@pytest.mark.parametrize("address", ["localhost:8080", "ftp://x", "http://", "gateway"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="not the address of a gateway"):
        FaaSClient(address)


def test_address_and_key_come_from_the_environment_when_not_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAAS_GATEWAY_URL", "http://elsewhere.test:9")
    monkeypatch.setenv("FAAS_API_KEY", "from-env")
    assert FaaSClient().config.base_url == "http://elsewhere.test:9"
    assert FaaSClient().config.api_key == "from-env"
    given = FaaSClient("http://here.test", ClientConfig(api_key="mine"), runtime=Runtime.DOCKER)
    assert (given.config.base_url, given.config.api_key) == ("http://here.test", "mine")
    assert given.config.runtime is Runtime.DOCKER


def test_the_runtime_can_be_chosen_in_a_chain() -> None:
    assert FaaSClient().use_firecracker().use_docker().config.runtime is Runtime.DOCKER
