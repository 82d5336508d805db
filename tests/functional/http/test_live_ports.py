"""Ports of real sandboxes over a real gateway: HTTP, WebSocket, streams, strangers, kill -9."""

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
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

SERVER = r"""
import asyncio, base64, hashlib, http.server, json, socketserver, struct, sys, time, threading

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_): pass

    def whole(self, body, kind="application/json", **headers):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            for one in value if isinstance(value, list) else [value]:
                self.send_header(name.replace("_", "-"), one)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/big":
            self.send_response(200)
            self.send_header("Content-Length", str(64 << 20))
            self.end_headers()
            for n in range(64):
                self.wfile.write(bytes([n]) * (1 << 20))
                open("/tmp/sent", "w").write(str(n + 1))
        elif path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for n in range(3):
                piece = b"data: %d\n\n" % n
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece)); self.wfile.flush()
                while n < 2 and not self.server.may_go.wait(0.05): pass
                self.server.may_go.clear()
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/go":
            self.server.may_go.set()
            self.whole(b"{}")
        elif path == "/torn":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
        elif path == "/cookies":
            self.whole(b"{}", Set_Cookie=["a=1; Path=/; Domain=.localhost", "faas_port=stolen"],
                       Alt_Svc='h3="evil:443"', Connection="X-Secret", X_Secret="s")
        elif path == "/page":
            self.whole(b"<html><title>waiting</title><body><script>"
                       b"fetch('/echo').then(r => r.json()).then(d => {"
                       b"  const s = new WebSocket(`ws://${location.host}/socket`);"
                       b"  s.onopen = () => s.send('hi');"
                       b"  s.onmessage = e => { document.title = 'got ' + e.data;"
                       b"    document.body.innerText = 'DONE ' + e.data + ' ' + d.method"
                       b"      + ' ' + location.search + ' ' + document.cookie; };"
                       b"});</script></body></html>", "text/html")
        else:
            self.echo(b"")

    def echo(self, body):
        said = {"method": self.command, "path": self.path, "headers": self.headers.items(),
                "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        self.whole(json.dumps(said).encode())

    def do_POST(self):
        size, digest = 0, hashlib.sha256()
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                piece = self.rfile.read(length); self.rfile.readline()
                size += len(piece); digest.update(piece)
            self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length", 0))
            while left:
                piece = self.rfile.read(min(left, 1 << 16))
                left -= len(piece); size += len(piece); digest.update(piece)
        said = {"method": "POST", "path": self.path, "bytes": size, "sha256": digest.hexdigest(),
                "headers": self.headers.items()}
        self.whole(json.dumps(said).encode())

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_POST

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

async def sockets(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(l.split(": ", 1) for l in head.decode().split("\r\n")[1:] if ": " in l)
    fields = {k.lower(): v for k, v in fields.items()}
    key = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    chosen = "Sec-WebSocket-Protocol: chat\r\n" if "sec-websocket-protocol" in fields else ""
    writer.write(("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                  f"Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
                  f"{chosen}\r\n").encode())
    def say(opcode, data):
        n = len(data)
        size = bytes([n]) if n < 126 else b"\x7e" + struct.pack(">H", n & 65535)
        size = size if n < 65536 else b"\x7f" + struct.pack(">Q", n)
        writer.write(bytes([0x80 | opcode]) + size + data)
    try:
        while True:
            first, second = await reader.readexactly(2)
            n = second & 127
            if n == 126: n = struct.unpack(">H", await reader.readexactly(2))[0]
            elif n == 127: n = struct.unpack(">Q", await reader.readexactly(8))[0]
            mask = await reader.readexactly(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(n)))
            opcode = first & 15
            if opcode == 8: say(8, data); await writer.drain(); break
            if data == b"head": data = json.dumps(fields).encode()
            if data == b"bye":
                say(8, struct.pack(">H", 4321) + b"so long"); await writer.drain(); break
            if data.startswith(b"big "): data = b"x" * int(data[4:])
            say(opcode, data)
            await writer.drain()
    except asyncio.IncompleteReadError:
        pass
    writer.close()

http_server = Server(("127.0.0.1", 8000), Handler)
http_server.may_go = threading.Event()
threading.Thread(target=http_server.serve_forever, daemon=True).start()

async def main():
    server = await asyncio.start_server(sockets, "127.0.0.1", 8001)
    print("up", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


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

    def run(self, command: str) -> str:
        answer = self.api.post(f"{self.at}/exec", json={"command": command}).json()
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
