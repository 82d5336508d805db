"""Two gateways, one bucket on a real S3 server: what one keeps the other restores."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.plugins.live_gateway import live_gateway

from faas_sdk import FaaSClient

AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@pytest.fixture
def bucket() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = shutil.which("moto_server") or str(Path(sys.executable).parent / "moto_server")
    process = subprocess.Popen(
        [server, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(
                    urllib.request.Request(f"{endpoint}/kept", method="PUT"), timeout=5
                ).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield f"s3://kept/state?endpoint={endpoint}"
    finally:
        process.terminate()
        process.wait(10)


async def test_what_one_gateway_keeps_another_restores(bucket: str) -> None:
    settings = {"FAAS_RUNTIMES": "fake", "FAAS_OBJECT_STORE_URL": bucket, **AWS}
    with live_gateway(**settings) as one, live_gateway(**settings) as two:
        async with FaaSClient(one.url) as first, FaaSClient(two.url) as second:
            kept = await first.execute("true", mode="checkpointed", files={"/tmp/a": "travels"})
            assert kept.snapshot_id in [s["id"] for s in await second.list_snapshots()]
            for reference in (kept.snapshot_id, kept.request_id):
                ran = await second.execute("true", mode="checkpointed", snapshot_id=reference)
                assert await second.diff_snapshots(kept.snapshot_id, ran.snapshot_id) == []
