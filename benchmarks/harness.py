"""What benchmarks share: a real gateway process, a lean client, alternating samples, a table."""

import json
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTERPRETER = Path(sys.executable).resolve()
"""The real interpreter: a version manager's shim costs 100 ms a start."""

_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Samples:
    """Durations of one thing, milliseconds."""

    name: str
    values: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """The value that `share` of the samples do not exceed."""
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def p50(self) -> float:
        return statistics.median(self.values)

    def row(self) -> list[str]:
        """Name, p50, p95, p99, count."""
        return [
            self.name,
            *(f"{v:.2f}" for v in (self.p50, self.quantile(0.95), self.quantile(0.99))),
            str(len(self.values)),
        ]


@dataclass(slots=True)
class Report:
    """One benchmark's outcome: tables and claims, rendered as Markdown."""

    title: str
    parts: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def table(self, header: list[str], rows: list[list[str]]) -> None:
        lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        self.parts.append("\n".join(lines))

    def samples(self, *samples: Samples) -> None:
        self.table(["what", "p50 ms", "p95 ms", "p99 ms", "n"], [s.row() for s in samples])

    def claim(self, text: str, *, value: float, limit: float, at_least: bool = False) -> None:
        """State a promise, what was measured, and whether it held."""
        is_held = value >= limit if at_least else value <= limit
        word = "holds" if is_held else "MISSED"
        bound = "at least" if at_least else "at most"
        self.parts.append(f"- {word}: {text}: {value:.2f} ({bound} {limit:g})")
        if not is_held:
            self.missed.append(text)

    def note(self, text: str) -> None:
        self.parts.append(text)

    def markdown(self, command: str, gauges: tuple[float, float]) -> str:
        date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        head = f"## {self.title}\n\n{date} · {machine()} · `{command}`\n"
        before, after = gauges
        head += f"Bare Python before and after: {before:.1f} and {after:.1f} ms.\n"
        return head + "\n" + "\n\n".join(self.parts) + "\n"


def machine() -> str:
    """This machine, in words."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def gauge() -> float:
    """Say how fast this machine is at the moment: the start of a bare Python, p50, milliseconds.

    It is a virtual one that others share: from one quarter of an hour to the next it may be half
    as fast.
    """
    argv = ["/usr/bin/python3", "-c", "print(1)"]
    env = {"PATH": "/usr/bin:/bin"}
    start = partial(subprocess.run, argv, stdout=subprocess.PIPE, check=True, env=env)
    return measure("bare Python", start, count=20).p50


def measure(
    name: str, act: Callable[[], object], *, count: int, warmup: int = 5, pause_seconds: float = 0.0
) -> Samples:
    """Time `act` that often, after a warm-up that is thrown away."""
    return alternate({name: act}, count=count, warmup=warmup, pause_seconds=pause_seconds)[0]


def alternate(
    acts: dict[str, Callable[[], object]],
    *,
    count: int,
    warmup: int = 3,
    pause_seconds: float = 0.0,
) -> list[Samples]:
    """Time several things in turn, shuffled each round, so that drift hits all alike."""
    values: dict[str, list[float]] = {name: [] for name in acts}
    order = list(acts)
    shuffle = random.Random(1).shuffle
    for turn in range(-warmup, count):
        shuffle(order)
        for name in order:
            if pause_seconds:
                time.sleep(pause_seconds)
            begin = time.perf_counter()
            acts[name]()
            elapsed = (time.perf_counter() - begin) * 1e3
            if turn >= 0:
                values[name].append(elapsed)
    return [Samples(name, tuple(values[name])) for name in acts]


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Client:
    """One keep-alive connection to a gateway. One send a request and no parsing but of the length:
    it shares the cores with what it measures."""

    def __init__(self, port: int) -> None:
        self._host = b"Host: 127.0.0.1:%d\r\n" % port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: object) -> dict[str, object]:
        raw = json.dumps(body).encode()
        head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(raw)
        return self._ask(b"POST", path, head, raw)

    def get(self, path: str) -> dict[str, object]:
        return self._ask(b"GET", path, b"", b"")

    def delete(self, path: str) -> None:
        self._ask(b"DELETE", path, b"", b"")

    def _ask(self, method: bytes, path: str, headers: bytes, body: bytes) -> dict[str, object]:
        line = b"%b %b HTTP/1.1\r\n" % (method, path.encode())
        self._socket.sendall(line + self._host + headers + b"\r\n" + body)
        got = self._more(b"")
        while _HEAD_END not in got:
            got = self._more(got)
        head, _, raw = got.partition(_HEAD_END)
        status = int(head.split(b" ", 2)[1])
        announced = head.lower().partition(b"content-length:")[2]
        length = int(announced.partition(b"\r")[0] or 0)
        while len(raw) < length:
            raw = self._more(raw)
        if status >= 300:
            raise RuntimeError(f"{status}: {raw[:500]!r}")
        return json.loads(raw) if raw else {}

    def _more(self, before: bytes) -> bytes:
        more = self._socket.recv(1 << 16)
        if not more:
            raise ConnectionError("the gateway hung up")
        return before + more

    def execute(self, command: object, **fields: object) -> dict[str, object]:
        answer = self.post("/api/v1/execute", {"command": command, **fields})
        if answer["exit_code"] != 0:
            raise RuntimeError(f"unexpected answer: {answer}")
        return answer


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway process."""

    port: int
    pid: int
    data_dir: Path

    def client(self) -> Client:
        return Client(self.port)

    def rss_bytes(self) -> int:
        """Resident memory of the process itself."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")


@contextmanager
def gateway(
    *, prefix: tuple[str, ...] = (), data_dir: Path | None = None, **settings: object
) -> Iterator[Gateway]:
    """Start `faas serve` on a free port with a data directory of its own; stop it by its id."""
    port = free_port()
    data_dir = data_dir or Path(tempfile.mkdtemp(prefix="faas-bench-"))
    # What the peers need is not for the gateway: neither their packages nor their Engine.
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FAAS_") and name not in {"PYTHONPATH", "DOCKER_HOST"}
    }
    env |= {"FAAS_PORT": str(port), "FAAS_DATA_DIR": str(data_dir), "FAAS_LOG_LEVEL": "warning"}
    env |= {f"FAAS_{name.upper()}": str(value) for name, value in settings.items()}
    command = [*prefix, sys.executable, "-m", "faas", "serve"]
    log = (data_dir / "bench.log").open("wb")
    process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log)
    try:
        _wait_ready(port, process, data_dir / "bench.log")
        yield Gateway(port, process.pid, data_dir)
    except Exception as failure:
        failure.add_note(f"the gateway's log: {(data_dir / 'bench.log').read_text()[-4000:]}")
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        shutil.rmtree(data_dir, ignore_errors=True)


def _wait_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"gateway ended: {log.read_text()[-2000:]}")
        try:
            if Client(port).get("/health")["status"] == "healthy":
                return
        except (OSError, RuntimeError):
            pass
        time.sleep(0.05)
    raise RuntimeError(f"gateway did not become healthy: {log.read_text()[-2000:]}")
