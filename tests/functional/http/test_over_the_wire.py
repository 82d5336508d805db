"""What only shows over a real connection: streams, cut sockets, large bodies, many clients."""

import asyncio
import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.plugins.fake_gateway import FakeGateway, fake_gateway

from faas.gateway import GatewaySettings

BODY_BYTES_MAX = 1 << 20


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGateway]:
    settings = GatewaySettings(body_bytes_max=BODY_BYTES_MAX, heartbeat_seconds=0.05)
    with fake_gateway(tmp_path_factory.mktemp("gateway"), settings) as running:
        yield running


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as opened:
        yield opened


def submit(client: httpx.Client, **body: Any) -> str:
    return client.post("/api/v1/execute", json={**body, "wait": False}).json()["request_id"]


def events(lines: Iterator[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], fields["id"], json.loads(fields["data"])
            fields = {}


def raw_request(gateway: FakeGateway, *pieces: bytes) -> socket.socket:
    parts = urlsplit(gateway.url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30)
    for piece in pieces:
        connection.sendall(piece)
    return connection


def wait_for(client: httpx.Client, execution_id: str) -> dict[str, Any]:
    answer = client.get(f"/api/v1/executions/{execution_id}", params={"wait_ms": 20_000})
    return answer.json()


def test_output_arrives_while_the_command_still_runs(client: httpx.Client) -> None:
    execution_id = submit(client, command="cat", stdin_open=True)
    stdin = f"/api/v1/executions/{execution_id}/stdin"
    with client.stream("GET", f"/api/v1/logs/{execution_id}/stream") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        seen = events(stream.iter_lines())
        client.post(stdin, json={"data": "one\n", "offset": 0})
        name, event_id, data = next(seen)
        assert (name, event_id, base64.b64decode(data["data"])) == ("stdout", "4-0", b"one\n")
        client.post(stdin, json={"data": "two\n", "offset": 4, "last": True})
        name, event_id, data = next(seen)
        assert (name, event_id, data["text"]) == ("stdout", "8-0", "two\n")
        name, _, data = next(seen)
        assert (name, data["exit_code"]) == ("exit", 0)
        assert list(seen) == []


def test_a_broken_stream_goes_on_at_the_byte_where_it_broke(client: httpx.Client) -> None:
    execution_id = submit(client, command="cat", stdin_open=True)
    stdin = f"/api/v1/executions/{execution_id}/stdin"
    path = f"/api/v1/logs/{execution_id}/stream"
    client.post(stdin, json={"data": "abc", "offset": 0})
    with client.stream("GET", path) as stream:
        _, last_id, first = next(events(stream.iter_lines()))
    client.post(stdin, json={"data": "def", "offset": 3, "last": True})
    with client.stream("GET", path, headers={"Last-Event-ID": last_id}) as stream:
        *rest, (name, _, _) = list(events(stream.iter_lines()))
    pieces = [first, *(data for _, _, data in rest)]
    assert b"".join(base64.b64decode(piece["data"]) for piece in pieces) == b"abcdef"
    assert name == "exit"


def test_a_silent_stream_is_kept_alive(client: httpx.Client) -> None:
    execution_id = submit(client, command="cat", stdin_open=True)
    with client.stream("GET", f"/api/v1/logs/{execution_id}/stream") as stream:
        lines = stream.iter_lines()
        comments = [line for line, _ in zip(lines, range(12), strict=False) if line[:1] == ":"]
    assert len(comments) >= 3
    client.post(f"/api/v1/executions/{execution_id}/cancel")


def test_a_socket_closed_in_mid_run_cancels_the_run(
    gateway: FakeGateway, client: httpx.Client
) -> None:
    body = b'{"command": "cat; echo closed-socket", "stdin_open": true}'
    head = (
        b"POST /api/v1/execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    connection = raw_request(gateway, head, body)
    with connection:
        row = _find(client, "closed-socket")
    assert wait_for(client, row["request_id"])["reason"] == "cancelled"


def test_a_socket_closed_in_mid_run_does_not_cancel_a_run_with_a_key(
    gateway: FakeGateway, client: httpx.Client
) -> None:
    body = b'{"command": "cat; echo kept-by-key", "stdin_open": true}'
    head = (
        b"POST /api/v1/execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Idempotency-Key: kept\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    connection = raw_request(gateway, head, body)
    with connection:
        row = _find(client, "kept-by-key")
    stdin = f"/api/v1/executions/{row['request_id']}/stdin"
    assert client.post(stdin, json={"data": "still here ", "last": True}).status_code == 200
    final = wait_for(client, row["request_id"])
    assert (final["reason"], final["stdout"]) == ("exited", "still here kept-by-key\n")
    request = {"command": "cat; echo kept-by-key", "stdin_open": True}
    again = client.post("/api/v1/execute", json=request, headers={"Idempotency-Key": "kept"})
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["stdout"] == final["stdout"]


def test_a_socket_closed_in_mid_stream_leaves_no_stream_open(
    gateway: FakeGateway, client: httpx.Client
) -> None:
    execution_id = submit(client, command="cat", stdin_open=True)
    path = f"/api/v1/logs/{execution_id}/stream".encode()
    connection = raw_request(gateway, b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
    with connection:
        assert b"text/event-stream" in connection.recv(4096)
        assert _streams(client) == 1
    _until(lambda: _streams(client) == 0)
    client.post(f"/api/v1/executions/{execution_id}/cancel")


def test_a_socket_closed_before_the_body_is_whole_runs_nothing(
    gateway: FakeGateway, client: httpx.Client
) -> None:
    head = (
        b"POST /api/v1/execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b'Content-Length: 900\r\n\r\n{"command": "echo never-whole"'
    )
    with raw_request(gateway, head):
        pass
    page = client.get("/api/v1/executions").json()
    assert not [row for row in page["executions"] if "never-whole" in str(row["command"])]


def test_a_huge_body_is_refused_and_the_connection_stays_usable(client: httpx.Client) -> None:
    body = {"command": "true", "payload": "x" * (4 * BODY_BYTES_MAX)}
    answer = client.post("/api/v1/execute", json=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert client.get("/health").status_code == 200


def test_a_huge_body_in_chunks_is_refused_while_it_is_read(client: httpx.Client) -> None:
    pieces = (b"x" * 65_536 for _ in range(64))
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/v1/execute", content=pieces, headers=headers)
    assert answer.status_code == 413


async def test_fifty_parallel_requests_with_one_key_are_one_run(gateway: FakeGateway) -> None:
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(
        base_url=gateway.url, limits=limits, timeout=30, trust_env=False
    ) as client:
        request = {"command": "echo fifty"}
        headers = {"Idempotency-Key": "fifty"}
        answers = await asyncio.gather(
            *(client.post("/api/v1/execute", json=request, headers=headers) for _ in range(50))
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


async def test_each_of_many_parallel_requests_gets_its_own_answer(gateway: FakeGateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False) as client:
        answers = await asyncio.gather(
            *(client.post("/api/v1/execute", json={"command": f"echo {n}"}) for n in range(60))
        )
    assert [answer.json()["stdout"] for answer in answers] == [f"{n}\n" for n in range(60)]


def test_a_head_request_has_no_body(client: httpx.Client) -> None:
    answer = client.head("/health")
    assert (answer.status_code, answer.content) == (200, b"")


def test_the_documents_are_served(client: httpx.Client) -> None:
    assert client.get("/openapi.json").json()["openapi"] == "3.1.0"
    assert "<title>" in client.get("/docs").text


def test_a_gateway_that_stops_ends_its_streams(tmp_path: Path) -> None:
    with fake_gateway(tmp_path) as gateway:
        opened = httpx.Client(base_url=gateway.url, timeout=30, trust_env=False)
        execution_id = submit(opened, command="cat", stdin_open=True)
        connection = raw_request(
            gateway, f"GET /api/v1/logs/{execution_id}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        received = connection.recv(4096)
        opened.close()
    with connection:
        while piece := connection.recv(4096):
            received += piece
    assert b"event:" not in received
    assert received.endswith(b"0\r\n\r\n")


def _streams(client: httpx.Client) -> int:
    lines = client.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("faas_log_streams_open ")]
    return int(line.split()[1])


def _find(client: httpx.Client, word: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def running() -> bool:
        query = {"state": "running"}
        rows = client.get("/api/v1/executions", params=query).json()["executions"]
        found[:] = [row for row in rows if word in str(row["command"])]
        return bool(found)

    _until(running)
    return found[0]


def _until(check: Any, tries: int = 2000) -> None:
    """Ask again and again; each try is a round trip, so the server gets its turn."""
    for _ in range(tries):
        if check():
            return
    raise AssertionError("it never came")
