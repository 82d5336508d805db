"""What the doors are promised."""

import asyncio
import io
import tarfile

import pytest

from faas.clock import Deadline
from faas.errors import (
    DeadlineExceededError,
    ExecutionNotFoundError,
    ImageNotFoundError,
    InvalidArgumentError,
    QueueFullError,
    RuntimeUnavailableError,
    SandboxBrokenError,
    UnavailableError,
    UnsupportedError,
    WrongStateError,
)
from faas.events import (
    ExecutionFinished,
    ExecutionQueued,
    ExecutionRejected,
    ExecutionStarted,
    SandboxDestroyed,
)
from faas.executor.fake import AnyImage, FakePlatform
from faas.ids import ExecutionId, TenantId
from faas.model import (
    ExecutionSpec,
    ExecutionState,
    ExitReason,
    FileInput,
    Limits,
    RuntimeChoice,
)
from faas.sandbox.protocols import Progress
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL
from faas.tenancy import Principal, Scope, Tenant

OTHER = Principal(Tenant(TenantId("other")), frozenset({Scope.ADMIN}))


def sh(script: str, **fields) -> ExecutionSpec:
    return ExecutionSpec(argv=("sh", "-c", script), image="host", **fields)


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def started(platform: FakePlatform, spec: ExecutionSpec) -> ExecutionId:
    record = await platform.executor.submit(spec, LOCAL)
    await settle()
    return record.id


async def test_a_result_is_the_commands_own(platform):
    record = await platform.executor.execute(sh("echo hi; echo no >&2; exit 3"), LOCAL)
    result = record.result
    assert record.state is ExecutionState.FINISHED
    assert (result.exit_code, result.reason) == (3, ExitReason.EXITED)
    assert (result.stdout, result.stderr) == (b"hi\n", b"no\n")
    assert (result.stdout_total_bytes, result.stderr_total_bytes) == (3, 3)
    assert result.duration_ms >= 1
    assert result.execution_id == record.id
    assert result.runtime_used == "fake"


async def test_what_execute_returns_is_what_get_finds(platform):
    record = await platform.executor.execute(sh("echo hi"), LOCAL)
    await settle()
    assert await platform.executor.get(record.id, LOCAL) == record


async def test_submit_returns_before_the_end_and_wait_after_it(platform):
    record = await platform.executor.submit(sh("sleep 5; echo done"), LOCAL)
    assert record.result is None
    waiting = asyncio.ensure_future(platform.executor.wait(record.id, LOCAL))
    await settle()
    assert not waiting.done()
    await platform.clock.advance(5)
    assert (await waiting).result.stdout == b"done\n"


async def test_cancelling_a_wait_leaves_the_execution_running(platform):
    execution_id = await started(platform, sh("sleep 5; echo done"))
    waiting = asyncio.ensure_future(platform.executor.wait(execution_id, LOCAL))
    await settle()
    waiting.cancel()
    await settle()
    await platform.clock.advance(5)
    assert (await platform.executor.wait(execution_id, LOCAL)).result.stdout == b"done\n"


async def test_a_caller_that_goes_away_cancels_its_execution(platform):
    call = asyncio.ensure_future(platform.executor.execute(sh("sleep 5"), LOCAL))
    await settle()
    (record,) = await platform.executor.list(LOCAL)
    call.cancel()
    await settle()
    record = await platform.executor.get(record.id, LOCAL)
    assert record.result.reason is ExitReason.CANCELLED


async def test_every_execution_has_a_sandbox_of_its_own(platform):
    records = [await platform.executor.execute(sh("true"), LOCAL) for _ in range(12)]
    assert len({record.result.sandbox_id for record in records}) == 12


async def test_a_used_sandbox_is_destroyed_and_the_pool_filled_again(open_platform):
    platform = await open_platform(parked_max=0)
    record = await platform.executor.execute(sh("true"), LOCAL)
    await settle()
    assert record.result.sandbox_id not in platform.host.boxes
    assert len(platform.host.boxes) == 2
    gone = [e.sandbox_id for e in platform.events if isinstance(e, SandboxDestroyed)]
    assert gone == [record.result.sandbox_id]
    await platform.executor.aclose()


async def test_events_tell_the_story_in_order(platform):
    record = await platform.executor.execute(sh("true"), LOCAL)
    story = [
        type(event)
        for event in platform.events
        if isinstance(event, ExecutionQueued | ExecutionStarted | ExecutionFinished)
    ]
    assert story == [ExecutionQueued, ExecutionStarted, ExecutionFinished]
    assert [e.record for e in platform.events if isinstance(e, ExecutionFinished)] == [record]


async def test_the_first_of_a_pool_is_told_from_one_made_on_demand(open_platform):
    platform = await open_platform(pool_size=0)
    await platform.executor.execute(sh("true"), LOCAL)
    (event,) = [e for e in platform.events if isinstance(e, ExecutionStarted)]
    assert not event.from_pool
    assert platform.executor.stats().on_demand == 1
    await platform.executor.aclose()


async def test_another_tenants_execution_is_not_found(platform):
    record = await platform.executor.execute(sh("true"), LOCAL)
    await settle()
    for call in (platform.executor.get, platform.executor.wait, platform.executor.cancel):
        with pytest.raises(ExecutionNotFoundError):
            await call(record.id, OTHER)
    with pytest.raises(ExecutionNotFoundError):
        platform.executor.logs(record.id, OTHER)
    assert await platform.executor.list(OTHER) == []


async def test_another_tenants_running_execution_is_not_found_either(platform):
    execution_id = await started(platform, sh("sleep 5"))
    with pytest.raises(ExecutionNotFoundError):
        await platform.executor.cancel(execution_id, OTHER)
    with pytest.raises(ExecutionNotFoundError):
        await platform.executor.write_stdin(execution_id, OTHER, b"x")


async def test_an_unknown_id_is_not_found(platform):
    with pytest.raises(ExecutionNotFoundError):
        await platform.executor.get(ExecutionId("exec-00000000000000000000000000"), LOCAL)


async def test_list_is_newest_first_by_pages_and_by_state(platform):
    ids = sorted(
        [(await platform.executor.execute(sh("true"), LOCAL)).id for _ in range(5)], reverse=True
    )
    execution_id = await started(platform, sh("sleep 9"))
    first = await platform.executor.list(LOCAL, limit=3)
    assert sorted([execution_id, *ids], reverse=True)[:3] == [r.id for r in first]
    rest = await platform.executor.list(LOCAL, before=first[-1].id)
    assert len(rest) == 3
    running = await platform.executor.list(LOCAL, state=ExecutionState.RUNNING)
    assert [r.id for r in running] == [execution_id]
    finished = await platform.executor.list(LOCAL, state=ExecutionState.FINISHED)
    assert [r.id for r in finished] == ids


async def test_cancel_ends_a_running_command_and_keeps_what_it_said(platform):
    execution_id = await started(platform, sh("echo before; sleep 99; echo after"))
    record = await platform.executor.cancel(execution_id, LOCAL)
    assert record.result.reason is ExitReason.CANCELLED
    assert record.result.exit_code == 137
    assert record.result.stdout == b"before\n"


async def test_cancel_of_an_ended_execution_changes_nothing(platform):
    record = await platform.executor.execute(sh("echo hi"), LOCAL)
    await settle()
    assert await platform.executor.cancel(record.id, LOCAL) == record


async def test_cancel_in_the_queue_ends_without_a_sandbox(open_platform):
    platform = await open_platform(running_max=1, pool_size=0)
    await started(platform, sh("sleep 9"))
    queued = await started(platform, sh("echo never"))
    record = await platform.executor.cancel(queued, LOCAL)
    assert record.state is ExecutionState.FINISHED
    assert record.result.reason is ExitReason.CANCELLED
    assert record.started_at is None
    assert len(platform.host.started) == 1
    assert platform.executor.stats().queued == 0
    await platform.executor.aclose()


async def test_cancel_while_the_sandbox_is_made_leaves_nothing(open_platform):
    platform = await open_platform(pool_size=0)
    platform.host.create_seconds = 3.0
    execution_id = await started(platform, sh("echo never"))
    record = await platform.executor.cancel(execution_id, LOCAL)
    await platform.clock.advance(3)
    await settle()
    assert record.result.reason is ExitReason.CANCELLED
    assert platform.host.started == []
    await platform.executor.aclose()
    assert platform.host.boxes == {}


async def test_a_full_queue_says_when_to_come_back(open_platform):
    platform = await open_platform(running_max=1, queued_max=1)
    await started(platform, sh("sleep 9"))
    await started(platform, sh("true"))
    with pytest.raises(QueueFullError) as caught:
        await platform.executor.execute(sh("true"), LOCAL)
    assert caught.value.retry_after_seconds >= 1
    assert [e.code for e in platform.events if isinstance(e, ExecutionRejected)] == ["queue_full"]
    assert len(await platform.executor.list(LOCAL)) == 2
    await platform.executor.aclose()


async def test_a_callers_deadline_counts_in_the_queue(open_platform):
    platform = await open_platform(running_max=1)
    await started(platform, sh("sleep 9"))
    deadline = Deadline.after(platform.clock, 2.0)
    call = asyncio.ensure_future(platform.executor.execute(sh("true"), LOCAL, deadline=deadline))
    await settle()
    await platform.clock.advance(2)
    with pytest.raises(DeadlineExceededError):
        await call
    assert platform.executor.stats().queued == 0
    await platform.executor.aclose()


@pytest.mark.parametrize("field", ["cache_key", "branch_from", "instance_id"])
async def test_a_field_of_another_mode_is_refused_by_name(platform, field):
    with pytest.raises(InvalidArgumentError, match=field):
        await platform.executor.execute(sh("true", **{field: "x"}), LOCAL)


async def test_a_runtime_that_is_not_built_in_is_unsupported(platform):
    with pytest.raises(UnsupportedError) as caught:
        await platform.executor.execute(sh("true", runtime=RuntimeChoice.DOCKER), LOCAL)
    assert caught.value.details["supported"] == ["fake"]


async def test_without_a_working_runtime_executions_are_refused(tmp_path, open_platform):
    platform = await open_platform(pool_size=0)
    await platform.executor.aclose()
    again = FakePlatform(platform.data_dir, platform.host)
    again.runtime.is_available = False
    await again.start()
    with pytest.raises(RuntimeUnavailableError):
        await again.executor.execute(sh("true"), LOCAL)
    await again.executor.aclose()


async def test_an_unknown_image_is_refused_before_anything_is_written(platform, monkeypatch):
    def resolve(self, reference):
        raise ImageNotFoundError

    monkeypatch.setattr(AnyImage, "resolve", resolve)
    with pytest.raises(ImageNotFoundError):
        await platform.executor.execute(sh("true"), LOCAL)
    assert await platform.executor.list(LOCAL) == []


async def test_our_failure_is_raised_kept_and_leaves_no_sandbox(platform):
    platform.host.break_next_starts(1)
    with pytest.raises(SandboxBrokenError):
        await platform.executor.execute(sh("echo hi"), LOCAL)
    await settle()
    (record,) = await platform.executor.list(LOCAL)
    assert record.state is ExecutionState.FAILED
    assert record.failure.code == "sandbox_broken"
    assert len(platform.host.boxes) == 2


async def test_a_sandbox_that_cannot_be_made_is_our_failure(open_platform):
    platform = await open_platform(pool_size=0)
    platform.host.fail_next_creates(9)
    with pytest.raises(SandboxBrokenError):
        await platform.executor.execute(sh("true"), LOCAL)
    platform.host.fail_next_creates(0)
    assert (await platform.executor.execute(sh("true"), LOCAL)).result.exit_code == 0
    await platform.executor.aclose()


async def test_a_pooled_sandbox_that_died_is_never_handed_out(platform):
    await settle()
    dead = list(platform.host.boxes)
    for sandbox_id in dead:
        platform.host.break_sandbox(sandbox_id)
    record = await platform.executor.execute(sh("true"), LOCAL)
    assert record.result.sandbox_id not in dead


async def test_limits_that_differ_from_the_pools_are_applied(platform):
    await settle()
    limits = Limits(memory_bytes=64 << 20, cpu_millis=500, pids_max=9)
    execution_id = await started(platform, sh("sleep 9", limits=limits))
    (box,) = [box for box in platform.host.boxes.values() if box.processes]
    assert (await platform.executor.get(execution_id, LOCAL)).spec.limits == limits
    assert box.limits == limits


async def test_output_is_capped_and_says_so(platform):
    limits = Limits(output_bytes_max=4)
    result = (await platform.executor.execute(sh("echo 123456", limits=limits), LOCAL)).result
    assert result.stdout == b"1234"
    assert result.stdout_total_bytes == 7
    assert result.stdout_truncated


async def test_the_time_limit_is_a_result(platform):
    execution_id = await started(platform, sh("sleep 9", limits=Limits(timeout_ms=1000)))
    await platform.clock.advance(1)
    record = await platform.executor.wait(execution_id, LOCAL)
    assert (record.result.exit_code, record.result.reason) == (124, ExitReason.TIMED_OUT)


async def test_an_agent_that_misses_the_time_limit_counts_as_broken(platform, monkeypatch):
    execution_id = await started(platform, sh("sleep 9", limits=Limits(timeout_ms=1000)))
    monkeypatch.setattr("faas.sandbox.fake.FakeProcess._finish", lambda *_: None)
    await platform.clock.advance(12)
    await settle()
    await platform.clock.advance(1)
    await settle()
    record = await platform.executor.wait(execution_id, LOCAL)
    assert record.failure.code == "sandbox_broken"


async def test_files_go_below_the_working_directory_and_stdin_in(platform):
    files = (FileInput("a/b.txt", b"one"), FileInput("/tmp/c", b"two", 0o755))
    spec = sh("cat; sleep 1", files=files, stdin=b"in", working_dir="/workspace")
    execution_id = await started(platform, spec)
    (box,) = [box for box in platform.host.boxes.values() if box.processes]
    assert box.files == {"/workspace/a/b.txt": b"one", "/tmp/c": b"two"}
    assert box.modes["/tmp/c"] == 0o755
    await platform.clock.advance(1)
    assert (await platform.executor.wait(execution_id, LOCAL)).result.stdout == b"in"


async def test_an_archive_is_unpacked_in_the_working_directory(platform):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("src/main.py")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"ok"))
    await started(platform, sh("sleep 1", archive=stream.getvalue(), working_dir="/app"))
    (box,) = [box for box in platform.host.boxes.values() if box.processes]
    assert box.files == {"/app/src/main.py": b"ok"}


async def test_a_missing_working_directory_is_the_commands_failure(platform):
    result = (await platform.executor.execute(sh("true", working_dir="/nope"), LOCAL)).result
    assert result.exit_code == 126


async def test_a_user_by_name_is_looked_up_in_the_image(platform):
    files = (FileInput("/etc/passwd", b"root:x:0:0::/:/bin/sh\nnode:x:1000:1001::/:/bin/sh\n"),)
    await platform.executor.execute(sh("true", files=files, user="node"), LOCAL)
    assert (platform.host.started[-1].uid, platform.host.started[-1].gid) == (1000, 1001)


@pytest.mark.parametrize(("user", "ids"), [("7", (7, 7)), ("7:8", (7, 8)), (None, (0, 0))])
async def test_a_user_by_number_needs_no_image(platform, user, ids):
    await platform.executor.execute(sh("true", user=user), LOCAL)
    assert (platform.host.started[-1].uid, platform.host.started[-1].gid) == ids


async def test_an_unknown_user_is_the_callers_mistake(platform):
    with pytest.raises(InvalidArgumentError):
        await platform.executor.execute(sh("true", user="nobody-here"), LOCAL)


async def test_stdin_goes_in_by_offset_and_repeats_are_harmless(platform):
    execution_id = await started(platform, sh("cat", stdin=b"0", stdin_open=True))
    write = platform.executor.write_stdin
    assert await write(execution_id, LOCAL, b"abc") == 3
    assert await write(execution_id, LOCAL, b"bcd", offset=1) == 4
    assert await write(execution_id, LOCAL, b"", is_last=True) == 4
    record = await platform.executor.wait(execution_id, LOCAL)
    assert record.result.stdout == b"0abcd"
    with pytest.raises(WrongStateError):
        await write(execution_id, LOCAL, b"late")


async def test_stdin_that_was_not_asked_for_is_refused(platform):
    execution_id = await started(platform, sh("sleep 1"))
    with pytest.raises(WrongStateError):
        await platform.executor.write_stdin(execution_id, LOCAL, b"x")


async def test_logs_are_read_live_and_after_the_end(platform):
    execution_id = await started(platform, sh("echo one; sleep 1; echo two; echo x >&2"))
    logs = platform.executor.logs(execution_id, LOCAL)
    seen = logs.progress()
    assert seen == Progress(4, 0, is_ended=False)
    assert logs.read("stdout", offset=0, length=99) == b"one\n"
    next_one = asyncio.ensure_future(logs.changed(seen))
    await settle()
    assert not next_one.done()
    await platform.clock.advance(1)
    seen = await next_one
    while not seen.is_ended:
        seen = await logs.changed(seen)
    assert seen == Progress(8, 2, is_ended=True)
    assert logs.read("stdout", offset=4, length=99) == b"two\n"
    await settle()
    later = platform.executor.logs(execution_id, LOCAL)
    assert later.progress() == seen
    assert later.read("stdout", offset=2, length=4) == b"e\ntw"
    assert later.read("stderr", offset=0, length=99) == b"x\n"
    assert await later.changed(later.progress()) == seen


async def test_logs_of_a_queued_execution_wait_for_its_start(open_platform):
    platform = await open_platform(running_max=1)
    first = await started(platform, sh("sleep 1"))
    second = await started(platform, sh("echo hi"))
    logs = platform.executor.logs(second, LOCAL)
    change = asyncio.ensure_future(logs.changed(logs.progress()))
    await settle()
    assert not change.done()
    await platform.clock.advance(1)
    await settle()
    assert (await change).stdout_bytes == 3
    await platform.executor.wait(first, LOCAL)
    await platform.executor.aclose()


async def test_small_output_is_kept_in_the_ledger_and_large_output_in_the_spool(platform):
    await platform.executor.execute(sh("echo small"), LOCAL)
    await settle()
    spool = platform.data_dir / "spool"
    assert list(spool.iterdir()) == []
    big = b"x" * 100_000
    record = await platform.executor.execute(sh("cat; echo e >&2", stdin=big), LOCAL)
    await settle()
    assert (spool / f"{record.id}.out").read_bytes() == big
    found = await platform.executor.get(record.id, LOCAL)
    assert (found.result.stdout, found.result.stderr) == (big, b"e\n")
    logs = platform.executor.logs(record.id, LOCAL)
    assert logs.read("stdout", offset=99_990, length=99) == b"x" * 10


async def test_output_of_a_failed_execution_can_still_be_read(platform):
    execution_id = await started(platform, sh("echo last words; sleep 9"))
    (sandbox_id,) = [name for name, box in platform.host.boxes.items() if box.processes]
    platform.host.break_sandbox(sandbox_id)
    record = await platform.executor.wait(execution_id, LOCAL)
    assert record.failure.code == "sandbox_broken"
    await settle()
    logs = platform.executor.logs(execution_id, LOCAL)
    assert logs.read("stdout", offset=0, length=99) == b"last words\n"


async def test_drain_refuses_new_work_and_waits_for_the_old(platform):
    execution_id = await started(platform, sh("sleep 1; echo done"))
    draining = asyncio.ensure_future(platform.executor.drain(grace_seconds=60))
    await settle()
    with pytest.raises(UnavailableError):
        await platform.executor.execute(sh("true"), LOCAL)
    assert not draining.done()
    await platform.clock.advance(1)
    await draining
    assert (await platform.executor.get(execution_id, LOCAL)).result.stdout == b"done\n"


async def test_after_close_only_running_commands_are_left_on_the_host(open_platform):
    platform = await open_platform()
    await started(platform, sh("sleep 9"))
    await platform.executor.drain(grace_seconds=0)
    await platform.executor.aclose()
    assert [bool(box.processes) for box in platform.host.boxes.values()] == [True]


async def test_stats_count_what_is(platform):
    await settle()
    await started(platform, sh("sleep 9"))
    stats = platform.executor.stats()
    assert (stats.running, stats.queued) == (1, 0)
    assert stats.pools["fake"].busy == 1
    assert stats.pools["fake"].ready == 1
    assert (await platform.executor.runtimes())["fake"].is_available


async def test_a_stronger_way_has_a_shelf_of_its_own_in_the_pool(platform):
    """A demand is never answered from the ordinary shelf, nor wasted on who did not ask."""
    platform.host.isolations = ("docker", "docker+gvisor")
    await platform.registry.probe()
    strong = await platform.executor.execute(sh("exit 0", isolation_min="gvisor"), LOCAL)
    plain = await platform.executor.execute(sh("exit 0"), LOCAL)
    assert strong.result.isolation == "docker+gvisor"
    assert plain.result.isolation != "docker+gvisor"
    demands = {template.isolation_min for template in platform.executor.stats().templates}
    assert demands == {None, "gvisor"}


async def test_a_result_says_why_it_ran_where_it_ran(platform):
    record = await platform.executor.execute(sh("exit 0"), LOCAL)
    assert record.result.runtime_reason == "auto: the only one here"
    stored = await platform.executor.get(record.id, LOCAL)
    assert stored.result.runtime_reason == "auto: the only one here"


async def test_a_ready_sandbox_that_dies_before_its_command_is_replaced(platform):
    """Its daemon was restarted just now: nothing ran yet, so nobody need hear of it."""
    await settle()
    call = asyncio.ensure_future(platform.executor.execute(sh("echo on"), LOCAL))
    async with asyncio.timeout(30):
        while not (actives := platform.executor._parts.intake.actives):
            await asyncio.sleep(0)
    (active,) = actives.values()
    taken = active.sandbox.id
    platform.host.break_sandbox(taken)
    record = await call
    assert (record.result.stdout, record.result.exit_code) == (b"on\n", 0)
    assert record.result.sandbox_id != taken
    assert platform.executor.stats().on_demand == 1
