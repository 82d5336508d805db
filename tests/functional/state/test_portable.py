"""A large snapshot carried away and brought back over HTTP: in pieces, whole, or not at all."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway
from tests.plugins.wire_calls import Calls

from faas_sdk import GatewayUnreachableError, SyncFaaSClient

pytestmark = pytest.mark.needs_root

MIB = 1 << 20
LARGE_MIB = 256
"""Four times what a gateway takes in any other body."""
BOUND_MIB = 100
"""A few packs on their way, what the allocator keeps, and room for the noise of a real process."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[LiveGateway]:
    with live_gateway(FAAS_RUNTIMES="embedded", FAAS_POOL_SIZE="1") as running:
        yield running


@pytest.fixture
def call(gateway: LiveGateway) -> Calls:
    return Calls(gateway.url)


@pytest.fixture(scope="module")
def large(gateway: LiveGateway) -> dict:
    body = {
        "command": f"head -c {LARGE_MIB}M /dev/urandom > /workspace/big; sha256sum /workspace/big",
        "mode": "checkpointed",
        "disk_mb": 2 * LARGE_MIB,
        "timeout_ms": 100_000,
    }
    return Calls(gateway.url).post("/api/v1/execute", body)


@pytest.fixture(scope="module")
def file(gateway: LiveGateway, large: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("carried") / "file"
    with SyncFaaSClient(gateway.url) as client:
        client.save_snapshot(large["snapshot_id"], path)
    return path


def grown_by(gateway: LiveGateway, act: Callable[[], object]) -> int:
    """How far the gateway's memory rose above where it was."""
    assert gateway._process is not None
    at = Path("/proc", str(gateway._process.pid))
    (at / "clear_refs").write_text("5")
    before = field(at, "VmRSS")
    act()
    return field(at, "VmHWM") - before


def field(at: Path, name: str) -> int:
    for line in (at / "status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise AssertionError(name)


def known(call: Calls) -> set[str]:
    return {one["id"] for one in call.get("/api/v1/snapshots")}


def test_both_ways_it_takes_little_memory_and_is_the_same(
    gateway: LiveGateway, call: Calls, large: dict, tmp_path: Path
) -> None:
    target = tmp_path / "file"
    taken: list[dict] = []
    with SyncFaaSClient(gateway.url) as client:
        out = grown_by(gateway, lambda: client.save_snapshot(large["snapshot_id"], target))
        back = grown_by(gateway, lambda: taken.append(client.load_snapshot(target)))

    assert target.stat().st_size > LARGE_MIB * MIB
    assert out < BOUND_MIB * MIB
    assert back < BOUND_MIB * MIB
    look = {"command": "sha256sum /workspace/big", "snapshot_id": taken[0]["id"]}
    look |= {"disk_mb": 2 * LARGE_MIB, "timeout_ms": 100_000}
    assert call.post("/api/v1/execute", look)["stdout"] == large["stdout"]
    call.delete(f"/api/v1/snapshots/{taken[0]['id']}")


def sent(gateway: LiveGateway, file: Path, count: int) -> http.client.HTTPConnection:
    """Announce all of it, and send so much."""
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=100)
    connection.putrequest("POST", "/api/v1/snapshots/import")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(file.stat().st_size))
    connection.endheaders()
    with file.open("rb") as source:
        for _ in range(count // MIB):
            connection.send(source.read(MIB))
    return connection


def test_an_upload_that_is_cut_leaves_nothing_and_can_be_sent_again(
    gateway: LiveGateway, call: Calls, file: Path
) -> None:
    before = known(call)
    for share in (0.1, 0.5, 0.99):
        sent(gateway, file, int(file.stat().st_size * share)).close()
    assert known(call) == before

    with SyncFaaSClient(gateway.url) as client:
        again = client.load_snapshot(file)

    assert known(call) == before | {again["id"]}
    call.post(f"/api/v1/snapshots/{again['id']}/verify")
    call.delete(f"/api/v1/snapshots/{again['id']}")


def test_a_gateway_killed_in_an_upload_has_no_half_of_it(
    gateway: LiveGateway, call: Calls, file: Path
) -> None:
    before = known(call)
    connection = sent(gateway, file, file.stat().st_size // 2)
    gateway.kill()
    connection.close()
    gateway.start()
    assert known(call) == before
    with SyncFaaSClient(gateway.url) as client:
        again = client.load_snapshot(file)
    call.post(f"/api/v1/snapshots/{again['id']}/verify")
    call.delete(f"/api/v1/snapshots/{again['id']}")


def test_a_gateway_killed_in_a_download_leaves_no_half_file(
    gateway: LiveGateway, large: dict, tmp_path: Path
) -> None:
    target = tmp_path / "file"

    def kill() -> None:
        while not any(path.stat().st_size > MIB for path in tmp_path.iterdir()):
            time.sleep(0.001)
        gateway.kill()

    killing = threading.Thread(target=kill)
    killing.start()
    with SyncFaaSClient(gateway.url) as client, pytest.raises(GatewayUnreachableError):
        client.save_snapshot(large["snapshot_id"], target)
    killing.join()
    assert list(tmp_path.iterdir()) == []
    gateway.start()
    with SyncFaaSClient(gateway.url) as client:
        assert client.save_snapshot(large["snapshot_id"], target) == target.stat().st_size


def test_a_client_that_leaves_a_download_holds_nothing(
    gateway: LiveGateway, call: Calls, file: Path
) -> None:
    with SyncFaaSClient(gateway.url) as client:
        made = client.load_snapshot(file)["id"]
    for _ in range(3):
        connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=100)
        connection.request("GET", f"/api/v1/snapshots/{made}/export")
        connection.getresponse().read(MIB)
        connection.close()
    call.delete(f"/api/v1/snapshots/{made}")
    assert call.get("/health")["status"] == "healthy"


def test_damaged_bytes_cut_the_download_and_are_never_sent_as_whole(
    gateway: LiveGateway, call: Calls, tmp_path: Path
) -> None:
    body = {"command": "head -c 30M /dev/urandom > /workspace/x", "mode": "checkpointed"}
    made = call.post("/api/v1/execute", body)["snapshot_id"]
    blobs = gateway.data_dir / "data" / "snapshots" / "blobs"
    newest = max((p for p in blobs.rglob("*") if p.stat().st_size > 4 * MIB), key=mtime)
    with newest.open("r+b") as blob:
        blob.seek(1000)
        byte = blob.read(1)[0]
        blob.seek(1000)
        blob.write(bytes([byte ^ 1]))
    with SyncFaaSClient(gateway.url) as client, pytest.raises(GatewayUnreachableError):
        client.save_snapshot(made, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    refused = call.post(f"/api/v1/snapshots/{made}/verify", fails=500)
    assert refused["code"] == "digest_mismatch"


def mtime(path: Path) -> int:
    return path.stat().st_mtime_ns
