"""The docker runtime from its warm pool, against `docker run` on the same Engine."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.harness import ROOT, Report, alternate, gateway, measure
from benchmarks.throughput import drive

ENGINE = ROOT / "scripts" / "docker_engine.sh"
IMAGES = ROOT / "scripts" / "test_images.sh"


def _address() -> str:
    done = subprocess.run([ENGINE, "start"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _alpine() -> Path:
    subprocess.run([IMAGES, "alpine"], capture_output=True, check=True)
    folder = Path(os.environ.get("FAAS_TEST_IMAGES", str(ROOT / ".faas/test-images")))
    return next(folder.glob("*alpine*.tar*"))


def run(count: int) -> Report:
    """Latency of a lone caller, rate of several, and the Engine's own floor."""
    report = Report("Docker runtime: one-shot `echo` from a warm pool, whole HTTP round trip")
    address, image = _address(), _alpine()
    docker = ["docker", "-H", address]
    subprocess.run([*docker, "import", str(image), "bench:alpine"], capture_output=True, check=True)
    raw = [*docker, "run", "--rm", "--network", "none", "bench:alpine", "/bin/echo", "hi"]
    rows = min(count, 30)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        subprocess.run(
            ["faas", "images", "import", "alpine:latest", str(image), "--data-dir", str(data_dir)],
            check=True, capture_output=True,
        )  # fmt: skip
        settings = {"runtimes": "docker", "docker_host": address, "default_image": "alpine:latest"}
        with gateway(data_dir=data_dir, pool_size=8, **settings) as target:
            client = target.client()
            pooled = measure(
                "echo from the pool, 500 ms pause",
                lambda: client.execute(["/bin/echo", "hi"]),
                count=rows,
                pause_seconds=0.5,
            )
            cli, _ = alternate(
                {
                    "docker run --rm --network none (CLI)": lambda: subprocess.run(
                        raw, capture_output=True, check=True
                    ),
                    "ours between": lambda: client.execute(["/bin/echo", "hi"]),
                },
                count=rows,
                pause_seconds=0.3,
            )
            _, rate = drive(target.port, callers=4, seconds=15, command=["/bin/echo", "hi"])
        shutil.rmtree(data_dir, ignore_errors=True)
    report.samples(pooled, cli)
    report.note(f"Sustained, 4 callers, 15 s: {rate:.1f} executions/s (the pool runs dry).")
    report.claim("echo from the pool, p50 ms", value=pooled.p50, limit=6)
    report.claim("docker run / ours, p50", value=cli.p50 / pooled.p50, limit=30, at_least=True)
    return report
