"""Attacks by way of exposed ports: from outside on the sandbox or the gateway, and from inside.

The machine below is a fake one, whose port is a server of the test: what a sandbox would see is
seen byte for byte, and what it answers is whatever the attack wants.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.plugins.fake_gateway import FakeGateway, fake_gateway

from faas.gateway import GatewaySettings
from faas.gateway.auth import ApiKey
from faas.gateway.port_link import PortLink
from faas.ids import TenantId
from faas.tenancy import Principal, Scope, Tenant

KEY, OTHERS = "the-key-of-a", "the-key-of-b"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Inside:
    """A server in a sandbox, hostile on request: takes one request, says `says`, hangs up."""

    def __init__(self) -> None:
        self.says = PLAIN
        self.seen: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(0.3)
                got = b""
                with contextlib.suppress(TimeoutError):
                    while piece := connection.recv(65536):
                        got += piece
                        if b"\r\n\r\n" in got and not _expects_more(got):
                            break
                self.seen.append(got)
                connection.settimeout(20)
                connection.sendall(self.says)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(20)


def _expects_more(got: bytes) -> bool:
    head = got.lower().partition(b"\r\n\r\n")[0]
    return b"content-length" in head or b"transfer-encoding" in head


def api_key(text: str, tenant: str) -> ApiKey:
    return ApiKey.of(text, Principal(Tenant(TenantId(tenant)), frozenset({Scope.ADMIN})))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGateway]:
    settings = GatewaySettings(api_keys=(api_key(KEY, "a"), api_key(OTHERS, "b")))
    with fake_gateway(tmp_path_factory.mktemp("gateway"), settings) as opened:
        yield opened


class Target:
    """An exposed port, and ways to ask for it that no client library would take."""

    def __init__(self, gateway: FakeGateway, inside: Inside) -> None:
        self.gateway, self.inside = gateway, inside
        made = self.api("POST", "/api/v1/instances", json={}).json()
        self.id: str = made["id"]
        assert gateway.platform is not None
        gateway.platform.host.boxes[made["container_id"]].ports[8000] = inside.port
        self.at = f"/api/v1/instances/{self.id}"
        self.exposed = self.api("POST", f"{self.at}/ports", json={"port": 8000}).json()
        self.host: str = httpx.URL(self.exposed["url"]).netloc.decode()
        self.token: str = self.exposed["token"]

    def api(self, method: str, path: str, key: str = KEY, **options: Any) -> httpx.Response:
        headers = {"X-API-Key": key}
        return httpx.request(
            method, self.gateway.url + path, headers=headers, trust_env=False, **options
        )

    def visit(self, path: str = "/", **headers: str) -> httpx.Response:
        sent = {"Host": self.host, "X-Faas-Token": self.token}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(
            self.gateway.url + path, headers=sent, trust_env=False, follow_redirects=False
        )

    def raw(self, data: bytes, seconds: float = 20) -> bytes:
        """Send these bytes and return all that comes until the gateway hangs up, or waits."""
        where = httpx.URL(self.gateway.url)
        with socket.create_connection((where.host, where.port or 80), timeout=seconds) as one:
            one.sendall(data)
            got = b""
            with contextlib.suppress(ConnectionResetError, TimeoutError):
                while piece := one.recv(65536):
                    got += piece
            return got

    def request(self, line: str, *headers: str, body: bytes = b"", seconds: float = 20) -> bytes:
        lines = [line, f"Host: {self.host}", f"X-Faas-Token: {self.token}", *headers]
        return self.raw("\r\n".join((*lines, "Connection: close", "", "")).encode() + body, seconds)

    def told(self) -> list[str]:
        """The header lines the server inside saw last."""
        head = self.inside.seen[-1].partition(b"\r\n\r\n")[0]
        return head.decode("latin-1").split("\r\n")[1:]


@pytest.fixture
def target(gateway: FakeGateway) -> Iterator[Target]:
    inside = Inside()
    made = Target(gateway, inside)
    yield made
    assert made.api("DELETE", made.at).status_code == 204
    inside.close()


def test_what_opens_the_gateway_never_reaches_a_sandbox(target: Target) -> None:
    cookie = f"faas_port={target.token}; own=1"
    for headers in (
        {"Authorization": f"Bearer {KEY}", "X-API-Key": KEY, "Cookie": cookie},
        {"Authorization": f"bearer  {KEY}", "X-Faas-Token": "", "X_API_Key": KEY},
        {"Authorization": KEY, "Proxy-Authorization": f"Bearer {KEY}", "Cookie": cookie},
    ):
        assert target.visit(f"/?a=1&faas_token={target.token}", **headers).status_code == 200
        seen = target.inside.seen[-1]
        for secret in (KEY.encode(), target.token.encode(), b"faas_port"):
            assert secret.lower() not in seen.lower(), seen
    # With a key whatever else is in Authorization is a mistake, not the server's.
    target.visit("/", Authorization="Basic eA==", X_Faas_Token="", X_API_Key=KEY)
    assert not [line for line in target.told() if line.startswith("authorization")]
    below = target.api("GET", target.exposed["path"] + "x", cookies={"own": "1"})
    assert below.status_code == 200
    assert KEY.encode() not in target.inside.seen[-1]
    assert b"cookie" not in target.inside.seen[-1].lower()


def test_a_servers_own_credentials_reach_it_from_who_has_a_token(target: Target) -> None:
    target.visit("/", Authorization="Basic dXNlcjpwYXNz")
    assert "authorization: Basic dXNlcjpwYXNz" in target.told()


@pytest.mark.parametrize(
    "framing",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: +5",),
        ("Content-Length: 5, 5",),
        ("Content-Length: 0x5",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding:\x0bchunked",),
        ("X: y\nTransfer-Encoding: chunked",),
    ],
    ids=" + ".join,
)
def test_a_second_request_cannot_be_smuggled_in(target: Target, framing: tuple[str, ...]) -> None:
    smuggled = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\nX-Faas-Token: y\r\n\r\n"
    target.request("POST /first HTTP/1.1", *framing, body=smuggled, seconds=0.5)
    for seen in target.inside.seen:
        head, _, body = seen.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        lengths = [x for x in lines if x.startswith((b"content-length:", b"transfer-encoding:"))]
        assert len(lengths) == 1, seen
        assert not lines[0].startswith(b"get /smuggled")
        if lengths[0].startswith(b"content-length:"):
            assert len(body) <= int(lengths[0].partition(b":")[2])
        else:
            assert body.count(b"GET /smuggled") == 0 or body.startswith(b"%x" % len(smuggled))


def test_a_pipelined_request_has_a_connection_and_a_judgement_of_its_own(target: Target) -> None:
    first = f"GET /a HTTP/1.1\r\nHost: {target.host}\r\nX-Faas-Token: {target.token}\r\n\r\n"
    second = f"GET /b HTTP/1.1\r\nHost: {target.host}\r\nConnection: close\r\n\r\n"
    got = target.raw((first + second).encode())
    assert [seen.split(b" ")[1] for seen in target.inside.seen] == [b"/a"]
    assert got.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 401" in got


def test_hop_by_hop_headers_stay_between_neighbours(target: Target) -> None:
    target.request(
        "GET / HTTP/1.1",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "TE: trailers",
        "X-Named: 1",
        "Connection: X-Named, Upgrade, HTTP2-Settings",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Host: evil",
        "Forwarded: for=1.2.3.4",
        "X-Kept: 1",
    )
    names = [line.partition(":")[0].lower() for line in target.told()]
    assert sorted(names) == [
        "connection",
        "host",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-kept",
    ]
    assert "connection: close" in target.told()
    assert f"x-forwarded-host: {target.host}" in target.told()


@pytest.mark.parametrize(
    "line",
    [
        "GET http://169.254.169.254/latest HTTP/1.1",
        "GET http://127.0.0.1:22/ HTTP/1.1",
        "GET //127.0.0.1:22/ HTTP/1.1",
        "GET /@127.0.0.1:22/ HTTP/1.1",
        "CONNECT 127.0.0.1:22 HTTP/1.1",
        "TRACE / HTTP/1.1",
    ],
)
def test_no_request_leads_anywhere_but_to_the_sandboxes_port(target: Target, line: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait:
        bait.settimeout(0.2)
        target.request(line.replace(":22", f":{bait.getsockname()[1]}"))
        with pytest.raises(TimeoutError):
            bait.accept()
    method, path, _ = line.split(" ")
    if method != "GET":
        assert target.inside.seen == []
        return
    assert target.inside.seen[0].startswith(b"GET /")
    assert httpx.URL(target.exposed["url"]).host.encode() in target.inside.seen[0], path


@pytest.mark.parametrize("port", ["0", "22", "65536", "99999999", "8000.1", "-1", "8000@x", "x"])
def test_what_was_not_exposed_is_not_reached(target: Target, port: str) -> None:
    seen = target.api("GET", f"{target.at}/ports/{port}/proxy/")
    assert seen.status_code == 404, seen.text
    name = target.host.replace("8000-", f"{port}-")
    assert target.visit("/", Host=name).status_code in (400, 401, 404)
    assert target.inside.seen == []


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "/..//evil.example"])
def test_the_way_to_the_cookie_is_no_open_redirect(target: Target, path: str) -> None:
    got = target.raw(
        f"GET {path}?faas_token={target.token} HTTP/1.1\r\nHost: {target.host}\r\n"
        f"Accept: text/html\r\nConnection: close\r\n\r\n".encode()
    )
    [location] = [x for x in got.decode().split("\r\n") if x.lower().startswith("location:")]
    assert location.partition(": ")[2].startswith(target.exposed["url"])
    assert httpx.URL(location.partition(": ")[2]).host == httpx.URL(target.exposed["url"]).host


def test_two_hosts_are_none(target: Target) -> None:
    got = target.request("GET / HTTP/1.1", "Host: 127.0.0.1")
    assert got.startswith(b"HTTP/1.1 400")
    assert target.inside.seen == []


def test_an_api_path_at_a_ports_address_is_the_sandboxes(target: Target) -> None:
    target.visit("/api/v1/instances", X_API_Key=KEY)
    assert target.inside.seen[-1].startswith(b"GET /api/v1/instances ")


def test_a_token_opens_its_own_port_only(target: Target) -> None:
    other = target.api("POST", f"{target.at}/ports", json={"port": 8001}).json()
    tokens = [
        other["token"],
        target.token[:-2] + "AA",
        "B" + target.token[1:],
        "",
        "\xff",
        "x" * 9000,
    ]
    for token in tokens:
        headers = {"Host": target.host, "X-Faas-Token": token.encode("latin-1")}
        seen = httpx.get(target.gateway.url, headers=headers, trust_env=False)
        assert seen.status_code in (400, 401), token
    assert target.inside.seen == []


def test_another_tenants_key_does_not_learn_what_is_there(target: Target) -> None:
    there = httpx.get(
        target.gateway.url, headers={"Host": target.host, "X-API-Key": OTHERS}, trust_env=False
    )
    nowhere = httpx.get(
        target.gateway.url,
        headers={"Host": target.host.replace("8000-", "7999-"), "X-API-Key": OTHERS},
        trust_env=False,
    )
    assert there.status_code == nowhere.status_code == 404


@pytest.mark.parametrize(
    "says",
    [
        b"garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 " + b"y" * 200_000,
        b"",
    ],
    ids=range(13),
)
def test_what_is_no_answer_is_a_502_and_never_passed_on(target: Target, says: bytes) -> None:
    target.inside.says = says
    seen = target.visit()
    assert (seen.status_code, seen.json()["code"]) == (502, "bad_gateway")
    assert "x" not in seen.headers
    target.inside.says = PLAIN
    assert target.visit().text == "ok"


def test_what_comes_behind_an_answer_is_thrown_away(target: Target) -> None:
    target.inside.says = PLAIN + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    with httpx.Client(base_url=target.gateway.url, trust_env=False) as client:
        headers = {"Host": target.host, "X-Faas-Token": target.token}
        assert client.get("/", headers=headers).text == "ok"
        assert client.get("/health").json()["status"] == "healthy"


def test_chunks_are_made_anew_and_trailers_stay_behind(target: Target) -> None:
    target.inside.says = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Evil\r\n\r\n"
        b"2;ext=1\r\nok\r\n0\r\nX-Evil: 1\r\n\r\n"
    )
    seen = target.visit()
    assert (seen.text, "x-evil" in seen.headers, "trailer" in seen.headers) == ("ok", False, False)


def test_a_sandbox_sets_no_cookie_for_others_and_none_of_ours(target: Target) -> None:
    target.inside.says = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=1; Domain=.localhost; Path=/\r\n"
        b'Set-Cookie: faas_port=planted\r\nAlt-Svc: h3=":443"\r\nConnection: X-S\r\nX-S: 1\r\n'
        b"Strict-Transport-Security: max-age=9\r\n\r\nok"
    )
    seen = target.visit()
    assert seen.headers.get_list("set-cookie") == ["a=1; Path=/"]
    assert not {"alt-svc", "x-s"} & set(seen.headers)
    below = target.api("GET", target.exposed["path"])
    assert not {"set-cookie", "strict-transport-security"} & set(below.headers)


def test_a_page_below_the_api_has_no_origin(target: Target) -> None:
    target.inside.says = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n"
        b"Content-Security-Policy: default-src *\r\n\r\nok"
    )
    below = target.api("GET", target.exposed["path"])
    policies = below.headers.get_list("content-security-policy")
    assert any(p.startswith("sandbox ") and "allow-same-origin" not in p for p in policies)
    assert below.headers["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in target.visit().headers or (
        target.visit().headers["content-security-policy"] == "default-src *"
    )


def test_a_page_of_another_sandbox_cannot_use_a_cookie(target: Target) -> None:
    cookie = {"Cookie": f"faas_port={target.token}", "X_Faas_Token": ""}
    own = {"Sec_Fetch_Site": "same-origin", "Origin": f"http://{target.host}"}
    assert target.visit("/", **cookie, **own).status_code == 200
    for others in (
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
        {"Origin": "http://9000-other.localhost"},
        {"Origin": "null"},
    ):
        assert target.visit("/", **cookie, **others).status_code == 403, others


def test_a_gateway_without_keys_asks_for_the_token_all_the_same(tmp_path: Path) -> None:
    with fake_gateway(tmp_path) as gateway:
        inside = Inside()
        target = Target(gateway, inside)
        assert target.visit().status_code == 200
        seen = httpx.get(gateway.url, headers={"Host": target.host}, trust_env=False)
        assert seen.status_code == 401
        inside.close()


def test_a_page_cannot_use_a_gateway_that_asks_for_no_key(tmp_path: Path) -> None:
    with fake_gateway(tmp_path) as gateway:
        made = httpx.post(f"{gateway.url}/api/v1/instances", json={"name": "dev"}, trust_env=False)
        stop = f"{gateway.url}/api/v1/instances/dev/stop"
        for origin in ("http://8000-x.localhost", "null", "https://evil.example"):
            seen = httpx.post(stop, headers={"Origin": origin}, trust_env=False)
            assert (seen.status_code, seen.json()["code"]) == (403, "permission_denied")
        at = f"{gateway.url}/api/v1/instances/{made.json()['id']}"
        assert httpx.get(at, trust_env=False).json()["status"] == "running"
        own = httpx.post(stop, headers={"Origin": gateway.url}, trust_env=False)
        assert own.status_code == 204


def test_too_many_connections_are_refused_and_counted_down(target: Target) -> None:
    where = httpx.URL(target.gateway.url)
    ask = f"POST / HTTP/1.1\r\nHost: {target.host}\r\nX-Faas-Token: {target.token}\r\n"
    ask += "Content-Length: 10\r\n\r\nhalf"
    target.inside.says = b""
    held = [socket.create_connection((where.host, where.port or 80)) for _ in range(80)]
    for one in held:
        one.sendall(ask.encode())
    answers: set[bytes] = set()
    for one in reversed(held):  # the last ones are the ones too many
        one.settimeout(20)
        if b"HTTP/1.1 429" not in answers:
            answers.add(one.recv(12))
        one.close()
    assert b"HTTP/1.1 429" in answers
    target.inside.says = PLAIN
    for _ in range(200):
        if (seen := target.visit()).status_code == 200:
            break
    assert seen.text == "ok"


async def test_a_descriptor_made_blocking_from_inside_does_not_stop_the_gateway() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(fileno=ours.dup().detach()) as copy:
        ours.settimeout(0)
        link = PortLink(ours)
        copy.setblocking(True)
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while beats < 50:
                await asyncio.sleep(0.001)
                beats += 1

        reading, flooding = (
            asyncio.ensure_future(link.read()),
            asyncio.ensure_future(link.write(bytes(64 << 20))),
        )
        async with asyncio.timeout(20):
            await beat()
        assert not reading.done()
        assert not flooding.done()
        for task in (reading, flooding):
            task.cancel()
        await asyncio.wait({reading, flooding})
