"""What the routes of executions promise, over the real executor and a fake machine."""

import asyncio
import base64
from typing import Any

import pytest

from faas.gateway import GatewaySettings
from faas.gateway.specs import read_request
from faas.model import ExecutionSpec, FileInput, Limits, NetworkMode, RuntimeChoice

DEFAULTS = GatewaySettings()


def spec_of(body: str) -> ExecutionSpec:
    return read_request(body.encode(), DEFAULTS)[1]


def test_a_request_with_a_command_only_gets_every_default() -> None:
    expected = ExecutionSpec(argv=("sh", "-c", "echo hi"), image="host", limits=Limits())
    assert spec_of('{"command": "echo hi"}') == expected


def test_every_field_reaches_the_spec() -> None:
    spec = spec_of(
        """{"command": ["a", "b"], "image": "x:1", "runtime": "firecracker", "timeout_ms": 5,
        "memory_mb": 64, "cpu_cores": 1.5, "pids_max": 9, "disk_mb": 3, "output_limit": 0,
        "env_vars": {"A": "1"}, "working_dir": "/w", "payload": "in", "stdin_open": true,
        "files": [{"path": "f", "content": "c", "mode": "0755"}], "archive_base64": "dGFy",
        "cache_key": "k", "user": "5:6", "tty": true, "network": "egress", "isolation": "userns"}"""
    )
    assert spec == ExecutionSpec(
        argv=("a", "b"),
        image="x:1",
        runtime=RuntimeChoice.MICROVM,
        env=(("A", "1"),),
        working_dir="/w",
        stdin=b"in",
        stdin_open=True,
        files=(FileInput("f", b"c", 0o755),),
        archive=b"tar",
        limits=Limits(
            timeout_ms=5,
            memory_bytes=64 << 20,
            cpu_millis=1500,
            pids_max=9,
            disk_bytes=3 << 20,
            output_bytes_max=0,
        ),
        network=NetworkMode.EGRESS,
        user="5:6",
        tty=True,
        isolation_min="userns",
    )


def test_a_cache_key_reaches_only_a_mode_that_caches() -> None:
    assert spec_of('{"command": "true", "mode": "cached", "cache_key": "k"}').cache_key == "k"
    assert spec_of('{"command": "true", "cache_key": "k"}').cache_key is None


@pytest.mark.parametrize(
    "env", ['{"A": "1", "B": "x=y"}', '[["A", "1"], ["B", "x=y"]]', '["A=1", "B=x=y"]']
)
def test_env_vars_are_taken_in_three_shapes(env: str) -> None:
    spec = spec_of(f'{{"command": "true", "env_vars": {env}}}')
    assert spec.env == (("A", "1"), ("B", "x=y"))


@pytest.mark.parametrize(
    "payload",
    ['"payload": [0, 255]', '"payload": {"base64": "AP8="}', '"payload_base64": "AP8="'],
)
def test_a_payload_of_any_bytes_is_taken_in_three_shapes(payload: str) -> None:
    assert spec_of(f'{{"command": "true", {payload}}}').stdin == b"\x00\xff"


async def test_both_spellings_of_an_answer_are_sent(gateway: Any) -> None:
    answer = await gateway.execute(command="echo out; echo err >&2; exit 3")
    body = answer.json()
    assert answer.status_code == 200
    assert body["request_id"] == body["execution_id"]
    assert (body["stdout"], body["output"]) == ("out\n", "out\n")
    assert (body["stderr"], body["logs"]) == ("err\n", "err\n")
    assert (body["state"], body["exit_code"], body["reason"]) == ("finished", 3, "exited")
    assert body["error"] == "Process exited with code 3"
    assert body["duration_ms"] >= 1
    assert set(body["timings"]) == {"queue_ms", "sandbox_ms", "exec_ms", "collect_ms"}
    assert (body["runtime_used"], body["image"], body["cache_hit"]) == ("fake", "host", False)
    assert "stdout_base64" not in body


async def test_a_command_that_succeeds_has_no_error(gateway: Any) -> None:
    body = (await gateway.execute(command="true")).json()
    assert (body["exit_code"], body["error"]) == (0, None)


async def test_output_that_is_not_utf8_comes_whole_as_base64(gateway: Any) -> None:
    raw = b"a\xff\x00b"
    encoded = base64.b64encode(raw).decode()
    body = (await gateway.execute(command=["cat"], payload_base64=encoded)).json()
    assert base64.b64decode(body["stdout_base64"]) == raw
    assert body["stdout"] == "a\ufffd\x00b"
    assert "stderr_base64" not in body


async def test_without_waiting_the_answer_is_202_and_a_place_to_look(gateway: Any) -> None:
    answer = await gateway.execute(command="echo later", wait=False)
    assert answer.status_code == 202
    location = answer.headers["location"]
    assert location == f"/api/v1/executions/{answer.json()['request_id']}"
    final = (await gateway.client.get(location, params={"wait_ms": 10_000})).json()
    assert (final["state"], final["stdout"]) == ("finished", "later\n")


async def test_a_long_poll_answers_with_what_there_is_when_its_time_is_up(gateway: Any) -> None:
    started = await gateway.execute(command="cat", stdin_open=True, wait=False)
    location = started.headers["location"]
    answer = await gateway.client.get(location, params={"wait_ms": 1})
    assert answer.json()["state"] in ("queued", "running")


async def test_pages_go_through_all_executions_newest_first(gateway: Any) -> None:
    made = [(await gateway.execute(command="true")).json()["request_id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await gateway.client.get("/api/v1/executions", params=query)).json()
        seen += [row["request_id"] for row in page["executions"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


async def test_a_list_can_be_of_one_state(gateway: Any) -> None:
    await gateway.execute(command="true")
    path = "/api/v1/executions"
    finished = (await gateway.client.get(path, params={"state": "finished"})).json()
    queued = (await gateway.client.get(path, params={"state": "queued"})).json()
    assert (len(finished["executions"]), len(queued["executions"])) == (1, 0)


async def test_cancelling_ends_it_and_may_be_repeated(gateway: Any) -> None:
    started = await gateway.execute(command="cat", stdin_open=True, wait=False)
    path = f"{started.headers['location']}/cancel"
    first = (await gateway.client.post(path)).json()
    again = (await gateway.client.post(path)).json()
    assert (first["state"], first["reason"]) == ("finished", "cancelled")
    assert first == again


async def test_stdin_is_taken_as_json_and_as_raw_bytes(gateway: Any) -> None:
    started = await gateway.execute(command="cat", stdin_open=True, wait=False)
    location = started.headers["location"]
    path = f"{location}/stdin"
    first = await gateway.client.post(path, json={"data": "a\n", "offset": 0})
    repeated = await gateway.client.post(path, json={"data": "a\n", "offset": 0})
    raw = {"Content-Type": "application/octet-stream"}
    last = await gateway.client.post(f"{path}?offset=2&last=true", content=b"\xff", headers=raw)
    assert [answer.json()["offset"] for answer in (first, repeated, last)] == [2, 2, 3]
    final = (await gateway.client.get(location, params={"wait_ms": 10_000})).json()
    assert base64.b64decode(final["stdout_base64"]) == b"a\n\xff"


async def test_stdin_after_the_end_is_a_409(gateway: Any) -> None:
    ended = (await gateway.execute(command="true")).json()["request_id"]
    path = f"/api/v1/executions/{ended}/stdin"
    answer = await gateway.client.post(path, json={"data": "x"})
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")


async def test_logs_are_served_by_offset_raw_and_as_json(gateway: Any) -> None:
    made = (await gateway.execute(command="printf abcdef")).json()["request_id"]
    path = f"/api/v1/executions/{made}/logs"
    piece = await gateway.client.get(path, params={"offset": 1, "limit": 2})
    assert piece.content == b"bc"
    assert (piece.headers["x-next-offset"], piece.headers["x-ended"]) == ("3", "false")
    assert piece.headers["content-type"] == "application/octet-stream"
    accept = {"Accept": "application/json"}
    rest = await gateway.client.get(path, params={"offset": 3}, headers=accept)
    body = rest.json()
    assert (base64.b64decode(body["data"]), body["text"], body["next_offset"]) == (b"def", "def", 6)
    assert body["ended"] is True
    beyond = await gateway.client.get(path, params={"offset": 99})
    assert (beyond.content, beyond.headers["x-ended"]) == (b"", "true")


async def test_logs_in_a_type_that_is_not_offered_are_a_406(gateway: Any) -> None:
    made = (await gateway.execute(command="true")).json()["request_id"]
    path = f"/api/v1/executions/{made}/logs"
    answer = await gateway.client.get(path, headers={"Accept": "image/png"})
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")


async def test_fifty_requests_with_one_key_are_one_run_and_one_answer(gateway: Any) -> None:
    key = {"Idempotency-Key": "order 66"}
    answers = await asyncio.gather(*(gateway.execute(key, command="echo once") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(gateway.platform.host.started) == 1
    fresh = [answer for answer in answers if "idempotency-replayed" not in answer.headers]
    assert len(fresh) == 1


async def test_a_key_used_for_another_request_is_a_409(gateway: Any) -> None:
    key = {"Idempotency-Key": "k"}
    await gateway.execute(key, command="echo one")
    answer = await gateway.execute(key, command="echo two")
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")


async def test_a_retry_that_does_not_wait_finds_the_same_execution(gateway: Any) -> None:
    key = {"Idempotency-Key": "k"}
    first = await gateway.execute(key, command="echo one")
    again = await gateway.execute(key, command="echo one", wait=False)
    assert again.json()["request_id"] == first.json()["request_id"]
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_full_queue_is_a_429_with_retry_after(open_gateway: Any) -> None:
    gateway = await open_gateway(running_max=1, queued_max=0)
    running = await gateway.execute(command="cat", stdin_open=True, wait=False)
    assert running.status_code == 202
    answer = await gateway.execute(command="true")
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["retryable"]) == (429, "queue_full", True)
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_client_that_goes_away_takes_its_execution_with_it(gateway: Any) -> None:
    answer = asyncio.Event()
    sent: list[Any] = []
    body = b'{"command": "cat", "stdin_open": true}'

    async def receive() -> dict[str, Any]:
        if not answer.is_set():
            answer.set()
            return {"type": "http.request", "body": body}
        while not gateway.platform.host.started:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/execute",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await gateway.app(scope, receive, send)
    assert sent == []
    page = (await gateway.client.get("/api/v1/executions")).json()
    location = f"/api/v1/executions/{page['executions'][0]['request_id']}"
    final = (await gateway.client.get(location, params={"wait_ms": 10_000})).json()
    assert final["reason"] == "cancelled"
