"""Dependency caches with the real pip, from an index on the sandbox's own loopback."""

import base64
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pip
import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the live gateway is started as root"),
]

SERVER = """
import http.server, pathlib, sys
wheel = pathlib.Path("demo-1.0-py3-none-any.whl")
class Index(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/simple/demo/":
            body = f'<a href="/{wheel}">{wheel}</a>'.encode()
            kind = "text/html"
        elif self.path == f"/{wheel}" and sys.argv[1] == "whole":
            body, kind = wheel.read_bytes(), "application/zip"
        else:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=86400")
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", 8123), Index).serve_forever()
"""

INSTALL = """
python3 server.py $MODE & server=$!
until python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8123))' 2>/dev/null
do sleep 0.05; done
PYTHONPATH=pip.zip python3 -m pip install --no-deps --disable-pip-version-check --target out \
    --index-url http://127.0.0.1:8123/simple --trusted-host 127.0.0.1:8123 demo; code=$?
kill $server
test $code = 0 && PYTHONPATH=out python3 -c 'import demo; print("imported", demo.answer)'
"""


def wheel() -> bytes:
    about = "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("demo.py", "answer = 42\n")
        archive.writestr("demo-1.0.dist-info/METADATA", about)
        archive.writestr("demo-1.0.dist-info/WHEEL", kind)
        archive.writestr("demo-1.0.dist-info/RECORD", "demo.py,,\n")
    return packed.getvalue()


@pytest.fixture(scope="module")
def pip_zip() -> bytes:
    """The pip of the tests' own environment: the host's Python need not have one."""
    package = Path(pip.__file__).parent
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in package.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                archive.write(path, f"pip/{path.relative_to(package)}")
    return packed.getvalue()


@pytest.fixture
def live() -> Iterator[LiveGateway]:
    with live_gateway(FAAS_API_KEYS="a:key-of-a,b:key-of-b") as gateway:
        yield gateway


def client_of(gateway: LiveGateway, tenant: str = "a") -> httpx.Client:
    headers = {"Authorization": f"Bearer key-of-{tenant}"}
    return httpx.Client(base_url=gateway.url, timeout=120, trust_env=False, headers=headers)


def install(client: httpx.Client, pip_zip: bytes, mode: str, **options: Any) -> dict[str, Any]:
    def file(path: str, content: bytes) -> dict[str, str]:
        return {"path": path, "content_base64": base64.b64encode(content).decode()}

    request = {
        "command": INSTALL,
        "working_dir": "/workspace",
        "env_vars": {"MODE": mode},
        "timeout_ms": 60_000,
        "files": [
            file("server.py", SERVER.encode()),
            file("pip.zip", pip_zip),
            file("demo-1.0-py3-none-any.whl", wheel()),
        ],
        **options,
    }
    answer = client.post("/api/v1/execute", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_pip_fetched_once_it_need_not_fetch_again(live: LiveGateway, pip_zip: bytes) -> None:
    with client_of(live) as client, client_of(live, "b") as stranger:
        cold = install(client, pip_zip, "index-only", caches=["pip"])
        assert cold["exit_code"] != 0, "the wheel is not there, and nothing is cached"
        assert cold["caches"][0]["added"] == 0, "nothing of a run that failed is kept"
        first = install(client, pip_zip, "whole", caches=["pip"])
        assert "imported 42" in first["stdout"], first
        assert first["caches"][0]["added"] > 0
        again = install(client, pip_zip, "index-only", caches=["pip"])
        assert "imported 42" in again["stdout"], again
        assert "cached" in again["stdout"]
        without = install(client, pip_zip, "index-only")
        assert without["exit_code"] != 0
        assert "caches" not in without
        other = install(stranger, pip_zip, "index-only", caches=["pip"])
        assert other["exit_code"] != 0, "another tenant's cache was used"
    live.kill()
    live.start()
    with client_of(live) as client:
        kept = install(client, pip_zip, "index-only", caches=["pip"])
        assert "imported 42" in kept["stdout"], "the cache outlives kill -9"


def test_another_user_may_write_beside_what_was_kept(live: LiveGateway) -> None:
    command = "cd $PIP_CACHE_DIR && mkdir -p mine && echo x > mine/$N && ls mine"
    with client_of(live) as client:
        for number, expected in (("1", "1\n"), ("2", "1\n2\n")):
            request = {
                "command": command,
                "env_vars": {"N": number},
                "caches": ["pip"],
                "user": "1000",
            }
            body = client.post("/api/v1/execute", json=request).json()
            assert (body["exit_code"], body["stdout"]) == (0, expected), body
