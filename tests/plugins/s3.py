"""A real S3 server on loopback, and a proxy in front of it that misbehaves on order."""

import http.client
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
_SECONDS_MAX = 60


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = shutil.which("moto_server") or str(Path(sys.executable).parent / "moto_server")
    process = subprocess.Popen(
        [server, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _await(endpoint)
        yield endpoint
    finally:
        process.terminate()
        process.wait(10)


def _await(endpoint: str) -> None:
    end = time.monotonic() + _SECONDS_MAX
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("the S3 server did not start")


def make_bucket(endpoint: str, name: str) -> None:
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=_SECONDS_MAX).close()


class Fault(StrEnum):
    """What the proxy does with one request."""

    SLOW = "slow"
    """Answers late."""
    REFUSED = "refused"
    """Answers 500 and does nothing."""
    LOST = "lost"
    """Does it, and answers 500."""
    CUT = "cut"
    """Sends half of the answer, and hangs up."""
    WRONG = "wrong"
    """Changes a byte of an object."""


class FaultyProxy:
    """Passes requests on; takes a fault from `faults` for each, or always does `always`."""

    def __init__(self, endpoint: str) -> None:
        self.faults: deque[Fault | None] = deque()
        self.always: Fault | None = None
        self.dice: random.Random | None = None
        """When set, one request in three meets a fault."""
        self.seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._target = urlsplit(endpoint).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def pass_on(self) -> None:
                proxy.serve(self)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._lock:
            fault = self._next(handler)
            self.seen[fault or "none"] += 1
        if fault is Fault.REFUSED:
            self._answer(handler, 500, {}, b"")
            return
        status, headers, data = self._ask(handler, body)
        if fault is Fault.SLOW:
            time.sleep(0.3)
        if fault is Fault.LOST:
            status, headers, data = 500, {}, b""
        if fault is Fault.WRONG and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._answer(handler, status, headers, data, is_cut=fault is Fault.CUT)

    def _next(self, handler: BaseHTTPRequestHandler) -> Fault | None:
        if self.faults:
            fault = self.faults.popleft()
        elif self.dice is not None:
            fault = self.dice.choice([*Fault, *[None] * 10])
        else:
            fault = self.always
        is_object = handler.command == "GET" and "/blobs/" in urlsplit(handler.path).path
        return None if fault is Fault.WRONG and not is_object else fault

    def _ask(
        self, handler: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(self._target, timeout=_SECONDS_MAX)
        try:
            headers = {k: v for k, v in handler.headers.items() if k.lower() != "connection"}
            upstream.request(handler.command, handler.path, body, headers)
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def _answer(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        data: bytes,
        *,
        is_cut: bool = False,
    ) -> None:
        length = headers.get("Content-Length") or headers.get("content-length") or str(len(data))
        handler.send_response_only(status)
        for key, value in headers.items():
            if key.lower() not in {"content-length", "connection", "transfer-encoding"}:
                handler.send_header(key, value)
        handler.send_header(
            "Content-Length", length if handler.command == "HEAD" else str(len(data))
        )
        handler.end_headers()
        if handler.command == "HEAD":
            return
        handler.wfile.write(data[: len(data) // 2] if is_cut else data)
        if is_cut:
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
