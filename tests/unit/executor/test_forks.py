"""Checkpoints, branches and forks: a child has its parent's files, and nobody else's."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from faas.errors import (
    ExecutionNotFoundError,
    InvalidArgumentError,
    SnapshotNotFoundError,
)
from faas.executor.settings import ExecutorSettings
from faas.ids import TenantId, new_execution_id
from faas.model import ExecutionSpec, ExitReason, FileInput, Mode
from faas.snapshots import MergeStrategy
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL
from faas.tenancy import Principal, Scope, Tenant

OTHER = Principal(Tenant(TenantId("other")), frozenset({Scope.EXECUTE}))
STATE = FileInput("/tmp/state.txt", b"initial state")


def sh(script="true", **fields):
    return ExecutionSpec(argv=("sh", "-c", script), image=fields.pop("image", "host"), **fields)


def branch(parent, script="true", **fields):
    return sh(script, image="", mode=Mode.BRANCHED, branch_from=parent, **fields)


async def files_of(platform, execution_id):
    record = await platform.executor.origins.snapshot_of(execution_id, LOCAL)
    entries = (await platform.snapshots.manifest(record.id)).sections["files"]
    return {e.path for e in entries if e.kind == "f"}


async def test_a_plain_execution_can_be_forked_for_a_while(platform):
    parent = await platform.executor.execute(sh(files=(STATE,)), LOCAL)
    child = await platform.executor.execute(branch(parent.id), LOCAL)
    assert child.result.exit_code == 0
    assert await files_of(platform, child.id) == {"tmp/state.txt"}


async def test_a_child_inherits_image_environment_and_working_directory(platform):
    parent = await platform.executor.execute(
        sh(image="alpine", env=(("A", "1"), ("B", "2")), working_dir="/tmp"), LOCAL
    )
    child = await platform.executor.execute(branch(parent.id, env=(("B", "3"),)), LOCAL)
    spec = child.spec
    assert (spec.image, spec.working_dir, dict(spec.env)) == (
        "alpine",
        "/tmp",
        {"A": "1", "B": "3"},
    )


async def test_ten_forks_at_once_read_the_parent_once(platform):
    parent = await platform.executor.execute(sh(files=(STATE,)), LOCAL)
    children = await asyncio.gather(
        *(platform.executor.execute(branch(parent.id), LOCAL) for _ in range(10))
    )
    assert len({child.spec.snapshot_id for child in children}) == 1


async def test_too_late_a_fork_is_told_how_to_be_in_time(open_platform):
    platform = await open_platform(parked_max=1)
    parent = await platform.executor.execute(sh(files=(STATE,)), LOCAL)
    await platform.executor.execute(sh(), LOCAL)
    with pytest.raises(SnapshotNotFoundError) as caught:
        await platform.executor.execute(branch(parent.id), LOCAL)
    assert "checkpointed" in caught.value.hint
    await platform.executor.aclose()


async def test_an_unknown_parent_is_not_found(platform):
    with pytest.raises(ExecutionNotFoundError):
        await platform.executor.execute(branch(new_execution_id()), LOCAL)


async def test_another_tenants_parent_is_not_found(platform):
    parent = await platform.executor.execute(sh(files=(STATE,)), LOCAL)
    with pytest.raises(ExecutionNotFoundError):
        await platform.executor.execute(branch(parent.id), OTHER)
    kept = await platform.executor.execute(sh(mode=Mode.CHECKPOINTED), LOCAL)
    with pytest.raises(SnapshotNotFoundError):
        await platform.executor.execute(branch(kept.result.snapshot_id), OTHER)


async def test_branched_needs_a_parent(platform):
    with pytest.raises(InvalidArgumentError, match="branch_from required"):
        await platform.executor.execute(sh(mode=Mode.BRANCHED), LOCAL)


async def test_a_checkpoint_is_found_by_both_ids_and_runs_on(platform):
    parent = await platform.executor.execute(sh(mode=Mode.CHECKPOINTED, files=(STATE,)), LOCAL)
    for reference in (parent.id, parent.result.snapshot_id):
        child = await platform.executor.execute(
            sh(mode=Mode.CHECKPOINTED, snapshot_id=reference), LOCAL
        )
        assert await files_of(platform, child.id) == {"tmp/state.txt"}


async def test_an_unknown_snapshot_is_told(platform):
    with pytest.raises(SnapshotNotFoundError, match="Snapshot not found"):
        await platform.executor.execute(sh(snapshot_id="snap-nowhere"), LOCAL)


async def test_a_checkpoint_outlives_the_gateway(platform):
    parent = await platform.executor.execute(sh(mode=Mode.CHECKPOINTED, files=(STATE,)), LOCAL)
    await platform.executor.aclose()
    again = await platform.reopen()
    child = await again.executor.execute(branch(parent.id), LOCAL)
    assert await files_of(again, child.id) == {"tmp/state.txt"}
    await again.executor.aclose()


async def test_a_checkpoint_begun_by_a_dead_gateway_is_finished_by_the_next(platform):
    spec = sh("sleep 5", mode=Mode.CHECKPOINTED, files=(STATE,))
    begun = await platform.executor.submit(spec, LOCAL)
    await asyncio.sleep(0.05)
    await platform.crash()
    again = await platform.reopen()
    waiting = asyncio.ensure_future(again.executor.wait(begun.id, LOCAL))
    await platform.clock.advance(6)
    record = await waiting
    assert record.result.reason is ExitReason.EXITED
    assert await files_of(again, record.result.snapshot_id) == {"tmp/state.txt"}
    await again.executor.aclose()


async def test_a_running_execution_can_be_forked(platform):
    begun = await platform.executor.submit(sh("sleep 5", files=(STATE,)), LOCAL)
    while platform.executor.stats().running == 0 or not platform.host.started:
        await asyncio.sleep(0)
    child = await platform.executor.execute(branch(begun.id), LOCAL)
    assert await files_of(platform, child.id) == {"tmp/state.txt"}
    await platform.executor.cancel(begun.id, LOCAL)


async def test_siblings_do_not_see_each_others_files(platform):
    parent = await platform.executor.execute(sh(files=(STATE,)), LOCAL)
    for name in ("a", "b"):
        child = await platform.executor.execute(
            branch(parent.id, files=(FileInput(f"/tmp/{name}", b"x"),)), LOCAL
        )
        assert await files_of(platform, child.id) == {"tmp/state.txt", f"tmp/{name}"}


async def test_branches_are_merged_against_their_parent(platform):
    parent = await platform.executor.execute(sh(files=(STATE,)), LOCAL)
    ids = []
    for name in ("a", "b"):
        child = await platform.executor.execute(
            branch(parent.id, files=(FileInput(f"/tmp/{name}", b"x"),)), LOCAL
        )
        ids.append((await platform.executor.origins.snapshot_of(child.id, LOCAL)).id)
    record, merged = await platform.snapshots.merge(
        ids, strategy=MergeStrategy.UNION, tenant=LOCAL.tenant.id, name=None
    )
    assert await files_of(platform, record.id) == {"tmp/state.txt", "tmp/a", "tmp/b"}
    assert merged.conflicts == ()


async def test_nothing_is_parked_after_a_drain(platform):
    await platform.executor.execute(sh(), LOCAL)
    await platform.executor.aclose()
    assert platform.host.boxes == {}


async def test_what_a_dead_gateway_had_parked_is_taken_away(open_platform):
    platform = await open_platform(pool_size=0)
    parent = await platform.executor.execute(sh(), LOCAL)
    await platform.crash()
    assert parent.result.sandbox_id in platform.host.boxes
    again = await platform.reopen()
    assert platform.host.boxes == {}
    await again.executor.aclose()


@pytest.mark.parametrize("mode", [Mode.CACHED])
async def test_a_parent_does_not_go_with_every_mode(platform, mode):
    with pytest.raises(InvalidArgumentError):
        await platform.executor.execute(sh(mode=mode, snapshot_id="snap-x"), LOCAL)


async def test_a_child_cannot_have_another_image(platform):
    parent = await platform.executor.execute(sh(), LOCAL)
    with pytest.raises(InvalidArgumentError, match="image"):
        await platform.executor.execute(replace(branch(parent.id), image="alpine"), LOCAL)


def terms(**bounds: float) -> ExecutorSettings:
    return ExecutorSettings(Path("/none"), collects_garbage=True, **bounds)


async def test_a_snapshot_taken_only_for_a_fork_is_forgotten_in_time(open_platform):
    platform = await open_platform()
    kept = await platform.executor.execute(sh(mode=Mode.CHECKPOINTED), LOCAL)
    parent = await platform.executor.execute(sh(files=(STATE,)), LOCAL)
    await platform.executor.execute(branch(parent.id), LOCAL)
    origins, bounds = platform.executor.origins, terms(forked_seconds_max=60)
    assert await origins.tidy(bounds, now=platform.clock.now()) == 0
    later = platform.clock.now() + timedelta(seconds=61)
    assert await origins.tidy(bounds, now=later) == 1
    assert [r.id for r in await platform.snapshots.page()] == [kept.result.snapshot_id]
    await platform.executor.aclose()


async def test_a_snapshot_is_forgotten_when_its_time_has_come_and_no_child_lives(open_platform):
    platform = await open_platform()
    store, now = platform.snapshots, platform.clock.now()
    parent, stays = [
        (await platform.executor.execute(sh(mode=Mode.CHECKPOINTED), LOCAL)).result.snapshot_id
        for _ in range(2)
    ]
    child = await platform.executor.execute(
        sh(mode=Mode.CHECKPOINTED, snapshot_id=parent, image=""), LOCAL
    )
    soon, later = now + timedelta(seconds=60), now + timedelta(seconds=120)
    for one, until in ((parent, soon), (child.result.snapshot_id, later)):
        await store.describe(one, name=None, description=None, tags=(), expires_at=until)
    origins = platform.executor.origins

    assert await origins.tidy(terms(), now=now) == 0
    assert await origins.tidy(terms(), now=soon) == 0  # its child lives
    assert await origins.tidy(terms(), now=later) == 2
    assert [r.id for r in await store.page()] == [stays]
    await platform.executor.aclose()


async def test_only_what_nobody_named_goes_by_age(open_platform):
    platform = await open_platform()
    store, later = platform.snapshots, platform.clock.now() + timedelta(seconds=61)
    ids = [
        (await platform.executor.execute(sh(mode=Mode.CHECKPOINTED), LOCAL)).result.snapshot_id
        for _ in range(3)
    ]
    await store.describe(ids[0], name="mine", description=None, tags=())
    await store.describe(ids[1], name=None, description=None, tags=("release",))
    origins = platform.executor.origins

    assert await origins.tidy(terms(), now=later) == 0
    assert await origins.tidy(terms(unnamed_seconds_max=60), now=later) == 1
    assert sorted(r.id for r in await store.page()) == sorted(ids[:2])
    await platform.executor.aclose()
