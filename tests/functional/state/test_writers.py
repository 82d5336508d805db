"""Several snapshots are written at once to a real disk by a process that is killed meanwhile."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from faas.blobs.local import LocalBlobStore
from faas.blobs.refs import LocalRefStore
from faas.clock import SystemClock
from faas.ids import TenantId
from faas.snapshots import SnapshotInfo, SnapshotStore

ROUNDS = 6
WRITERS = 3
INFO = SnapshotInfo(tenant=TenantId("t"), image_digest="host")
SHARED_BYTES, OWN_BYTES = 12 << 20, 1 << 20


def open_store(root: Path) -> SnapshotStore:
    return SnapshotStore(
        blobs=LocalBlobStore(root / "blobs"),
        refs=LocalRefStore(root / "refs"),
        clock=SystemClock(),
        index=root / "chunks.sqlite",
    )


def make_tree(folder: Path, shared: bytes) -> Path:
    folder.mkdir()
    (folder / "shared").write_bytes(shared)
    (folder / "own").write_bytes(os.urandom(OWN_BYTES))
    return folder


async def write_until_killed(root: Path) -> None:
    """The process that dies: writers share half of what they write, and some is removed again."""
    store, turn = open_store(root), 0
    await store.start()

    async def write(name: str, shared: bytes) -> None:
        tree = make_tree(root / name, shared)
        record = await store.commit(INFO, {"files": tree})
        print("kept", record.id, flush=True)
        if name.endswith("-0"):
            print("removing", record.id, flush=True)
            await store.remove(record.id)
            await store.collect_garbage(grace=timedelta(0))

    while True:
        turn += 1
        shared = os.urandom(SHARED_BYTES)
        writers = (write(f"tree-{os.getpid()}-{turn}-{n}", shared) for n in range(WRITERS))
        await asyncio.gather(*writers)


async def test_a_kill_among_writers_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    dice = random.Random()
    told: set[str] = set()
    for _ in range(ROUNDS):
        argv = [sys.executable, __file__, str(tmp_path / "store")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writing:
            assert writing.stdout is not None
            first = writing.stdout.readline()
            time.sleep(dice.random() * 0.5)
            writing.send_signal(signal.SIGKILL)
            for line in (first, *writing.stdout):
                word, snapshot_id = line.split()
                (told.add if word == "kept" else told.discard)(snapshot_id)
        store = open_store(tmp_path / "store")
        await store.start()
        there = {record.id for record in await store.page(limit=10_000)}
        assert told <= there
        await store.collect_garbage(grace=timedelta(0))
        needed = set[str]()
        for record in await store.page(limit=10_000):
            await store.verify(record.id)
            needed |= {record.manifest, *(await store.manifest(record.id)).packs}
        assert {stat.digest async for stat in store.blobs.list()} == needed
        await store.aclose()
        assert not list((tmp_path / "store").rglob(".new-*"))


async def test_more_readers_than_threads_come_to_their_end(tmp_path: Path) -> None:
    """A reader waits in a thread for blobs, which are read in threads too."""
    store = open_store(tmp_path / "store")
    record = await store.commit(INFO, {"files": make_tree(tmp_path / "tree", b"x" * OWN_BYTES)})
    count = 4 * (os.cpu_count() or 1) + 8
    async with asyncio.timeout(60):
        await asyncio.gather(
            *(store.check_out(record.id, "files", tmp_path / f"out{n}") for n in range(count))
        )
    assert (tmp_path / f"out{count - 1}/own").read_bytes() == (tmp_path / "tree/own").read_bytes()
    await store.aclose()


async def test_a_small_snapshot_does_not_wait_for_a_large_one(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    large = tmp_path / "large"
    large.mkdir()
    (large / "f").write_bytes(os.urandom(64 << 20))
    small = make_tree(tmp_path / "small", b"")
    writing = asyncio.create_task(store.commit(INFO, {"files": large}))
    await asyncio.sleep(0)
    await store.commit(INFO, {"files": small})
    assert not writing.done()
    await store.verify((await writing).id)
    await store.aclose()


async def test_who_gives_up_a_snapshot_leaves_the_next_a_sound_store(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    tree = make_tree(tmp_path / "tree", os.urandom(4 * SHARED_BYTES))
    writing = asyncio.create_task(store.commit(INFO, {"files": tree}))
    while not [stat async for stat in store.blobs.list()]:
        await asyncio.sleep(0.001)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await store.collect_garbage(grace=timedelta(0))
    assert [stat async for stat in store.blobs.list()] == []
    await store.verify((await store.commit(INFO, {"files": tree})).id)
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(write_until_killed(Path(sys.argv[1])))
