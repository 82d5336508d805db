"""The SDK's calls about state, against a real gateway process over the runtime in memory."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway

from faas_sdk import ExecutionNotFoundError, FaaSClient, SnapshotNotFoundError, SyncFaaSClient


@pytest.fixture(scope="module")
def process() -> Iterator[LiveGateway]:
    with live_gateway(FAAS_RUNTIMES="fake") as gateway:
        yield gateway


@pytest.fixture
async def client(process: LiveGateway) -> AsyncIterator[FaaSClient]:
    async with FaaSClient(process.url) as client:
        yield client


async def test_a_plain_execution_is_forked_as_the_platform_says(client: FaaSClient) -> None:
    base = await client.execute("true", files={"/tmp/state.txt": "initial"})
    child = await client.fork_execution(base.request_id, "echo child")
    assert (child.stdout, child.exit_code) == ("child\n", 0)


async def test_many_children_come_in_the_order_of_their_commands(client: FaaSClient) -> None:
    base = await client.execute("true")
    children = await client.fork(base.request_id, [f"echo {i}" for i in range(5)])
    assert [child.stdout for child in children] == [f"{i}\n" for i in range(5)]


async def test_a_fork_of_nothing_is_not_found(client: FaaSClient) -> None:
    with pytest.raises(ExecutionNotFoundError):
        await client.fork_execution("exec-01k9zjv3f8q5r2m7c4x6w0n1ab", "true")


async def test_the_first_that_passes_wins(client: FaaSClient) -> None:
    base = await client.execute("true")
    told = await client.race(base.request_id, ["exit 1", "true"], check="true")
    assert told["winner"] == told["children"][1]["request_id"]


async def test_branches_are_merged_and_told_apart(client: FaaSClient) -> None:
    base = await client.execute("true", mode="checkpointed", files={"/tmp/a": "a"})
    left, right = [
        await client.fork_execution(base.request_id, "true", files={f"/tmp/{name}": name})
        for name in ("left", "right")
    ]
    merged = await client.merge_branches([left.request_id, right.request_id])
    assert merged["conflicts"] == []
    changes = await client.diff_snapshots(base.request_id, merged["snapshot_id"])
    assert [change["path"] for change in changes] == ["tmp/left", "tmp/right"]


async def test_a_snapshot_is_kept_carried_away_and_brought_back(client: FaaSClient) -> None:
    ran = await client.execute("true", files={"/tmp/a": "a"})
    kept = await client.create_snapshot(ran.request_id, name="base")
    assert kept["id"] in [one["id"] for one in await client.list_snapshots()]
    back = await client.import_snapshot(await client.export_snapshot(kept["id"]))
    assert (await client.get_snapshot(back["id"]))["size_bytes"] == 1
    await client.delete_snapshot(back["id"])


async def test_a_cached_result_is_told_as_a_hit(client: FaaSClient) -> None:
    results = [await client.execute("echo once", mode="cached") for _ in range(2)]
    assert [result.cache_hit for result in results] == [False, True]


async def test_a_snapshot_is_carried_by_file_tagged_checked_and_kept_for_a_time(
    client: FaaSClient, tmp_path: Path
) -> None:
    ran = await client.execute("true", files={"/tmp/a": "a" * 5000})
    kept = await client.create_snapshot(ran.request_id, tags=["old"], keep_seconds=3600)
    assert (kept["tags"], kept["expires_at"] is None) == (["old"], False)
    size = await client.save_snapshot(kept["id"], tmp_path / "file")
    assert size == (tmp_path / "file").stat().st_size
    back = await client.load_snapshot(tmp_path / "file")
    assert (back["size_bytes"], back["expires_at"]) == (5000, None)
    told = await client.tag_snapshot(back["id"], name="mine", tags=["new"])
    assert (told["name"], told["tags"]) == ("mine", ["new"])
    await client.verify_snapshot(back["id"])
    assert await client.collect_garbage() == 0


def test_a_snapshot_is_carried_by_file_without_async(process: LiveGateway, tmp_path: Path) -> None:
    with SyncFaaSClient(process.url) as client:
        ran = client.execute("true", files={"/tmp/a": "a"})
        kept = client.create_snapshot(ran.request_id)
        client.save_snapshot(kept["id"], tmp_path / "file")
        assert client.load_snapshot(tmp_path / "file")["id"] != kept["id"]
        with pytest.raises(SnapshotNotFoundError):
            client.save_snapshot("snap-01k9zjv3f8q5r2m7c4x6w0n1ab", tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_more_snapshots_than_a_page_are_listed_whole(client: FaaSClient) -> None:
    ran = await client.execute("true", mode="checkpointed")
    before = len(await client.list_snapshots())
    await client.fork(ran.request_id, ["true"] * 100, mode="checkpointed")
    await client.fork(ran.request_id, ["true"] * 20, mode="checkpointed")
    assert len(await client.list_snapshots()) == before + 120
