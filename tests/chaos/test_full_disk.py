"""A gateway whose whole data directory is on a disk that runs full: it says so, loses nothing that
was acknowledged, leaves nothing half, and goes on when there is room."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.plugins.criu import criu_prefix
from tests.plugins.live_gateway import LiveGateway
from tests.plugins.wire_calls import Calls

pytestmark = pytest.mark.needs_root

MIB = 1 << 20
SMALL, LARGE = "48m", "512m"
SOME = "head -c 6000000 /dev/urandom > /workspace/some"
MUCH = "head -c 90000000 /dev/urandom > /workspace/much"

HOLDING = """
import itertools, time
held = bytearray(b"x") * (90 << 20)
for n in itertools.count(): print(n, flush=True); time.sleep(0.01)
"""


class Disk:
    """A data directory of its own, and what fills it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.ballast = top / "ballast"

    def fill(self) -> None:
        """Up to the last byte."""
        with self.ballast.open("ab", buffering=0) as ballast:
            for size in (MIB, 4096, 1):
                try:
                    while True:
                        ballast.write(b"x" * size)
                except OSError:
                    continue

    def relieve(self) -> None:
        self.ballast.unlink()

    def enlarge(self) -> None:
        subprocess.run(["mount", "-o", f"remount,size={LARGE}", self.top], check=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    directory = Path(tempfile.mkdtemp(prefix="faas-t-", dir="/tmp"))
    top = directory / "data"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", top], check=True)
    yield Disk(top)
    subprocess.run(["umount", "-l", top], check=True)
    shutil.rmtree(directory)


@pytest.fixture
def gateway(disk: Disk) -> Iterator[LiveGateway]:
    prefix = criu_prefix()
    made = LiveGateway(
        disk.top.parent,
        FAAS_RUNTIMES="embedded",
        FAAS_POOL_SIZE="1",
        FAAS_CRIU_PREFIX=str(prefix or ""),
    )
    made.start()
    yield made
    if made.is_running:
        made.stop()


@pytest.fixture
def call(gateway: LiveGateway) -> Calls:
    return Calls(gateway.url)


def keep(call: Calls, command: str, *, fails: int | None = None, **more: object) -> dict:
    body = {"command": command, "mode": "checkpointed", **more}
    return call.post("/api/v1/execute", body, fails=fails)


def said(call: Calls, snapshot_id: str, command: str) -> str:
    ran = call.post("/api/v1/execute", {"command": command, "snapshot_id": snapshot_id})
    assert ran["exit_code"] == 0, ran
    return ran["stdout"]


def test_what_does_not_fit_is_refused_and_what_was_kept_stays(
    gateway: LiveGateway, disk: Disk, call: Calls
) -> None:
    kept = keep(call, f"echo first > /workspace/s; {SOME}")
    refused = keep(call, MUCH, fails=503)
    assert "space" in f"{refused['detail']} {refused['hint']}"
    assert refused["code"] == "store_unavailable"
    assert [one["id"] for one in call.get("/api/v1/snapshots")] == [kept["snapshot_id"]]
    call.post(f"/api/v1/snapshots/{kept['snapshot_id']}/verify")
    assert not list(disk.top.rglob(".new-*"))
    assert said(call, kept["snapshot_id"], "cat /workspace/s") == "first\n"

    disk.enlarge()
    grown = keep(call, f"echo second >> /workspace/s; {MUCH}", snapshot_id=kept["snapshot_id"])
    assert said(call, grown["snapshot_id"], "cat /workspace/s") == "first\nsecond\n"


def test_forks_merges_imports_and_stops_on_a_full_disk_fail_whole(
    gateway: LiveGateway, disk: Disk, call: Calls, tmp_path: Path
) -> None:
    base = keep(call, "echo base > /workspace/s")["snapshot_id"]
    children = [
        keep(call, f"echo {name} > /workspace/{name}; {SOME}", snapshot_id=base)["snapshot_id"]
        for name in ("left", "right")
    ]
    made = call.post("/api/v1/instances", {"snapshot_id": base})["id"]
    work = {"command": f"echo work > /workspace/w; {SOME}"}
    assert call.post(f"/api/v1/instances/{made}/exec", work)["exit_code"] == 0
    exported = carried(gateway, tmp_path, children[0])
    before = {one["id"] for one in call.get("/api/v1/snapshots")}
    disk.fill()

    merge = {"branches": children, "strategy": "ours"}
    refused = [
        call.post("/api/v1/branches/merge", merge, fails=503),
        call.post("/api/v1/snapshots", {"container_id": made}, fails=503),
        call.post(f"/api/v1/instances/{made}/stop", fails=503),
        brought_back(gateway, exported, expected=503),
    ]

    assert {problem["code"] for problem in refused} <= {"store_unavailable", "unavailable"}
    disk.relieve()
    assert {one["id"] for one in call.get("/api/v1/snapshots")} == before
    look = {"command": "cat /workspace/s /workspace/w"}
    assert call.post(f"/api/v1/instances/{made}/exec", look)["stdout"] == "base\nwork\n"
    merged = call.post("/api/v1/branches/merge", merge)["snapshot_id"]
    assert said(call, merged, "cat /workspace/left /workspace/right") == "left\nright\n"
    again = brought_back(gateway, exported, expected=200)
    assert said(call, again["id"], "cat /workspace/left") == "left\n"
    call.post(f"/api/v1/instances/{made}/stop")
    assert call.get(f"/api/v1/instances/{made}")["status"] == "stopped"
    call.delete(f"/api/v1/instances/{made}")


def carried(gateway: LiveGateway, folder: Path, snapshot_id: str) -> Path:
    from faas_sdk import SyncFaaSClient

    with SyncFaaSClient(gateway.url) as client:
        client.save_snapshot(snapshot_id, folder / "file")
    return folder / "file"


def brought_back(gateway: LiveGateway, file: Path, *, expected: int) -> dict:
    import httpx

    answer = httpx.post(
        f"{gateway.url}/api/v1/snapshots/import",
        content=file.read_bytes(),
        headers={"content-type": "application/octet-stream"},
        trust_env=False,
        timeout=60,
    )
    assert answer.status_code == expected, answer.text
    return answer.json()


def test_a_full_disk_is_told_and_survived_also_by_a_killed_gateway(
    gateway: LiveGateway, disk: Disk, call: Calls
) -> None:
    kept = keep(call, "echo first > /workspace/s")["snapshot_id"]
    disk.fill()
    refused = keep(call, SOME, fails=503)
    assert refused["retryable"]
    assert call.get("/health")["status"]
    gateway.kill()
    disk.relieve()
    gateway.start()
    assert said(call, kept, "cat /workspace/s") == "first\n"
    assert said(call, keep(call, SOME)["snapshot_id"], "wc -c < /workspace/some") == "6000000\n"


@pytest.mark.needs_criu
@pytest.mark.parametrize("is_full_before", [True, False], ids=["full", "too small"])
def test_memory_that_does_not_fit_is_not_kept_and_its_program_runs_on(
    gateway: LiveGateway, disk: Disk, call: Calls, *, is_full_before: bool
) -> None:
    if criu_prefix() is None:
        pytest.skip("CRIU is not installed: scripts/criu.sh .faas/criu")
    body = {"command": ["/usr/bin/python3", "-c", HOLDING], "memory": True}
    body |= {"mode": "checkpointed", "wait": False, "timeout_ms": 100_000}
    made = call.post("/api/v1/execute", body)["execution_id"]
    while call.logs(made).count("\n") < 5:
        pass
    if is_full_before:
        disk.fill()
    refused = call.post(f"/api/v1/executions/{made}/checkpoint", {}, fails=503)
    assert "space" in f"{refused['detail']} {refused['hint']}"
    seen = call.logs(made).count("\n")
    while call.logs(made).count("\n") <= seen:
        pass
    if is_full_before:
        disk.relieve()
    assert not list((disk.top / "memory").glob(".*"))
    disk.enlarge()
    assert call.post(f"/api/v1/executions/{made}/checkpoint", {})["has_memory"]
    call.post(f"/api/v1/executions/{made}/cancel")
