"""Files of containers, kept and forked, against `docker commit` of the same files on one Engine.

Theirs lie in the container's layer, which is what commit takes; ours where our containers may
write. New bytes every round, so that nobody is quick because it has them already. A fork is whole:
the child has the files, ran and answered; commit alone makes only the image.
"""

import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Self

from benchmarks.bounded import within
from benchmarks.docker_runtime import IMAGE, engine_with_image, gateway_images
from benchmarks.harness import Client, Report, Samples, gateway
from benchmarks.raw_docker import RawDocker

_STATES = {
    "1 MB": "head -c 1048576 /dev/urandom > {0}/f",
    "100 MB": "head -c 104857600 /dev/urandom > {0}/f",
    "5,000 small files": (
        "rm -rf {0}/d; mkdir {0}/d; cd {0}/d; "
        "seed=$(head -c 8 /dev/urandom | od -An -tx1 | tr -d ' \\n'); "
        "for n in $(seq 5000); do echo $seed$n > $n; done"
    ),
}
_LIMITS = {"timeout_ms": 60_000}
STATE_SECONDS = 300.0
"""What one state may take, all rounds."""
FORK_FASTER = 2.0
"""What «much faster» is held to at the least, though commit only makes an image."""


def run(count: int) -> Report:
    """Checkpoint and fork of three states."""
    report = Report("Files of containers: kept and forked, against `docker commit`")
    address, image = engine_with_image()
    raw = RawDocker(address.removeprefix("unix://"), IMAGE)
    rounds = min(count, 8)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = gateway_images(image, Path(folder))
        settings = {"runtimes": "docker", "docker_host": address, "default_image": "alpine:latest"}
        with gateway(data_dir=data_dir, pool_size=4, **settings) as target:
            for name, script in _STATES.items():
                with within(STATE_SECONDS):
                    _state(report, target.client(), raw, (name, script), rounds)
    return report


def _state(
    report: Report, client: Client, raw: RawDocker, state: tuple[str, str], rounds: int
) -> None:
    name, script = state
    theirs: list[float] = []
    kept: list[float] = []
    forked: list[float] = []
    body = {"image": "alpine:latest", "runtime": "docker", "disk_mb": 256}
    instance = str(client.post("/api/v1/instances", body)["id"])
    with _Theirs(raw) as container:
        for turn in range(-1, rounds):
            for values, act in (
                (theirs, lambda: container.commit(script)),
                (kept, lambda: _keep(client, instance, script)),
                (forked, lambda: _fork(client, script)),
            ):
                elapsed = act()
                if turn >= 0:
                    values.append(elapsed)
    client.delete(f"/api/v1/instances/{instance}")
    report.samples(
        Samples(f"docker commit, {name}", tuple(theirs)),
        Samples(f"ours, a snapshot of an instance, {name}", tuple(kept)),
        Samples(f"ours, a fork of an ended execution, its child's answer, {name}", tuple(forked)),
    )
    commit = statistics.median(theirs)
    report.claim(
        f"snapshot / docker commit, {name}, p50", value=statistics.median(kept) / commit, limit=1.2
    )
    report.claim(
        f"docker commit / fork, {name}, p50",
        value=commit / statistics.median(forked),
        limit=FORK_FASTER,
        at_least=True,
    )


def _keep(client: Client, instance: str, script: str) -> float:
    path = f"/api/v1/instances/{instance}/exec"
    answer = client.post(path, {"command": script.format("/workspace"), "timeout_ms": 60_000})
    if answer["exit_code"] != 0:
        raise RuntimeError(f"unexpected answer: {answer}")
    elapsed, made = _timed(lambda: client.post("/api/v1/snapshots", {"container_id": instance}))
    client.delete(f"/api/v1/snapshots/{made['snapshot_id']}")
    return elapsed


def _fork(client: Client, script: str) -> float:
    parent = client.execute(script.format("/workspace"), **_LIMITS)["request_id"]
    look = ["/bin/ls", "/workspace"]
    elapsed, child = _timed(
        lambda: client.execute(look, mode="branched", branch_from=parent, **_LIMITS)
    )
    if not child["stdout"]:
        raise RuntimeError(f"the child has no files: {child}")
    return elapsed


def _timed(act: Callable[[], dict[str, object]]) -> tuple[float, dict[str, object]]:
    began = time.perf_counter()
    answer = act()
    return (time.perf_counter() - began) * 1e3, answer


class _Theirs:
    """A container of the Engine's, committed again and again."""

    def __init__(self, raw: RawDocker) -> None:
        self._raw = raw
        self._name = f"bench-{uuid.uuid4().hex[:12]}"
        self._docker = ["docker", "-H", f"unix://{raw.path}"]

    def __enter__(self) -> Self:
        argv = ["run", "-d", "--network", "none", "--name", self._name, self._raw.image]
        self._cli(*argv, "/bin/sh", "-c", "mkdir /work; exec sleep 86400")
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.remove(self._name)

    def commit(self, script: str) -> float:
        """Write anew, and time the API's commit."""
        self._cli("exec", self._name, "/bin/sh", "-c", script.format("/work"))
        tag = f"bench-commit:{uuid.uuid4().hex[:12]}"
        elapsed, _ = _timed(lambda: self._raw.commit(self._name, tag))
        self._cli("rmi", tag)
        return elapsed

    def _cli(self, *arguments: str) -> None:
        subprocess.run([*self._docker, *arguments], capture_output=True, check=True)
