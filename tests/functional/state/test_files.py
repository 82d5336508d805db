"""Forks and checkpoints in real sandboxes: every file as the parent left it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faas.assembly import Platform, open_platform
from faas.config import Settings
from faas.model import ExecutionRecord, ExecutionSpec, Mode
from faas.snapshots import MergeStrategy
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL

pytestmark = pytest.mark.needs_root

BASE = """
echo initial state > /tmp/state.txt
echo test data > /tmp/data.txt
mkdir -p /tmp/test_dir /data && echo directory content > /tmp/test_dir/file.txt
ln -s state.txt /tmp/link; echo run > /tmp/run.sh; chmod 750 /tmp/run.sh
echo top > /data/top; head -c 300000 /dev/zero | tr '\\0' x > /workspace/big
"""
LOOK = """
cat /tmp/state.txt /tmp/data.txt /tmp/test_dir/file.txt /tmp/link /data/top
stat -c %a /tmp/run.sh /tmp /root; wc -c < /workspace/big
"""


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as directory:
        settings = Settings(data_dir=Path(directory), runtimes=("embedded",), pool_size=2)
        async with open_platform(settings) as platform:
            yield platform


async def run(platform: Platform, script: str, **fields: object) -> ExecutionRecord:
    image = "" if "branch_from" in fields or "snapshot_id" in fields else "host"
    spec = ExecutionSpec(argv=("sh", "-c", script), image=image, **fields)  # type: ignore[arg-type]
    return await platform.executor.execute(spec, LOCAL)


def said(record: ExecutionRecord) -> str:
    assert record.result is not None
    assert record.result.exit_code == 0, record.result.stderr
    return record.result.stdout.decode()


async def test_a_fork_finds_all_its_parent_left(platform: Platform) -> None:
    base = await run(platform, BASE)
    seen = said(await run(platform, LOOK, mode=Mode.BRANCHED, branch_from=base.id))
    assert seen.split("\n") == [
        "initial state", "test data", "directory content", "initial state", "top",
        "750", "1777", "700", "300000", "",
    ]  # fmt: skip


async def test_a_fork_of_a_fork_and_its_siblings_are_apart(platform: Platform) -> None:
    base = await run(platform, BASE)
    children = await asyncio.gather(
        *(
            run(
                platform,
                f"echo {i} >> /tmp/state.txt; cat /tmp/state.txt",
                mode=Mode.BRANCHED,
                branch_from=base.id,
            )
            for i in range(4)
        )
    )
    assert [said(child) for child in children] == [f"initial state\n{i}\n" for i in range(4)]
    grandchild = await run(
        platform, "cat /tmp/state.txt", mode=Mode.BRANCHED, branch_from=children[3].id
    )
    assert said(grandchild) == "initial state\n3\n"


async def test_what_a_child_removes_is_gone_for_its_child_too(platform: Platform) -> None:
    base = await run(platform, BASE)
    child = await run(platform, "rm /tmp/state.txt", mode=Mode.BRANCHED, branch_from=base.id)
    seen = said(await run(platform, "ls /tmp", mode=Mode.BRANCHED, branch_from=child.id))
    assert seen.split() == ["data.txt", "link", "run.sh", "test_dir"]


async def test_a_checkpoint_runs_on_again_and_again(platform: Platform) -> None:
    count = "n=$(cat /tmp/n 2>/dev/null || echo 0); echo $((n + 1)) | tee /tmp/n"
    record = await run(platform, count, mode=Mode.CHECKPOINTED)
    for expected in ("2\n", "3\n"):
        record = await run(platform, count, mode=Mode.CHECKPOINTED, snapshot_id=record.id)
        assert said(record) == expected


async def test_a_running_command_is_forked_as_it_stands(platform: Platform) -> None:
    spec = ExecutionSpec(argv=("sh", "-c", "echo on > /tmp/on; echo up; sleep 60"), image="host")
    begun = await platform.executor.submit(spec, LOCAL)
    logs = platform.executor.logs(begun.id, LOCAL)
    while logs.progress().stdout_bytes == 0:
        await logs.changed(logs.progress())
    child = await run(platform, "cat /tmp/on", mode=Mode.BRANCHED, branch_from=begun.id)
    assert said(child) == "on\n"
    await platform.executor.cancel(begun.id, LOCAL)


async def test_an_image_child_has_changes_and_deletions(platform: Platform, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("usr/bin", "bin", "etc", "tmp", "opt"):
        (tree / name).mkdir(parents=True)
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("needs busybox-static")
    (tree / "bin/busybox").write_bytes(busybox.read_bytes())
    (tree / "bin/busybox").chmod(0o755)
    for word in ("sh", "cat", "rm", "ls", "echo"):
        (tree / "bin" / word).symlink_to("busybox")
    (tree / "opt/old").write_text("old\n")
    (tree / "opt/gone").write_text("gone\n")
    await platform.images.import_("tiny:1", tree)

    spec = ExecutionSpec(
        argv=("/bin/sh", "-c", "echo newer > /opt/old; rm /opt/gone; echo x > /opt/added"),
        image="tiny:1",
    )
    base = await platform.executor.execute(spec, LOCAL)
    assert base.result is not None
    assert base.result.exit_code == 0, base.result.stderr
    child = await run(platform, "ls /opt; cat /opt/old", mode=Mode.BRANCHED, branch_from=base.id)

    assert said(child) == "added\nold\nnewer\n"
    await platform.executor.origins.settle(base.id)
    kept = await platform.executor.origins.snapshots.manifest(base.id)
    paths = {entry.path for entry in kept.sections["files"] if entry.kind != "d"}
    assert {"opt/old", "opt/gone", "opt/added"} <= paths
    assert "bin/busybox" not in paths


async def test_a_fresh_sandbox_has_nothing_to_keep(platform: Platform) -> None:
    kept = await run(platform, "true", mode=Mode.CHECKPOINTED)
    entries = (await platform.executor.origins.snapshots.manifest(kept.id)).sections["files"]
    assert entries == ()


async def test_a_merge_leaves_the_images_own_directories_as_they_are(platform: Platform) -> None:
    base = await run(platform, BASE)
    origins = platform.executor.origins
    branches = []
    for name in ("left", "right"):
        child = await run(
            platform, f"echo {name} > /tmp/{name}", mode=Mode.BRANCHED, branch_from=base.id
        )
        branches.append((await origins.snapshot_of(child.id, LOCAL)).id)
    merged, _ = await origins.snapshots.merge(
        branches, strategy=MergeStrategy.UNION, tenant=LOCAL.tenant.id, name=None
    )
    seen = said(
        await run(platform, "cat /tmp/left /tmp/right; stat -c %a /tmp", snapshot_id=merged.id)
    )
    assert seen == "left\nright\n1777\n"
