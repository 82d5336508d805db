"""A gateway as users have it: a process, on a free port, with a data directory of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0


class LiveGateway:
    """Starts, stops, kills and restarts `faas serve` on the same port and data."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data_dir / "gateway.log"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("FAAS_")
        }
        environment |= {
            "FAAS_HOST": "127.0.0.1",
            "FAAS_PORT": str(self.port),
            "FAAS_DATA_DIR": str(self.data_dir / "data"),
            **self._settings,
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "faas", "serve"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_healthy(self._process)

    def stop(self) -> int:
        """Ask it to end, and wait until it has."""
        return self._end(signal.SIGTERM)

    def delete_instances(self) -> None:
        """They outlive a gateway by design, and would its directory too."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        instances = f"{self.url}/api/v1/instances"
        with direct.open(instances, timeout=STOP_SECONDS_MAX) as answer:
            found = json.load(answer)
        for instance in found:
            asked = urllib.request.Request(f"{instances}/{instance['id']}", method="DELETE")
            direct.open(asked, timeout=STOP_SECONDS_MAX).close()

    def kill(self) -> int:
        """End it without a word."""
        return self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        assert process is not None, "not started"
        process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the gateway did not stop:\n{self._said()}") from None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _wait_until_healthy(self, process: "subprocess.Popen[bytes]") -> None:
        gives_up_at = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < gives_up_at:
            if process.poll() is not None:
                raise AssertionError(
                    f"the gateway ended with {process.returncode}:\n{self._said()}"
                )
            if self._answers():
                return
            time.sleep(0.05)
        self.kill()
        raise AssertionError(f"the gateway did not become healthy:\n{self._said()}")

    def _answers(self) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def _said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


@contextmanager
def live_gateway(**settings: str) -> Iterator[LiveGateway]:
    """Run a gateway; what it leaves behind goes with its directory."""
    # Short: Unix socket paths are limited, and the data directory holds some.
    data_dir = Path(tempfile.mkdtemp(prefix="faas-t-", dir="/tmp"))
    gateway = LiveGateway(data_dir, **settings)
    try:
        gateway.start()
        yield gateway
    finally:
        if gateway.is_running:
            with suppress(OSError):  # it asks for a key, or does not answer
                gateway.delete_instances()
            gateway.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
