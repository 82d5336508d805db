"""State of containers: kept, forked, and carried between docker and embedded."""

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.plugins.docker import docker_engine, script

from faas.assembly import Platform, open_platform
from faas.clock import SystemClock
from faas.config import Settings
from faas.errors import StoreUnavailableError, UnsupportedError
from faas.executor.instance_records import InstanceSpec
from faas.ids import new_sandbox_id
from faas.model import ExecutionRecord, ExecutionSpec, Limits, Mode, RuntimeChoice
from faas.sandbox.guarded import create_guarded
from faas.sandbox.protocols import SandboxSpec
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL

__all__ = ["docker_engine"]
pytestmark = [pytest.mark.needs_docker, pytest.mark.needs_root, pytest.mark.timeout(180)]
DOCKER, EMBEDDED = RuntimeChoice.DOCKER, RuntimeChoice.EMBEDDED


@pytest.fixture
async def platform(docker_engine: str) -> AsyncIterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as directory:
        settings = Settings(
            data_dir=Path(directory), runtimes=("embedded", "docker"), docker_host=docker_engine,
            pool_size=0, default_image="alpine",
        )  # fmt: skip
        async with open_platform(settings) as platform:
            await platform.images.import_("alpine", Path(script("test_images.sh", "alpine")))
            yield platform


async def run(
    platform: Platform, runtime: RuntimeChoice, text: str, **fields: object
) -> ExecutionRecord:
    image = "" if "snapshot_id" in fields or "branch_from" in fields else "alpine"
    spec = ExecutionSpec(argv=("sh", "-c", text), image=image, runtime=runtime, **fields)  # type: ignore[arg-type]
    return await platform.executor.execute(spec, LOCAL)


def said(record: ExecutionRecord) -> str:
    assert record.result is not None
    assert record.result.exit_code == 0, record.result.stderr
    return record.result.stdout.decode()


WORK = "mkdir /workspace/d; echo a > /workspace/d/a; ln -s d/a /workspace/l; echo t > /tmp/t"
SEE = "cat /workspace/l /tmp/t; stat -c '%n %a %F' /workspace/d /workspace/d/a"


async def test_a_container_is_kept_and_runs_on(platform: Platform) -> None:
    base = await run(platform, DOCKER, WORK, mode=Mode.CHECKPOINTED)
    child = await run(platform, DOCKER, SEE, snapshot_id=base.id)
    assert said(child).splitlines()[:2] == ["a", "t"]
    assert child.result.runtime_used == "docker"


async def test_children_of_an_ended_container_are_apart(platform: Platform) -> None:
    base = await run(platform, DOCKER, WORK)
    add = "echo {} >> /workspace/d/a; cat /workspace/d/a"
    children = await asyncio.gather(
        *(
            run(platform, DOCKER, add.format(i), branch_from=base.id, mode=Mode.BRANCHED)
            for i in range(3)
        )
    )
    assert [said(child) for child in children] == [f"a\n{i}\n" for i in range(3)]


async def test_children_of_an_ended_container_do_not_wait_for_its_snapshot(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots, may_write = platform.executor.origins.snapshots, asyncio.Event()
    commit = snapshots.commit

    async def late(*arguments, **more):
        await may_write.wait()
        return await commit(*arguments, **more)

    monkeypatch.setattr(snapshots, "commit", late)
    base = await run(platform, DOCKER, WORK)
    children = await asyncio.gather(
        *(run(platform, DOCKER, SEE, branch_from=base.id, mode=Mode.BRANCHED) for _ in range(3))
    )
    assert {said(child) for child in children} == {said(children[0])}
    assert said(children[0]).startswith("a\nt\n")
    elsewhere = asyncio.create_task(
        run(platform, EMBEDDED, SEE, branch_from=base.id, mode=Mode.BRANCHED)
    )
    await asyncio.sleep(0.2)
    assert not elsewhere.done()  # it has no container to be given them in
    may_write.set()
    assert said(await elsewhere) == said(children[0])
    kept = await snapshots.get(children[0].spec.snapshot_id)
    assert kept.source == base.id


@pytest.mark.parametrize(("kept_by", "restored_by"), [(DOCKER, EMBEDDED), (EMBEDDED, DOCKER)])
async def test_what_one_runtime_keeps_the_other_restores(
    platform: Platform, kept_by: RuntimeChoice, restored_by: RuntimeChoice
) -> None:
    base = await run(platform, kept_by, WORK, mode=Mode.CHECKPOINTED)
    record = await platform.executor.origins.snapshots.get(base.id)
    assert set(record.runtimes) == {"docker", "embedded"}

    child = await run(platform, restored_by, SEE, snapshot_id=base.id)

    assert child.result is not None
    assert child.result.runtime_used == restored_by.value
    assert said(child) == said(await run(platform, kept_by, SEE, snapshot_id=base.id))


async def test_what_docker_cannot_write_is_refused_by_name(platform: Platform) -> None:
    base = await run(platform, EMBEDDED, "echo x > /etc/mine", mode=Mode.CHECKPOINTED)
    record = await platform.executor.origins.snapshots.get(base.id)
    assert record.runtimes == ("embedded",)
    with pytest.raises(UnsupportedError, match="etc/mine"):
        await run(platform, DOCKER, "true", snapshot_id=base.id)


async def test_a_full_disk_of_ours_is_told_and_the_container_goes_on(
    platform: Platform, tmp_path: Path
) -> None:
    runtime = platform.registry.get("docker")
    root = platform.images.store.resolve("alpine")
    sandbox = await create_guarded(
        runtime, SandboxSpec(new_sandbox_id(), root), clock=SystemClock(),
        events=platform.events, seconds_max=30,
    )  # fmt: skip
    await sandbox.write_file("/workspace/f", b"x" * (4 << 20))
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    await asyncio.to_thread(subprocess.run, mount, check=True)
    try:
        with pytest.raises(StoreUnavailableError, match="No space left"):
            async with asyncio.timeout(20):
                await sandbox.save_archive("/workspace", tmp_path / "tar")
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "-l", str(tmp_path)], check=True)
    assert sandbox.is_alive
    assert len(await sandbox.read_file("/workspace/f")) == 4 << 20
    await sandbox.destroy("tested")


async def test_memory_is_refused_by_name_and_nothing_runs(platform: Platform) -> None:
    before = platform.executor.stats().finished
    with pytest.raises(UnsupportedError, match="memory that is kept"):
        await run(platform, DOCKER, "true", mode=Mode.CHECKPOINTED, memory=True)
    assert platform.executor.stats().finished == before


async def test_an_instance_in_a_container_is_kept(platform: Platform) -> None:
    instances = platform.executor.instances
    made = await instances.create(
        InstanceSpec(image="alpine", runtime=DOCKER, limits=Limits()), LOCAL
    )
    said(await run(platform, DOCKER, WORK, mode=Mode.PERSISTENT, instance_id=made.id))
    taken = await instances.snapshot(made.id, LOCAL)
    await instances.delete(made.id, LOCAL)
    assert said(await run(platform, EMBEDDED, SEE, snapshot_id=taken.id)).startswith("a\nt\n")
