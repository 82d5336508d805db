"""kill -9 of a real gateway while it keeps, forks, merges, moves and removes state.

No snapshot is half there, nothing that was acknowledged is lost, nothing that was removed comes
back, and nothing is left over: neither on the host nor in the store. Every second life has an S3
server behind it. `FAAS_CHAOS_ROUNDS=100` is the long run; `FAAS_CHAOS_SEED` repeats one.
"""

import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.plugins.live_gateway import LiveGateway
from tests.plugins.s3 import AWS, make_bucket, s3_server

from faas.blobs.tiered import TieredBlobStore
from faas.blobs.urls import open_refs, open_store
from faas.clock import SystemClock
from faas.data_dir import DataDir
from faas.snapshots import SnapshotStore
from faas_sdk import ClientConfig, FaaSError, SyncFaaSClient

ROUNDS = int(os.environ.get("FAAS_CHAOS_ROUNDS", "6"))
SEED = int(os.environ.get("FAAS_CHAOS_SEED", str(random.SystemRandom().randrange(1 << 32))))
WORKERS = 2
PATIENCE_SECONDS = 60

pytestmark = pytest.mark.needs_root

GROW = "n=$(cat /workspace/n 2>/dev/null || echo 0); echo $((n + 1)) > /workspace/n;"
GROW += " head -c 40000 /dev/urandom > /workspace/r{}; cat /workspace/n"


class Worker:
    """One client: it knows what it was told, and what it asked to go."""

    def __init__(self, dice: random.Random, folder: Path) -> None:
        self._dice = dice
        self._folder = folder
        self.counts: dict[str, int] = {}
        """Of each snapshot that was acknowledged: what its file says."""
        self.gone: set[str] = set()
        """Their removal was acknowledged."""
        self.doubtful: set[str] = set()
        """Their removal was asked for and not answered."""
        self.steps = 0
        self.failure: BaseException | None = None

    def work(self, url: str) -> None:
        """Go on until the gateway dies."""
        config = ClientConfig(base_url=url, max_retries=0, timeout=PATIENCE_SECONDS)
        with SyncFaaSClient(url, config) as client:
            try:
                while True:
                    self._dice.choice(
                        [self.keep, self.keep, self.fork, self.merge, self.remove, self.carry]
                    )(client)
                    self.steps += 1
            except FaaSError as broken:
                if broken.code not in ("gateway_unreachable", "unavailable"):
                    self.failure = broken
            except BaseException as broken:
                self.failure = broken

    def some(self) -> str | None:
        known = sorted(self.counts.keys() - self.doubtful)
        return self._dice.choice(known) if known else None

    def keep(self, client: SyncFaaSClient) -> None:
        parent = self.some()
        more = {} if parent is None else {"snapshot_id": parent}
        kept = client.execute(GROW.format(self._dice.randrange(5)), mode="checkpointed", **more)
        count = self.counts[parent] + 1 if parent else 1
        assert (kept.exit_code, int(kept.stdout)) == (0, count)
        self.counts[kept.snapshot_id] = count

    def fork(self, client: SyncFaaSClient) -> None:
        base = client.execute("echo x > /tmp/x").request_id
        children = client.fork(base, ["cat /tmp/x"] * 3, mode="checkpointed")
        assert [child.stdout for child in children] == ["x\n"] * 3

    def merge(self, client: SyncFaaSClient) -> None:
        parent = self.some()
        if parent is None:
            return
        children = client.fork(parent, [GROW.format(n) for n in (5, 6)], mode="checkpointed")
        for child in children:
            self.counts[child.snapshot_id] = int(child.stdout)
        told = client.merge_branches([child.snapshot_id for child in children], strategy="ours")
        self.counts[told["snapshot_id"]] = int(children[0].stdout)

    def remove(self, client: SyncFaaSClient) -> None:
        one = self.some()
        if one is None or len(self.counts) < 6:
            return
        self.doubtful.add(one)
        try:
            client.delete_snapshot(one)
        except FaaSError as refused:
            if refused.code == "conflict":
                self.doubtful.discard(one)
                return
            raise
        self.doubtful.discard(one)
        self.gone.add(one)
        del self.counts[one]

    def carry(self, client: SyncFaaSClient) -> None:
        one = self.some()
        if one is None:
            return
        file = self._folder / f"{id(self)}"
        client.save_snapshot(one, file)
        self.counts[client.load_snapshot(file)["id"]] = self.counts[one]

    def check(self, client: SyncFaaSClient, *, everything: bool) -> None:
        """What was told is there and says what it said; what went stays away."""
        there = {one["id"] for one in client.list_snapshots()}
        assert not there & self.gone
        lost = self.counts.keys() - self.doubtful - there
        assert not lost, f"acknowledged, and lost: {lost}"
        for one in self.doubtful - there:
            del self.counts[one]
        self.doubtful.clear()
        newest = list(self.counts.items())
        for snapshot_id, count in newest if everything else newest[-3:]:
            found = client.execute("cat /workspace/n", snapshot_id=snapshot_id)
            assert int(found.stdout) == count


@pytest.fixture
def gateway(nothing_left: Callable[..., None]) -> Iterator[Callable[..., LiveGateway]]:
    directory = Path(tempfile.mkdtemp(prefix="faas-t-", dir="/tmp"))
    held = DataDir.hold(directory / "data")
    tag = held.tag
    held.release()
    nothing_left(tag=tag, data_dir=directory / "data")
    opened: list[LiveGateway] = []

    def open_gateway(**settings: str) -> LiveGateway:
        opened.append(LiveGateway(directory, **settings))
        opened[0].start()
        return opened[0]

    yield open_gateway
    if opened and opened[0].is_running:
        opened[0].stop()
    shutil.rmtree(directory)


@pytest.mark.parametrize("is_tiered", [False, True], ids=["local", "s3"])
@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_what_was_acknowledged_is_whole_after_any_kill(
    gateway: Callable[..., LiveGateway], tmp_path: Path, *, is_tiered: bool
) -> None:
    print(f"FAAS_CHAOS_SEED={SEED}")
    dice = random.Random(SEED + is_tiered)
    settings = {"FAAS_RUNTIMES": "embedded", "FAAS_POOL_SIZE": "2"}
    if not is_tiered:
        live(gateway(**settings), dice, tmp_path, url=None)
        return
    with s3_server() as endpoint:
        make_bucket(endpoint, "chaos")
        url = f"s3://chaos?endpoint={endpoint}"
        live(gateway(**settings, FAAS_OBJECT_STORE_URL=url, **AWS), dice, tmp_path, url=url)


def until_done(workers: list[Worker], more: int) -> None:
    """So many further steps: on a slow machine a kill would else always meet the first."""
    wanted = sum(one.steps for one in workers) + more
    gives_up_at = time.monotonic() + PATIENCE_SECONDS / 2
    while sum(one.steps for one in workers) < wanted and time.monotonic() < gives_up_at:
        time.sleep(0.01)


def live(running: LiveGateway, dice: random.Random, folder: Path, *, url: str | None) -> None:
    workers = [Worker(random.Random(dice.random()), folder) for _ in range(WORKERS)]
    data = running.data_dir / "data"
    for number in range(max(1, ROUNDS // 2)):
        threads = [threading.Thread(target=one.work, args=(running.url,)) for one in workers]
        for thread in threads:
            thread.start()
        until_done(workers, dice.randrange(4))
        time.sleep(dice.uniform(0, 0.4))
        running.kill()
        for thread in threads:
            thread.join(2 * PATIENCE_SECONDS)
            assert not thread.is_alive()
        running.start()
        with SyncFaaSClient(running.url) as client:
            for one in workers:
                assert one.failure is None, (number, one.failure)
                one.check(client, everything=False)
    with SyncFaaSClient(running.url) as client:
        for one in workers:
            one.check(client, everything=True)
    assert sum(one.steps for one in workers) > ROUNDS // 4
    assert running.stop() == 0
    assert not list((data / "snapshot-staging").iterdir())
    # In a process of its own: what a bucket's client keeps open is no leak of the gateway's.
    apart = subprocess.run(
        [sys.executable, "-m", "tests.chaos.test_state_kill", data, *([url] if url else [])],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=PATIENCE_SECONDS + ROUNDS,
        check=False,
    )
    assert apart.returncode == 0, apart.stderr.decode()[-4000:]


async def look_into(data: Path, url: str | None) -> None:
    """With no gateway there: every record is whole, and what no record names can be collected."""
    root = data / "snapshots"
    aws = AWS if url else {}
    blobs = open_store(root / "blobs", url=url, aws=aws)
    refs = open_refs(root / "refs", url=url, aws=aws)
    store = SnapshotStore(blobs=blobs, refs=refs, clock=SystemClock())
    needed: set[str] = set()
    for record in await store.page(limit=100_000):
        await store.verify(record.id)
        needed |= {record.manifest, *(await store.manifest(record.id)).packs}
    await store.collect_garbage(grace=timedelta(0))
    tiers = [blobs.near, blobs.far] if isinstance(blobs, TieredBlobStore) else [blobs]
    for tier in tiers:
        assert {stat.digest async for stat in tier.list()} == needed
    assert not list(root.rglob(".new-*"))
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(look_into(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
