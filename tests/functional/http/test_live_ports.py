"""Ports of real sandboxes over a real gateway: HTTP, WebSocket, streams, strangers, kill -9."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the live gateway is started as root"),
]

KEY, OTHERS = "key-of-the-first-tenant", "key-of-the-second-tenant"
MIB = 1 << 20

SERVER = Path(__file__).with_name("port_server.txt").read_text()
"""What runs in the sandbox."""


@pytest.fixture(scope="module")
def live() -> Iterator[LiveGateway]:
    with live_gateway(FAAS_API_KEYS=f"one:{KEY},two:{OTHERS}") as gateway:
        yield gateway
    while CLIENTS:
        CLIENTS.pop().close()


CLIENTS: list[httpx.Client] = []


def client(live: LiveGateway, key: str | None = KEY) -> httpx.Client:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=live.url, timeout=60, trust_env=False, headers=headers)


class House:
    """An instance with servers on 8000 (HTTP) and 8001 (WebSocket), both exposed."""

    def __init__(self, live: LiveGateway, **body: Any) -> None:
        self.live = live
        self.api = client(live)
        CLIENTS.append(self.api)
        self.id: str = self.api.post("/api/v1/instances", json=body).json()["id"]
        self.at = f"/api/v1/instances/{self.id}"
        put = self.api.put(f"{self.at}/files?path=/workspace/server.py", content=SERVER.encode())
        assert put.status_code == 204, put.text
        self.serve()

    def serve(self) -> None:
        start = "python3 /workspace/server.py > /tmp/log 2>&1 & "
        wait = "for i in $(seq 400); do grep -q up /tmp/log && exit 0; sleep 0.05; done"
        self.run(f"{start} {wait}; cat /tmp/log; exit 1")

    def run(self, command: str, **body: Any) -> str:
        asked = {"command": command, **body}
        answer = self.api.post(f"{self.at}/exec", json=asked, timeout=110).json()
        assert answer["exit_code"] == 0, answer
        return answer["stdout"]

    def expose(self, port: int, **body: Any) -> dict[str, Any]:
        answer = self.api.post(f"{self.at}/ports", json={"port": port, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def visit(self, exposed: dict[str, Any], path: str = "/", **options: Any) -> httpx.Response:
        return httpx.request(**visiting(self.live, exposed, path, **options))

    def socket(self, exposed: dict[str, Any], path: str = "/", **options: Any) -> Any:
        host = httpx.URL(exposed["url"]).netloc.decode()
        raw = socket.create_connection(("127.0.0.1", self.live.port))
        headers = options.pop("headers", {"X-Faas-Token": exposed["token"]})
        return connect(
            f"ws://{host}{path}", sock=raw, proxy=None, additional_headers=headers, **options
        )


def visiting(
    live: LiveGateway, exposed: dict[str, Any], path: str, *, token: bool = True, **options: Any
) -> dict[str, Any]:
    """A request to the port's own host, sent to where the gateway listens."""
    host = httpx.URL(exposed["url"]).netloc.decode()
    headers = {"Host": host, **options.pop("headers", {})}
    if token:
        headers["X-Faas-Token"] = exposed["token"]
    options.setdefault("method", "GET")
    options |= {"url": live.url + path, "headers": headers, "trust_env": False, "timeout": 60}
    return options


@pytest.fixture(scope="module")
def house(live: LiveGateway) -> House:
    return House(live)


@pytest.fixture(scope="module")
def port(house: House) -> dict[str, Any]:
    return house.expose(8000)


@pytest.fixture(scope="module")
def sockets(house: House) -> dict[str, Any]:
    return house.expose(8001)


def header(answer: httpx.Response, name: str) -> list[str]:
    return [value for key, value in answer.json()["headers"] if key.lower() == name]


def test_a_port_is_reached_by_its_own_address_and_by_the_path(house: House, port: Any) -> None:
    seen = house.visit(port, "/a%2Fb/c?x=1&y=%20")
    assert seen.status_code == 200, seen.text
    assert seen.json()["path"] == "/a%2Fb/c?x=1&y=%20"
    assert header(seen, "host") == [httpx.URL(port["url"]).netloc.decode()]
    below = house.api.get(port["path"] + "deep/er?q=1")
    assert below.json()["path"] == "/deep/er?q=1"
    assert header(below, "host") == ["localhost:8000"]
    assert header(below, "x-forwarded-prefix") == [port["path"].rstrip("/")]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_carries_its_body(house: House, port: Any, method: str) -> None:
    seen = house.visit(port, "/", method=method, content=b"abc")
    assert (seen.status_code, seen.json()["bytes"]) == (200, 3)


def test_a_head_has_no_body(house: House, port: Any) -> None:
    seen = house.visit(port, "/", method="HEAD")
    assert (seen.status_code, seen.content) == (501, b"")  # this server knows no HEAD


def test_a_large_body_streams_in_by_length_and_in_chunks(house: House, port: Any) -> None:
    piece = os.urandom(MIB)
    wanted = hashlib.sha256(piece * 40).hexdigest()
    for body in (piece * 40, (piece for _ in range(40))):
        seen = house.visit(port, "/", method="POST", content=body)
        assert (seen.json()["bytes"], seen.json()["sha256"]) == (40 * MIB, wanted)


def test_a_large_answer_streams_out_as_the_client_takes_it(house: House, port: Any) -> None:
    with httpx.stream(**visiting(house.live, port, "/big")) as answer:
        pieces = answer.iter_raw(MIB)
        first = next(pieces)
        time.sleep(1.0)  # a slow reader: what was not taken must still be in the sandbox
        ahead = int(house.run("cat /tmp/sent"))
        assert ahead < 40, "the gateway reads ahead of its client"
        got = len(first) + sum(len(piece) for piece in pieces)
    assert got == 64 * MIB


def test_events_arrive_while_they_are_made(house: House, port: Any) -> None:
    with httpx.stream(**visiting(house.live, port, "/events")) as answer:
        seen = []
        for line in answer.iter_lines():
            if line:
                seen.append(line)
                house.visit(port, "/go")
    assert seen == ["data: 0", "data: 1", "data: 2"]


def test_an_answer_that_breaks_off_is_not_taken_for_whole(house: House, port: Any) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        house.visit(port, "/torn")


def test_a_closed_port_is_a_502_with_a_hint_and_harms_nothing(house: House) -> None:
    closed = house.expose(9)
    seen = house.visit(closed)
    assert (seen.status_code, seen.json()["code"]) == (502, "port_closed")
    assert house.run("echo lives") == "lives\n"


def test_a_stranger_is_kept_out(house: House, port: Any) -> None:
    assert house.visit(port, token=False).status_code == 401
    wrong = dict(port, token="A" * len(port["token"]))
    assert house.visit(wrong).status_code == 401
    query = house.visit(port, f"/?faas_token={'A' * 43}", token=False)
    assert (query.status_code, query.json()["code"]) == (401, "unauthenticated")
    nobody = dict(port, url=port["url"].replace("8000-", "8002-"))
    assert house.visit(nobody).status_code == 404
    with client(house.live, None) as stranger:
        assert stranger.get(port["path"]).status_code == 401


def test_a_key_of_the_tenant_opens_and_another_tenants_finds_nothing(
    house: House, port: Any
) -> None:
    own = house.visit(port, token=False, headers={"X-API-Key": KEY})
    assert own.status_code == 200
    others = house.visit(port, token=False, headers={"X-API-Key": OTHERS})
    assert others.status_code == 404
    with client(house.live, OTHERS) as other:
        assert other.get(port["path"]).status_code == 404
        assert other.get(f"{house.at}/ports").status_code == 404
        assert other.post(f"{house.at}/ports", json={"port": 80}).status_code == 404
        assert other.delete(f"{house.at}/ports/8000").status_code == 404


def test_a_browser_opens_the_address_once_and_then_has_a_cookie(house: House, port: Any) -> None:
    query = httpx.URL(port["open_url"]).query.decode()
    sent = house.visit(
        port, f"//elsewhere.example/?a=1&{query}", token=False, headers={"Accept": "text/html"}
    )
    assert sent.status_code == 303
    assert sent.headers["location"] == port["url"].rstrip("/") + "//elsewhere.example/?a=1"
    cookie, *marks = sent.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(marks)
    seen = house.visit(port, "/?a=1", token=False, headers={"Cookie": f"mine=1; {cookie}; b=2"})
    assert (seen.status_code, header(seen, "cookie")) == (200, ["mine=1; b=2"])
    across = {"Cookie": cookie, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    assert house.visit(port, token=False, headers=across).status_code == 403


def test_messages_go_both_ways(house: House, sockets: Any) -> None:
    with house.socket(sockets, subprotocols=["chat"], max_size=None) as one:
        assert one.subprotocol == "chat"
        for text in ("hello", "schön ☃"):
            one.send(text)
            assert one.recv(timeout=20) == text
        one.send(b"\x00\xff" * 100_000)
        assert one.recv(timeout=20) == b"\x00\xff" * 100_000
        one.send("big 3000000")
        assert len(one.recv(timeout=20)) == 3_000_000
        one.send("bye")
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=20)
        assert (one.close_code, one.close_reason) == (4321, "")


def test_a_websocket_goes_below_the_api_for_a_key(house: House, sockets: Any) -> None:
    at = f"ws://127.0.0.1:{house.live.port}{sockets['path']}x"
    with connect(at, proxy=None, additional_headers={"X-API-Key": KEY}) as one:
        one.send("head")
        told = json.loads(one.recv(timeout=20))
        assert told["host"] == "localhost:8001"
        assert "x-api-key" not in told
    for headers, status in (
        ({}, 401),
        ({"X-API-Key": OTHERS}, 404),
        ({"X-API-Key": KEY, "Origin": "http://elsewhere"}, 403),
    ):
        with pytest.raises(InvalidStatus) as refused:
            connect(at, proxy=None, additional_headers=headers)
        assert refused.value.response.status_code == status


def test_where_no_websocket_is_spoken_is_a_502(house: House, port: Any) -> None:
    with pytest.raises(InvalidStatus) as refused:
        house.socket(port, "/page")
    assert refused.value.response.status_code == 502


def test_closing_a_port_cuts_what_is_open_and_ends_its_tokens(live: LiveGateway) -> None:
    house = House(live)
    exposed = house.expose(8001)
    with house.socket(exposed) as one:
        one.send("hello")
        assert one.recv(timeout=20) == "hello"
        assert house.api.delete(f"{house.at}/ports/8001").status_code == 204
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=20)
    assert house.visit(exposed).status_code == 404
    again = house.expose(8001)
    assert house.visit(exposed).status_code == 401
    with house.socket(again) as one:
        assert house.api.delete(house.at).status_code == 204
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=20)
    assert house.visit(again).status_code == 404


def test_an_address_outlives_a_killed_gateway(live: LiveGateway) -> None:
    house = House(live)
    exposed = house.expose(8000, subdomain="shop")
    assert exposed["url"] == f"http://shop.localhost:{live.port}/"
    assert house.visit(exposed, "/x").status_code == 200
    live.kill()
    live.start()
    assert house.visit(exposed, "/x").json()["path"] == "/x"
    taken = house.api.post(f"{house.at}/ports", json={"port": 1, "subdomain": "shop"})
    assert taken.status_code == 409
    house.api.post(f"{house.at}/stop")
    assert house.visit(exposed).status_code == 409
    house.api.post(f"{house.at}/start")
    house.run("rm -f /tmp/log")
    house.serve()
    assert house.visit(exposed, "/y").json()["path"] == "/y"
    house.api.delete(house.at)


def test_a_token_ends_and_what_it_opened_with_it(house: House) -> None:
    short = house.expose(8001, token_seconds=3)
    with house.socket(short) as one:
        one.send("hello")
        assert one.recv(timeout=20) == "hello"
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=20)
    with pytest.raises(InvalidStatus) as refused:
        house.socket(short)
    assert refused.value.response.status_code == 401


def test_many_requests_at_once_each_get_their_own_answer(house: House, port: Any) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        seen = house.visit(port, f"/{number}")
        if seen.status_code == 200 and seen.json()["path"] != f"/{number}":
            wrong.append(seen.text)
        elif seen.status_code not in (200, 429):
            wrong.append(f"{seen.status_code} {seen.text}")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_operator_apis_shape(house: House) -> None:
    body = {"instance_id": house.id, "internal_port": 8000, "protocol": "http"}
    made = house.api.post("/api/v1/ports/expose", json=body).json()
    assert made["error"] is None
    assert made["public_url"].startswith("http://8000-")
    info = house.api.get(f"{house.at}/info").json()
    assert info["exposed_ports"]["8000"].startswith("http://8000-")
    tcp = house.api.post("/api/v1/ports/expose", json={**body, "protocol": "tcp"})
    assert tcp.status_code == 501


def test_a_browser_opens_an_exposed_page(house: House, port: Any) -> None:
    """Chromium resolves `*.localhost` itself; the token gives way to a cookie by a redirect."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed: scripts/test_packages.txt")
    house.run("rm -f /tmp/done")
    query = httpx.URL(port["open_url"]).query.decode()
    address = f"{port['url']}page?{query}&api={house.live.url}"
    with tempfile.TemporaryDirectory(prefix="faas-chromium-", ignore_cleanup_errors=True) as place:
        argv = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server"]
        argv += ["--disable-dev-shm-usage", f"--user-data-dir={place}", "--remote-debugging-port=0"]
        process = subprocess.Popen([*argv, address], stdout=-3, stderr=-3, start_new_session=True)
        try:
            wait = "for i in $(seq 900); do test -s /tmp/done && break; sleep 0.1; done"
            done = house.run(f"{wait}; cat /tmp/done", timeout_ms=100_000).partition("?")[2]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert done == "hi&3&shut&&false"
