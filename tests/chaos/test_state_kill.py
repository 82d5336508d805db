"""kill -9 of a real gateway while it keeps and forks state: no half snapshot, nothing lost or left.

`FAAS_CHAOS_ROUNDS=100` is the long run; `FAAS_CHAOS_SEED` repeats one.
"""

import os
import random
import threading
import time
import urllib.error
from pathlib import Path

import pytest
from tests.plugins.live_gateway import live_gateway

from faas_sdk import ClientConfig, FaaSError, SyncFaaSClient

ROUNDS = max(3, int(os.environ.get("FAAS_CHAOS_ROUNDS", "10")) // 3)
SEED = int(os.environ.get("FAAS_CHAOS_SEED", str(random.SystemRandom().randrange(1 << 32))))

pytestmark = pytest.mark.needs_root

GROW = (
    "n=$(cat /workspace/n 2>/dev/null || echo 0); echo $((n + 1)) > /workspace/n; cat /workspace/n"
)


def keep_and_fork(url: str, told: list[tuple[str, int]]) -> None:
    """Checkpoint and fork until the gateway dies; note every snapshot that was acknowledged."""
    with SyncFaaSClient(url, ClientConfig(base_url=url, max_retries=0)) as client:
        try:
            last = client.execute(GROW, mode="checkpointed")
            told.append((last.snapshot_id, int(last.stdout)))
            while True:
                parent, count = told[-1]
                last = client.execute(GROW, mode="checkpointed", snapshot_id=parent)
                assert int(last.stdout) == count + 1
                told.append((last.snapshot_id, count + 1))
                client.fork(client.execute("echo x > /tmp/x").request_id, ["cat /tmp/x"] * 2)
        except (FaaSError, urllib.error.URLError):
            return


def test_what_was_acknowledged_is_whole_after_any_kill() -> None:
    print(f"FAAS_CHAOS_SEED={SEED}")
    dice = random.Random(SEED)
    told: list[tuple[str, int]] = []
    with live_gateway(FAAS_RUNTIMES="embedded", FAAS_POOL_SIZE="2") as gateway:
        for _ in range(ROUNDS):
            worker = threading.Thread(target=keep_and_fork, args=(gateway.url, told))
            worker.start()
            time.sleep(dice.uniform(0.05, 0.8))
            gateway.kill()
            worker.join(60)
            assert not worker.is_alive()
            gateway.start()
            with SyncFaaSClient(gateway.url) as client:
                for snapshot_id, count in told[-3:]:
                    found = client.execute("cat /workspace/n", snapshot_id=snapshot_id)
                    assert int(found.stdout) == count
                for one in client.list_snapshots():
                    client.export_snapshot(one["id"])
            staged = Path(gateway.data_dir, "data", "snapshot-staging")
            assert not [path for path in staged.iterdir() if path.name.startswith("taken-")]
    assert told
