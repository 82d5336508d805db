"""A real gateway process over the fake runtime, and the command line against it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


class GatewayProcess:
    """One `faas serve`, and how to talk to it by the command line."""

    def __init__(self, data_dir: Path, *options: str, runtime: str = "fake") -> None:
        environment = {key: value for key, value in os.environ.items() if "FAAS_" not in key}
        self.environment = environment | {"NO_COLOR": "1"}
        words = ["serve", "--port", "0", "--data-dir", str(data_dir)]
        words += ["--set", f"runtimes={runtime}", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faas", *words],
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        self.first_screen = self._read_until("curl")
        url = re.search(r"listens on (\S+)", self.first_screen)
        assert url, self.first_screen
        self.environment["FAAS_GATEWAY_URL"] = url[1]
        self.url = url[1]

    def _read_until(self, word: str) -> str:
        assert self.process.stderr
        text = ""
        for line in self.process.stderr:
            text += line
            if word in line:
                return text
        raise AssertionError(f"the gateway ended: {text}")

    def faas(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "faas", *words],
            input=stdin,
            capture_output=True,
            env=self.environment,
            check=False,
            timeout=60,
        )

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=60)
        return self.process.returncode, rest


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    running = GatewayProcess(tmp_path_factory.mktemp("gateway"))
    yield running
    running.stop()
