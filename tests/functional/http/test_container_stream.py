"""The WebSocket over real connections: seven events, five commands, and no byte lost or doubled."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.plugins.fake_gateway import FakeGateway, fake_gateway
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from faas.gateway import GatewaySettings
from faas.gateway.auth import ApiKey
from faas.ids import TenantId
from faas.tenancy import Principal, Scope, Tenant


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGateway]:
    data_dir: Path = tmp_path_factory.mktemp("gateway")
    settings = GatewaySettings(version="1.2.3", heartbeat_seconds=0.3)
    with fake_gateway(data_dir, settings) as opened:
        yield opened


class Client:
    """One connection; remembers everything it was told."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.heard: list[dict[str, Any]] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, **fields}))

    async def send_raw(self, text: str) -> None:
        await self._socket.send(text)

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                event = json.loads(await self._socket.recv())
                self.heard.append(event)
                if wanted(event):
                    return event

    async def until_closed(self) -> int:
        with pytest.raises(ConnectionClosed):
            await self.until(lambda _: False)
        assert self._socket.close_code is not None
        return self._socket.close_code

    def text(self, stream: str = "stdout", execution_id: str | None = None) -> str:
        return "".join(
            e["data"]
            for e in self.heard
            if e["type"] == stream and execution_id in (None, e["execution_id"])
        )


def is_a(kind: str, **fields: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda e: e["type"] == kind and all(e.get(k) == v for k, v in fields.items())


@asynccontextmanager
async def client(gateway: FakeGateway, reference: str, **options: Any) -> AsyncIterator[Client]:
    query = options.pop("query", "")
    url = f"{gateway.url.replace('http', 'ws')}/api/v1/containers/{reference}/stream{query}"
    async with connect(url, proxy=None, **options) as socket:
        yield Client(socket)


def post(gateway: FakeGateway, path: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{gateway.url}{path}", json=body, trust_env=False, timeout=30)
    assert answer.status_code < 300, answer.text
    return answer.json()


def begin(gateway: FakeGateway, command: str, **body: Any) -> str:
    return post(gateway, "/api/v1/execute", command=command, wait=False, **body)["execution_id"]


def instance(gateway: FakeGateway, **body: Any) -> str:
    return post(gateway, "/api/v1/instances", **body)["id"]


async def test_an_execution_is_followed_to_its_real_exit(gateway: FakeGateway) -> None:
    execution = begin(gateway, "echo one; sleep 0.2; echo two; echo bad >&2; exit 7")
    async with client(gateway, execution) as one:
        ended = await one.until(is_a("exit"))
        assert await one.until_closed() == 1000
    assert (ended["code"], ended["reason"], ended["execution_id"]) == (7, "exited", execution)
    assert (one.text(), one.text("stderr")) == ("one\ntwo\n", "bad\n")
    begun, stopped = (e for e in one.heard if e["type"] == "process_event")
    assert (begun["event"], stopped["event"]) == ("started", "stopped")


async def test_a_finished_execution_is_told_whole(gateway: FakeGateway) -> None:
    execution = post(gateway, "/api/v1/execute", command="echo done")["execution_id"]
    async with client(gateway, execution) as one:
        await one.until(is_a("exit", code=0))
    assert one.text() == "done\n"


async def test_stdin_reaches_the_process_and_is_acknowledged(gateway: FakeGateway) -> None:
    execution = begin(gateway, "cat", stdin_open=True)
    async with client(gateway, execution) as one:
        await one.send("stdin", data="hello ")
        first = await one.until(is_a("custom", name="stdin_ack"))
        assert first["data"] == {"bytes": 6, "offset": 6, "execution_id": execution}
        await one.send("stdin", data_base64=base64.b64encode(b"world").decode(), last=True)
        await one.until(is_a("exit", code=0))
    assert one.text() == "hello world"


async def test_a_client_that_was_cut_resumes_without_a_lost_or_doubled_byte(
    gateway: FakeGateway,
) -> None:
    execution = begin(gateway, "cat", stdin_open=True)
    whole, at = "", "0-0"
    for number in range(5):
        async with client(gateway, execution, query=f"?offset={at}") as one:
            piece = f"piece {number} ä\n"
            await one.send("stdin", data=piece)
            while not one.text().endswith("ä\n"):
                await one.until(is_a("stdout"))
            whole += one.text()
            at = f"{[e for e in one.heard if e['type'] == 'stdout'][-1]['next_offset']}-0"
    assert whole == "".join(f"piece {number} ä\n" for number in range(5))


async def test_bytes_that_are_no_text_come_exact(gateway: FakeGateway) -> None:
    execution = begin(gateway, "cat", payload=list(range(256)))
    async with client(gateway, execution) as one:
        await one.until(is_a("exit"))
    pieces = [e for e in one.heard if e["type"] == "stdout"]
    assert b"".join(base64.b64decode(e["data_base64"]) for e in pieces) == bytes(range(256))


async def test_a_character_is_never_cut(gateway: FakeGateway) -> None:
    text = "€" * 50_000
    execution = begin(gateway, "cat", payload=text)
    async with client(gateway, execution) as one:
        await one.until(is_a("exit"))
    assert one.text() == text
    assert all("data_base64" not in e for e in one.heard)


async def test_stop_cancels_an_execution(gateway: FakeGateway) -> None:
    execution = begin(gateway, "sleep 60")
    async with client(gateway, execution) as one:
        await one.until(is_a("process_event", event="started"))
        await one.send("stop")
        ended = await one.until(is_a("exit"))
    assert (ended["code"], ended["reason"]) == (137, "cancelled")


async def test_commands_interleave_in_an_instance(gateway: FakeGateway) -> None:
    async with client(gateway, instance(gateway)) as one:
        await one.send("exec", command="sleep 0.5; echo slow; exit 3")
        slow = (await one.until(is_a("custom", name="exec_started")))["data"]["execution_id"]
        await one.send("exec", command=["echo", "quick"])
        quick = (await one.until(is_a("custom", name="exec_started")))["data"]["execution_id"]
        await one.until(is_a("exit", execution_id=quick, code=0))
        await one.until(is_a("exit", execution_id=slow, code=3))
    assert (one.text(execution_id=quick), one.text(execution_id=slow)) == ("quick\n", "slow\n")


async def test_a_command_begun_here_takes_input_here(gateway: FakeGateway) -> None:
    async with client(gateway, instance(gateway)) as one:
        await one.send("exec", command="cat", stdin=True)
        await one.send("stdin", data="in", last=True)
        await one.until(is_a("exit", code=0))
    assert one.text() == "in"


async def test_every_client_of_an_instance_sees_what_others_begin(gateway: FakeGateway) -> None:
    made = instance(gateway)
    async with client(gateway, made) as one, client(gateway, made) as two:
        await two.send("get_state")
        await two.until(is_a("custom", name="state"))
        await one.send("exec", command="echo shared")
        await one.until(is_a("exit"))
        await two.until(is_a("exit"))
    assert one.text() == two.text() == "shared\n"


async def test_an_exec_in_an_execution_runs_beside_it(gateway: FakeGateway) -> None:
    execution = begin(gateway, "sleep 1; echo main")
    async with client(gateway, execution) as one:
        await one.until(is_a("process_event", event="started"))
        await one.send("exec", command="echo guest")
        await one.until(is_a("exit", code=0))
        assert one.text() == "guest\n"
        await one.until(is_a("exit", execution_id=execution))
    assert one.text(execution_id=execution) == "main\n"


async def test_the_state_is_told(gateway: FakeGateway) -> None:
    made = instance(gateway)
    async with client(gateway, made) as one:
        await one.send("get_state")
        state = (await one.until(is_a("custom", name="state")))["data"]
    assert (state["status"], state["running"], state["paused"]) == ("running", True, False)
    execution = begin(gateway, "sleep 60")
    async with client(gateway, execution) as one:
        await one.until(is_a("process_event", event="started"))
        await one.send("get_state")
        state = (await one.until(is_a("custom", name="state")))["data"]
        await one.send("stop")
    assert (state["status"], state["exit_code"]) == ("running", None)


async def test_a_checkpoint_is_a_snapshot_that_can_be_started_from(gateway: FakeGateway) -> None:
    made = instance(gateway)
    files = f"{gateway.url}/api/v1/instances/{made}/files?path=/workspace/a"
    httpx.put(files, content=b"kept", trust_env=False).raise_for_status()
    async with client(gateway, made) as one:
        await one.send("checkpoint", name="before")
        told = (await one.until(is_a("custom", name="checkpoint_created")))["data"]
    assert (told["checkpoint_name"], told["container_id"]) == ("before", made)
    child = instance(gateway, snapshot_id=told["snapshot_id"])
    found = httpx.get(files.replace(made, child), trust_env=False)
    assert found.content == b"kept"


async def test_stopping_an_instance_ends_its_stream(gateway: FakeGateway) -> None:
    made = instance(gateway)
    async with client(gateway, made) as one:
        await one.send("stop")
        ended = await one.until(is_a("exit"))
        assert await one.until_closed() == 1000
    assert (ended["reason"], ended["execution_id"]) == ("stopped", None)


async def test_changes_of_watched_files_are_told(gateway: FakeGateway) -> None:
    made = instance(gateway)
    files = f"{gateway.url}/api/v1/instances/{made}/files?path=/workspace/"
    httpx.put(f"{files}old", content=b"1", trust_env=False)
    async with client(gateway, made, query="?watch=/workspace") as one:
        await one.until(is_a("heartbeat"))
        async with httpx.AsyncClient(trust_env=False) as http:
            await http.put(f"{files}new", content=b"1")
            await one.until(is_a("file_event", path="/workspace/new", event="created"))
            await http.put(f"{files}new", content=b"12")
            await one.until(is_a("file_event", path="/workspace/new", event="modified"))
            await http.delete(f"{files}new")
            await one.until(is_a("file_event", path="/workspace/new", event="deleted"))
    assert not [e for e in one.heard if e.get("path") == "/workspace/old"]


async def test_silence_is_filled_with_heartbeats(gateway: FakeGateway) -> None:
    async with client(gateway, instance(gateway)) as one:
        await one.until(is_a("heartbeat"))
        await one.until(is_a("heartbeat"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        '{"type": "dance"}',
        '{"type": "exec"}',
        '{"type": "exec", "command": ""}',
        '{"type": "exec", "command": "a\\u0000b"}',
        '{"type": "exec", "command": "true", "working_dir": "relative"}',
        '{"type": "stdin", "data": "nobody reads"}',
        '{"type": "stdin", "data_base64": "*"}',
        '{"type": "stdin", "data": "x", "execution_id": "exec-01k9zjv3f8q5r2m7c4x6w0n1ab"}',
    ],
)
async def test_a_wrong_command_is_answered_and_ends_nothing(
    gateway: FakeGateway, text: str
) -> None:
    async with client(gateway, instance(gateway)) as one:
        await one.send_raw(text)
        told = await one.until(is_a("custom", name="error"))
        assert told["data"]["detail"]
        await one.send("get_state")
        await one.until(is_a("custom", name="state"))


async def test_a_client_that_reads_nothing_blocks_nobody(gateway: FakeGateway) -> None:
    made = instance(gateway)
    async with client(gateway, made, max_queue=1), client(gateway, made) as other:
        await other.send("exec", command="cat", stdin=True)
        await other.until(is_a("custom", name="exec_started"))
        block = "x" * 500_000
        for _ in range(8):
            await other.send("stdin", data=block)
        await other.send("stdin", data="", last=True)
        await other.until(is_a("exit", code=0))
    assert len(other.text()) == 8 * 500_000


@pytest.mark.parametrize(
    ("reference", "query", "status"),
    [
        ("exec-01k9zjv3f8q5r2m7c4x6w0n1ab", "", 404),
        ("inst-01k9zjv3f8q5r2m7c4x6w0n1ab", "", 404),
        ("sbx-01k9zjv3f8q5r2m7c4x6w0n1ab", "", 404),
        ("nobody", "", 404),
        ("exec-01k9zjv3f8q5r2m7c4x6w0n1ab", "?offset=x", 404),
    ],
)
async def test_what_is_not_there_is_refused_with_a_problem(
    gateway: FakeGateway, reference: str, query: str, status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with client(gateway, reference, query=query):
            pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["status"] == status


@pytest.mark.parametrize("query", ["?offset=x", "?resume=1", "?watch=relative", "?dance=1"])
async def test_a_wrong_query_is_refused(gateway: FakeGateway, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with client(gateway, instance(gateway), query=query):
            pass
    assert refused.value.response.status_code == 400


async def test_a_page_from_elsewhere_may_not_connect(gateway: FakeGateway) -> None:
    made = instance(gateway)
    with pytest.raises(InvalidStatus) as refused:
        async with client(gateway, made, origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403
    async with client(gateway, made, origin=gateway.url) as own:
        await own.until(is_a("heartbeat"))


async def test_keys_are_asked_for_and_tenants_kept_apart(tmp_path: Path) -> None:
    def key(name: str, *scopes: Scope) -> ApiKey:
        return ApiKey.of(name, Principal(Tenant(TenantId(name)), frozenset(scopes)))

    keys = (key("a", Scope.ADMIN), key("b", Scope.ADMIN), key("reader", Scope.READ))
    with fake_gateway(tmp_path, GatewaySettings(api_keys=keys, heartbeat_seconds=0.2)) as gateway:
        answer = httpx.post(
            f"{gateway.url}/api/v1/instances", json={}, headers={"X-API-Key": "a"}, trust_env=False
        )
        made = answer.json()["id"]
        for name, status in (("", 401), ("wrong", 401), ("b", 404), ("reader", 403)):
            with pytest.raises(InvalidStatus) as refused:
                async with client(gateway, made, additional_headers={"X-API-Key": name}):
                    pass
            assert refused.value.response.status_code == status
        headers = {"Authorization": "Bearer a"}
        async with client(gateway, made, additional_headers=headers) as one:
            await one.until(is_a("heartbeat"))
