"""When the client tries again, and when it must not."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable

import httpx
import pytest

from faas_sdk import (
    ClientConfig,
    DeadlineExceededError,
    FaaSClient,
    FaaSError,
    GatewayUnreachableError,
    InternalError,
    InvalidArgumentError,
    ProtocolError,
    QueueFullError,
    UnavailableError,
)
from faas_sdk._retry import RetryPolicy, parse_retry_after

DONE = {"request_id": "exec-1", "exit_code": 0, "stdout": "ok", "state": "finished"}
POLICY = RetryPolicy(max_retries=3, delay_seconds=0.1, delay_seconds_max=0.3)


def delay(attempt: int, *, after: float | None = None, remaining: float = 100) -> float | None:
    return POLICY.delay(attempt=attempt, retry_after_seconds=after, remaining_seconds=remaining)


def test_delays_double_up_to_the_ceiling_with_jitter_below_it() -> None:
    for attempt, ceiling in ((1, 0.1), (2, 0.2), (3, 0.3)):
        delays = [delay(attempt) for _ in range(50)]
        assert all(one is not None and ceiling / 2 <= one <= ceiling for one in delays)
        assert len(set(delays)) > 1


def test_the_attempts_are_bounded() -> None:
    assert delay(4) is None


def test_retry_after_is_obeyed() -> None:
    assert delay(1, after=7.5) == 7.5


def test_a_retry_after_of_hours_is_told_to_the_caller() -> None:
    assert delay(1, after=3600) is None


def test_no_delay_goes_past_the_time_left() -> None:
    assert delay(1, after=5, remaining=4) is None


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("soon", None), (None, None)]
)
def test_retry_after_is_read_in_seconds(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_retry_after_is_read_as_a_date() -> None:
    seconds = parse_retry_after(email.utils.formatdate(time.time() + 600, usegmt=True))
    assert seconds is not None
    assert 0 < seconds <= 600


class Script:
    """Answers each request with the next step; the last one stays."""

    def __init__(self, *steps: "httpx.Response | Exception") -> None:
        self.steps = list(steps)
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        return httpx.Response(step.status_code, headers=step.headers, content=step.content)


def problem(status: int, code: str, *, retryable: bool, after: str | None = None) -> httpx.Response:
    headers = {} if after is None else {"Retry-After": after}
    body = {"code": code, "detail": "d", "hint": "h", "trace_id": "t", "retryable": retryable}
    return httpx.Response(status, headers=headers, json=body)


def client_of(script: Callable[[httpx.Request], httpx.Response]) -> FaaSClient:
    config = ClientConfig("http://gateway.test", retry_delay_seconds=0.0)
    return FaaSClient(config=config, transport=httpx.MockTransport(script))


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("server disconnected"),
        httpx.WriteError("broken pipe"),
        problem(429, "queue_full", retryable=True, after="0"),
        problem(503, "unavailable", retryable=True),
        httpx.Response(503, headers={"Retry-After": "0"}, content=b"<html>"),
    ],
    ids=str,
)
async def test_execute_is_repeated_with_the_same_key_and_body(
    trouble: "httpx.Response | Exception",
) -> None:
    script = Script(trouble, trouble, httpx.Response(200, json=DONE))
    async with client_of(script) as client:
        assert (await client.execute("echo ok")).output == "ok"
    assert len(script.seen) == 3
    assert len({request.headers["Idempotency-Key"] for request in script.seen}) == 1
    assert len({request.content for request in script.seen}) == 1
    assert client.metrics.retries == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(400, "invalid_argument", retryable=False), InvalidArgumentError),
        (problem(400, "invalid_argument", retryable=True, after="0"), InvalidArgumentError),
        (problem(500, "internal", retryable=True), InternalError),
        (httpx.Response(503, content=b"<html>"), UnavailableError),
        (httpx.Response(200, content=b"<html>"), ProtocolError),
        (httpx.Response(200, json=[1]), ProtocolError),
        (httpx.Response(200, json={"hello": "world"}), ProtocolError),
        (httpx.Response(302, headers={"Location": "http://elsewhere.test"}), FaaSError),
    ],
    ids=str,
)
async def test_other_refusals_are_raised_at_once(
    answer: httpx.Response, kind: type[FaaSError]
) -> None:
    script = Script(answer)
    async with client_of(script) as client:
        with pytest.raises(kind):
            await client.execute("echo ok")
    assert len(script.seen) == 1


async def test_a_request_without_a_key_is_not_repeated_once_it_was_sent() -> None:
    script = Script(httpx.ReadError("reset"))
    async with client_of(script) as client:
        with pytest.raises(GatewayUnreachableError):
            await client.create_snapshot("exec-1", "name")
    assert len(script.seen) == 1


async def test_a_request_without_a_key_is_repeated_when_nobody_was_reached() -> None:
    script = Script(httpx.ConnectError("refused"), httpx.Response(200, json={"id": "snap-1"}))
    async with client_of(script) as client:
        assert await client.create_snapshot("exec-1", "name") == {"id": "snap-1"}


async def test_reads_are_repeated() -> None:
    script = Script(httpx.ReadError("reset"), httpx.Response(200, json={"status": "healthy"}))
    async with client_of(script) as client:
        assert (await client.health_check())["status"] == "healthy"


async def test_an_unwell_gateway_still_answers_its_health() -> None:
    script = Script(httpx.Response(503, json={"status": "unhealthy"}))
    async with client_of(script) as client:
        assert (await client.health_check())["status"] == "unhealthy"


async def test_a_command_that_was_not_answered_in_time_is_ended() -> None:
    running = httpx.Response(202, json={"execution_id": "exec-1", "state": "running"})
    script = Script(httpx.ReadTimeout("slow"), running)
    async with client_of(script) as client:
        with pytest.raises(DeadlineExceededError, match="within 31 s"):
            await client.execute("sleep 9", timeout_ms=1000)
    asked, found, cancelled = script.seen
    assert found.headers["Idempotency-Key"] == asked.headers["Idempotency-Key"]
    assert json.loads(found.content) == {**json.loads(asked.content), "wait": False}
    assert cancelled.url.path == "/api/v1/executions/exec-1/cancel"


async def test_a_read_that_is_not_answered_in_time_is_not_asked_again() -> None:
    script = Script(httpx.ReadTimeout("slow"))
    async with client_of(script) as client:
        with pytest.raises(DeadlineExceededError, match="within 30 s"):
            await client.get_metrics()
    assert len(script.seen) == 1


async def test_giving_up_raises_the_last_refusal_with_everything_it_said() -> None:
    script = Script(problem(429, "queue_full", retryable=True, after="0"))
    async with client_of(script) as client:
        with pytest.raises(QueueFullError) as caught:
            await client.execute("echo ok")
    assert len(script.seen) == 4
    error = caught.value
    assert (error.status, error.hint, error.trace_id) == (429, "h", "t")
    assert str(error) == "d\nhint: h\ntrace: t"


async def test_an_unreachable_gateway_is_named_with_a_hint() -> None:
    async with client_of(Script(httpx.ConnectError("Connection refused"))) as client:
        with pytest.raises(GatewayUnreachableError, match=r"http://gateway\.test.*\n.*faas serve"):
            await client.execute("echo ok")


async def test_retries_are_told_to_listeners() -> None:
    told: list[tuple[int, str]] = []
    script = Script(httpx.ConnectError("refused"), httpx.Response(200, json=DONE))
    async with client_of(script) as client:
        client.on("retry", lambda facts: told.append((facts["attempt"], facts["error"].code)))
        await client.execute("echo ok")
    assert told == [(1, "gateway_unreachable")]


async def test_the_callers_own_key_is_sent() -> None:
    script = Script(httpx.Response(200, json=DONE))
    async with client_of(script) as client:
        await client.execute("echo ok", idempotency_key="mine")
    assert script.seen[0].headers["Idempotency-Key"] == "mine"
    assert b"mine" not in script.seen[0].content


async def test_each_execute_has_a_key_of_its_own() -> None:
    script = Script(httpx.Response(200, json=DONE))
    async with client_of(script) as client:
        await client.execute("echo ok")
        await client.execute("echo ok")
    assert len({request.headers["Idempotency-Key"] for request in script.seen}) == 2


async def test_the_read_time_is_the_commands_and_the_slack() -> None:
    script = Script(httpx.Response(200, json=DONE))
    async with client_of(script) as client:
        await client.execute("echo ok", timeout_ms=90_000)
    assert script.seen[0].extensions["timeout"]["read"] == 120


async def test_the_api_key_is_sent_on_every_request_and_shown_nowhere() -> None:
    script = Script(httpx.Response(200, json=DONE))
    client = FaaSClient(
        "http://gateway.test", api_key="s3cret", transport=httpx.MockTransport(script)
    )
    async with client:
        await client.execute("echo ok")
        await client.health_check()
    sent = [request.headers["Authorization"] for request in script.seen]
    assert sent == ["Bearer s3cret"] * 2
    assert "s3cret" not in repr(client.config)
