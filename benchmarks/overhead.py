"""What the gateway itself costs: a runtime that does nothing, one core."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.harness import Report, gateway

SCRIPT = """
wrk.method = "POST"
wrk.body = '{"command":["true"]}'
wrk.headers["Content-Type"] = "application/json"
"""


def run(count: int) -> Report:
    """Requests a second through everything but a sandbox."""
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is missing: apt-get install wrk")
    report = Report("Gateway overhead alone (no-op runtime), gateway on core 0, wrk on core 1")
    seconds = max(3, count // 10)
    rows: list[list[str]] = []
    best = 0.0
    with (
        gateway(prefix=("taskset", "-c", "0"), runtimes="noop") as target,
        tempfile.TemporaryDirectory() as folder,
    ):
        script = Path(folder) / "execute.lua"
        script.write_text(SCRIPT)
        url = f"http://127.0.0.1:{target.port}"
        cases = {
            "POST /api/v1/execute": ["-s", str(script), f"{url}/api/v1/execute"],
            "GET /health": [f"{url}/health"],
        }
        for name, arguments in cases.items():
            for connections in (1, 16, 64):
                out = subprocess.run(
                    ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s",
                     "--latency", *arguments],
                    capture_output=True, text=True, check=True,
                ).stdout  # fmt: skip
                if "Non-2xx" in out or "Socket errors" in out:
                    raise RuntimeError(out)
                rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])  # type: ignore[index]
                p50 = re.search(r"50%\s+(\S+)", out)[1]  # type: ignore[index]
                p99 = re.search(r"99%\s+(\S+)", out)[1]  # type: ignore[index]
                rows.append([name, str(connections), f"{rate:.0f}", p50, p99])
                if name.startswith("POST"):
                    best = max(best, rate)
    report.table(["request", "connections", "requests/s", "p50", "p99"], rows)
    report.claim(
        "POST /api/v1/execute, requests/s on one core", value=best, limit=5000, at_least=True
    )
    return report
