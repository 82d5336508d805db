"""The docker runtime against its Engine and the field, all on one Engine in one run.

`scripts/bench_setup.sh` installs the peers; one that is missing is named with what it lacks.
"""

import os
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.bounded import alternate as alternate_bounded
from benchmarks.bounded import within
from benchmarks.docker_peers import ECHO, Bench, open_peers
from benchmarks.harness import ROOT, Client, Gateway, Report, Samples, alternate, gateway, measure
from benchmarks.raw_docker import RawDocker
from benchmarks.throughput import drive

ENGINE = ROOT / "scripts" / "docker_engine.sh"
IMAGES = ROOT / "scripts" / "test_images.sh"
IMAGE = "bench:alpine"
CALLERS = 4
OWN_SECONDS = 300.0
"""What a table of ours may take: ten times what it does; past it the run ends with the reason."""
PEER_SECONDS = 60.0
"""What one peer may take in all; llm-sandbox as it comes needs eleven a session."""
SECONDS = float(os.environ.get("FAAS_BENCH_SECONDS", "15"))


def _address() -> str:
    done = subprocess.run([ENGINE, "start"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _alpine() -> Path:
    subprocess.run([IMAGES, "alpine"], capture_output=True, check=True)
    folder = Path(os.environ.get("FAAS_TEST_IMAGES", str(ROOT / ".faas/test-images")))
    return next(folder.glob("*alpine*.tar*"))


def run(count: int) -> Report:
    """Latency from the pool and on demand, first output, a second command, the sustained rate."""
    report = Report("Docker runtime: one Engine, `echo`, whole HTTP round trip")
    address, image = engine_with_image()
    raw = RawDocker(address.removeprefix("unix://"), IMAGE)
    rows = min(count, 30)
    with tempfile.TemporaryDirectory() as pooled, tempfile.TemporaryDirectory() as cold:
        settings = {"runtimes": "docker", "docker_host": address, "default_image": "alpine:latest"}
        kept, none = (gateway_images(image, Path(folder)) for folder in (pooled, cold))
        warm = gateway(data_dir=kept, pool_size=8, **settings)
        lone = gateway(data_dir=none, pool_size=0, pool_max=0, **settings)
        with warm as target, lone as demand:
            with within(OWN_SECONDS):
                _latencies(report, target, rows)
            with within(OWN_SECONDS):
                _cold(report, demand.client(), raw, rows)
            _peers(report, target.client(), Bench(address, IMAGE, Path(pooled)), min(rows, 20))
            with within(OWN_SECONDS):
                _rates(report, target.port, raw)
    return report


def engine_with_image() -> tuple[str, Path]:
    """Start the project's Engine, with the busybox image as `IMAGE`; return address and tar."""
    address, image = _address(), _alpine()
    argv = ["docker", "-H", address, "import", "--change", 'CMD ["/bin/sh"]', str(image), IMAGE]
    subprocess.run(argv, capture_output=True, check=True)
    return address, image


def gateway_images(image: Path, folder: Path) -> Path:
    """Import the image for a gateway; return its data directory."""
    data_dir = folder / "data"
    command = ["faas", "images", "import", "alpine:latest", str(image), "--data-dir", str(data_dir)]
    subprocess.run(command, check=True, capture_output=True)
    return data_dir


def _latencies(report: Report, target: Gateway, rows: int) -> None:
    client = target.client()
    pooled = measure(
        "ours, from the pool, 500 ms pause", lambda: client.execute(ECHO),
        count=rows, pause_seconds=0.5,
    )  # fmt: skip
    body = {"image": "alpine:latest", "name": "bench", "runtime": "docker"}
    instance = str(client.post("/api/v1/instances", body)["id"])
    path = f"/api/v1/instances/{instance}/exec"

    def second() -> None:
        answer = client.post(path, {"command": ECHO})
        if answer["stdout"] != "hi\n":
            raise RuntimeError(f"unexpected answer: {answer}")

    again = measure("ours, a second command in a running container", second, count=rows)
    client.delete(f"/api/v1/instances/{instance}")
    first = _first_output(target, rows)
    report.samples(pooled, again, first)
    report.claim("echo from the pool, p50 ms", value=pooled.p50, limit=6)
    report.claim("a second command, p50 ms", value=again.p50, limit=3)
    report.claim("first output from the pool, p50 ms", value=first.p50, limit=4)


def _first_output(target: Gateway, rows: int) -> Samples:
    """From the request to the first output of a command that goes on: two requests, one that
    starts it and one that follows it."""
    client = target.client()
    body = {"command": "echo hi; exec sleep 0.2", "wait": False}
    values: list[float] = []
    for turn in range(-3, rows):
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", target.port), timeout=60) as follower:
            began = time.perf_counter()
            started = client.post("/api/v1/execute", body)["execution_id"]
            line = f"GET /api/v1/logs/{started}/stream HTTP/1.1\r\nHost: gateway\r\n\r\n"
            follower.sendall(line.encode())
            told = b""
            while b"event: stdout" not in told:
                more = follower.recv(1 << 16)
                if not more:
                    raise RuntimeError(f"the stream ended: {told!r}")
                told += more
            elapsed = (time.perf_counter() - began) * 1e3
        if turn >= 0:
            values.append(elapsed)
    return Samples("ours, first output from the pool, 500 ms pause", tuple(values))


def _cold(report: Report, client: Client, raw: RawDocker, rows: int) -> None:
    names: list[str] = []
    floor, ours = alternate(
        {
            "the Engine's API: create, start, output, end": lambda: names.append(
                raw.run(ECHO, removes=False)
            ),
            "ours without a pool": lambda: client.execute(ECHO),
        },
        count=rows,
        pause_seconds=0.3,
    )
    for name in names:
        raw.remove(name)
    report.samples(floor, ours)
    report.claim("without a pool / the Engine's own, p50", value=ours.p50 / floor.p50, limit=1.15)


def _peers(report: Report, client: Client, bench: Bench, rows: int) -> None:
    """The field, each in turn with ours; a peer that is slow gets fewer turns, and it is said."""
    mine = "ours, in between"
    with open_peers(bench) as (theirs, missing):
        acts = {mine: lambda: client.execute(ECHO), **theirs}
        samples, notes = alternate_bounded(
            acts, count=rows, pause_seconds=0.3, row_seconds_max=PEER_SECONDS
        )
    report.samples(*samples)
    for text in [*(f"Not measured here: {one}." for one in missing), *notes]:
        report.note(text)
    p50 = {one.name: one.p50 for one in samples}
    for name in theirs:
        if name in p50:
            # The command line is what the target names; of the others any margin is told.
            limit = 30 if name.startswith("docker run") else 1
            ratio = p50[name] / p50[mine]
            report.claim(f"{name} / ours, p50", value=ratio, limit=limit, at_least=True)


def _rates(report: Report, port: int, raw: RawDocker) -> None:
    """In turn on the same Engine; the pool refills and destroys meanwhile, as in life."""
    theirs = _raw_rate(raw)
    _, ours = drive(port, callers=CALLERS, seconds=SECONDS, command=ECHO)
    rows = [
        ["ours, over HTTP, with a pool", f"{ours:.1f}"],
        ["the Engine's API: create to removed", f"{theirs:.1f}"],
    ]
    report.table([f"{CALLERS} callers, {SECONDS:.0f} s", "a second"], rows)
    report.claim("sustained: ours / the Engine's", value=ours / theirs, limit=1.5, at_least=True)


def _raw_rate(raw: RawDocker) -> float:
    done: list[str] = []
    began = time.perf_counter()

    def caller() -> None:
        while time.perf_counter() < began + SECONDS:
            done.append(raw.run(ECHO))

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(done) / (time.perf_counter() - began)
