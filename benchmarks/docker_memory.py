"""Memory of containers against `docker checkpoint`, alternated on one Engine.

Theirs needs an Engine that is experimental, `runc`, and CRIU on the Engine's path: one of this
script's own. The same shell waits in both, and in both it runs on when it was taken. Theirs is the
bare API: checkpoint; create, start from it, and what copies the images to the new container's
folder, without which it cannot start there. Ours is the whole HTTP round trip: the checkpoint with
the files; the request to the answer of a command that was restored, given a file, and ran to its
end.
"""

import os
import shutil
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bounded import within
from benchmarks.docker_runtime import ENGINE, IMAGES, gateway_images
from benchmarks.harness import ROOT, Client, Report, Samples, gateway
from benchmarks.raw_docker import RawDocker

_IMAGE = "bench:alpine"
_WAITING = "while [ ! -e /tmp/go ]; do sleep 0.005; done"
_GO = [{"path": "/tmp/go", "content": ""}]
_SECONDS = 300.0
SLOWER_MAX = 1.2
_SECONDS_TO_BEGIN = 1.0


def run(count: int) -> Report:
    """A checkpoint of what runs on, and a restore into a new container."""
    report = Report("Memory of containers: taken and restored, against `docker checkpoint`")
    prefix = Path(os.environ.get("FAAS_CRIU_PREFIX") or ROOT / ".faas" / "criu")
    subprocess.run([IMAGES, "alpine"], capture_output=True, check=True)
    folder = Path(os.environ.get("FAAS_TEST_IMAGES", str(ROOT / ".faas/test-images")))
    image = next(folder.glob("*alpine*.tar*"))
    with (
        tempfile.TemporaryDirectory() as place,
        _experimental_engine(prefix) as (address, data),
        within(_SECONDS),
    ):
        argv = [
            "docker",
            "-H",
            address,
            "import",
            "--change",
            'CMD ["/bin/sh"]',
            str(image),
            _IMAGE,
        ]
        subprocess.run(argv, capture_output=True, check=True)
        settings = {
            "runtimes": "docker", "docker_host": address, "default_image": "alpine:latest",
            "criu_prefix": str(prefix), "pool_size": 0,
        }  # fmt: skip
        with gateway(data_dir=gateway_images(image, Path(place)), **settings) as target:
            theirs = _Theirs(RawDocker(address.removeprefix("unix://"), _IMAGE), data)
            try:
                _rounds(report, target.client(), theirs, min(count, 15))
            finally:
                theirs.remove()
    return report


def _rounds(report: Report, client: Client, theirs: "_Theirs", rounds: int) -> None:
    made = client.post(
        "/api/v1/execute",
        {"command": _WAITING, "memory": True, "wait": False, "timeout_ms": 600_000},
    )["execution_id"]
    theirs.begin(_WAITING)
    time.sleep(_SECONDS_TO_BEGIN)
    kept: dict[str, list[float]] = {"taken": [], "their taken": [], "going": [], "their going": []}
    for turn in range(rounds + 2):
        took, snapshot = _timed(
            lambda: client.post(f"/api/v1/executions/{made}/checkpoint", {})["id"]
        )
        client.post(f"/api/v1/snapshots/{snapshot}/verify", {})  # hashing is not timed as theirs
        body = {"snapshot_id": snapshot, "memory": True, "mode": "branched", "files": _GO}
        went, answer = _timed(lambda body=body: client.post("/api/v1/execute", body))
        if answer["exit_code"] != 0:
            raise RuntimeError(f"unexpected answer: {answer}")
        their_took, checkpoint = _timed(theirs.take)
        their_went, name = _timed(lambda checkpoint=checkpoint: theirs.go_on(checkpoint))
        theirs.end(name)
        if turn >= 2:
            for key, value in zip(kept, (took, their_took, went, their_went), strict=True):
                kept[key].append(value)
    client.post(f"/api/v1/executions/{made}/cancel", {})
    report.samples(
        Samples("docker checkpoint create, it runs on", tuple(kept["their taken"])),
        Samples("ours, a checkpoint, it runs on", tuple(kept["taken"])),
        Samples("docker create, copy, start --checkpoint", tuple(kept["their going"])),
        Samples("ours, restored, given a file, ended, answered", tuple(kept["going"])),
    )
    for name, ours, other in (
        ("checkpoint / docker checkpoint create", "taken", "their taken"),
        ("restore / docker start --checkpoint", "going", "their going"),
    ):
        value = statistics.median(kept[ours]) / statistics.median(kept[other])
        report.claim(f"{name}, p50", value=value, limit=SLOWER_MAX)


def _timed(act):  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    answer = act()
    return (time.perf_counter() - began) * 1e3, answer


@contextmanager
def _experimental_engine(prefix: Path) -> Iterator[tuple[str, Path]]:
    where = ROOT / ".faas" / "docker" / "experimental"
    env = os.environ | {
        "FAAS_TEST_DOCKER": str(where),
        "PATH": f"{prefix.resolve()}:{os.environ['PATH']}",
    }
    start = [ENGINE, "start", "--experimental"]
    done = subprocess.run(start, capture_output=True, text=True, check=True, env=env)
    try:
        yield done.stdout.strip(), where / "data"
    finally:
        subprocess.run([ENGINE, "stop"], env=env, check=True, capture_output=True)


class _Theirs:
    """A container of the Engine's, taken again and again, and others that go on from it."""

    def __init__(self, raw: RawDocker, data: Path) -> None:
        self._raw, self._data = raw, data
        self._id = ""
        self._script = ""

    def begin(self, script: str) -> None:
        self._script = script
        self._id = self._raw.create(self._body())
        self._raw.start(self._id)

    def take(self) -> str:
        """Take it; it runs on."""
        checkpoint = f"c{uuid.uuid4().hex[:12]}"
        self._raw.checkpoint(self._id, checkpoint)
        return checkpoint

    def go_on(self, checkpoint: str) -> str:
        """Go on from that in another container; return it."""
        made = self._raw.create(self._body())
        folder = self._data / "containers"
        source = folder / self._id / "checkpoints" / checkpoint
        target = folder / made / "checkpoints" / checkpoint
        shutil.copytree(source, target)
        # As other files: the Engine refuses a content, times included, that it has seen already.
        for path in (target, *target.rglob("*")):
            os.utime(path, (0, 0))
        self._raw.start(made, checkpoint=checkpoint)
        return made

    def end(self, container: str) -> None:
        self._raw.remove(container)

    def remove(self) -> None:
        if self._id:
            self._raw.remove(self._id)

    def _body(self) -> dict[str, object]:
        host = {"NetworkMode": "none", "Runtime": "runc", "SecurityOpt": ["seccomp=unconfined"]}
        argv = ["/bin/sh", "-c", self._script]
        return {"Image": self._raw.image, "Cmd": argv, "HostConfig": host}
