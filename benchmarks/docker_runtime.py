"""The docker runtime against its Engine and the field, all on one Engine in one run.

Peers that are not installed are named as not measured: `pip install docker llm-sandbox`.
"""

import importlib.util
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import ROOT, Client, Report, alternate, gateway, measure
from benchmarks.raw_docker import RawDocker
from benchmarks.throughput import drive

ENGINE = ROOT / "scripts" / "docker_engine.sh"
IMAGES = ROOT / "scripts" / "test_images.sh"
IMAGE = "bench:alpine"
ECHO = ["/bin/echo", "hi"]
CALLERS = 4
SECONDS = float(os.environ.get("FAAS_BENCH_SECONDS", "15"))


def _address() -> str:
    done = subprocess.run([ENGINE, "start"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _alpine() -> Path:
    subprocess.run([IMAGES, "alpine"], capture_output=True, check=True)
    folder = Path(os.environ.get("FAAS_TEST_IMAGES", str(ROOT / ".faas/test-images")))
    return next(folder.glob("*alpine*.tar*"))


def run(count: int) -> Report:
    """Latency from the pool and on demand, a second command, the sustained rate."""
    report = Report("Docker runtime: one Engine, `echo`, whole HTTP round trip")
    address, image = _address(), _alpine()
    docker = ["docker", "-H", address]
    subprocess.run(
        [*docker, "import", "--change", 'CMD ["/bin/sh"]', str(image), IMAGE],
        capture_output=True,
        check=True,
    )
    raw = RawDocker(address.removeprefix("unix://"), IMAGE)
    rows = min(count, 30)
    with tempfile.TemporaryDirectory() as pooled, tempfile.TemporaryDirectory() as cold:
        for folder in (pooled, cold):
            _import(image, folder)
        settings = {"runtimes": "docker", "docker_host": address, "default_image": "alpine:latest"}
        warm = gateway(data_dir=Path(pooled) / "data", pool_size=8, **settings)
        lone = gateway(data_dir=Path(cold) / "data", pool_size=0, pool_max=0, **settings)
        with warm as target, lone as demand:
            _latencies(report, target.client(), rows)
            _cold(report, demand.client(), raw, rows)
            _peers(report, target.client(), docker, address, min(rows, 20))
            _rates(report, target.port, raw)
    return report


def _import(image: Path, folder: str) -> None:
    data = ["--data-dir", f"{folder}/data"]
    command = ["faas", "images", "import", "alpine:latest", str(image), *data]
    subprocess.run(command, check=True, capture_output=True)


def _latencies(report: Report, client: Client, rows: int) -> None:
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
    report.samples(pooled, again)
    report.claim("echo from the pool, p50 ms", value=pooled.p50, limit=6)
    report.claim("a second command, p50 ms", value=again.p50, limit=3)


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


def _peers(report: Report, client: Client, docker: list[str], address: str, rows: int) -> None:
    command = [*docker, "run", "--rm", "--network", "none", IMAGE, *ECHO]
    acts: dict[str, Callable[[], object]] = {
        "docker run --rm (CLI)": lambda: subprocess.run(command, capture_output=True, check=True),
        "ours, in between": lambda: client.execute(ECHO),
    }
    for name, open_peer in (("docker", _docker_py), ("llm_sandbox", _llm_sandbox)):
        if importlib.util.find_spec(name) is None:
            report.note(f"Not measured here: {name} (pip install {name.replace('_', '-')}).")
        else:
            acts |= open_peer(address)
    report.note("Not measured: opensandbox-server; setting it up was not tried.")
    samples = alternate(acts, count=rows, pause_seconds=0.3)
    report.samples(*samples)
    p50 = {one.name: one.p50 for one in samples}
    ratio = p50["docker run --rm (CLI)"] / p50["ours, in between"]
    report.claim("docker run / ours, p50", value=ratio, limit=30, at_least=True)


def _docker_py(address: str) -> dict[str, Callable[[], object]]:
    import docker  # noqa: PLC0415  an optional peer

    client = docker.DockerClient(base_url=address)
    return {
        "docker-py, containers.run": lambda: client.containers.run(
            IMAGE, ECHO, remove=True, network_mode="none"
        )
    }


def _llm_sandbox(address: str) -> dict[str, Callable[[], object]]:
    import docker  # noqa: PLC0415  an optional peer
    from llm_sandbox import SandboxBackend, SandboxSession  # noqa: PLC0415

    client = docker.DockerClient(base_url=address)

    def one_shot() -> object:
        with SandboxSession(
            backend=SandboxBackend.DOCKER, client=client, image=IMAGE, lang="python",
            skip_environment_setup=True, keep_template=True,
        ) as session:  # fmt: skip
            return session.execute_command("/bin/echo hi")

    return {"llm-sandbox, docker backend": one_shot}


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
