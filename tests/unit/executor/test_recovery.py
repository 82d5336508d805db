"""kill -9 between any two steps loses nothing; what is left is taken up or cleared away."""

import asyncio

import pytest

from faas.errors import UnavailableError
from faas.executor import IdempotencyKey
from faas.model import ExecutionSpec, ExecutionState, ExitReason, FileInput, Limits
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL


def sh(script: str, **fields) -> ExecutionSpec:
    return ExecutionSpec(argv=("sh", "-c", script), image="host", **fields)


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_a_running_command_is_taken_up_and_its_whole_output_kept(platform):
    record = await platform.executor.submit(sh("echo one; sleep 5; echo two"), LOCAL)
    await settle()
    await platform.crash()
    again = await platform.reopen()
    assert again.report.adopted == 1
    waiting = asyncio.ensure_future(again.executor.wait(record.id, LOCAL))
    await settle()
    await platform.clock.advance(5)
    final = await waiting
    assert final.state is ExecutionState.FINISHED
    assert final.result.stdout == b"one\ntwo\n"
    assert final.started_at == (await again.executor.get(record.id, LOCAL)).started_at
    assert len(platform.host.started) == 1
    await again.executor.aclose()


async def test_a_command_that_ended_while_no_gateway_lived_is_finished(platform):
    record = await platform.executor.submit(sh("sleep 5; echo late"), LOCAL)
    await settle()
    await platform.crash()
    await platform.clock.advance(5)
    again = await platform.reopen()
    final = await again.executor.wait(record.id, LOCAL)
    assert final.result.stdout == b"late\n"
    await again.executor.aclose()
    assert platform.host.boxes == {}


async def test_an_adopted_command_can_be_cancelled(platform):
    record = await platform.executor.submit(sh("sleep 99"), LOCAL)
    await settle()
    await platform.crash()
    again = await platform.reopen()
    final = await again.executor.cancel(record.id, LOCAL)
    assert final.result.reason is ExitReason.CANCELLED
    await again.executor.aclose()
    assert platform.host.boxes == {}


async def test_a_sandbox_that_is_gone_is_our_failure_and_is_not_run_twice(platform):
    key = IdempotencyKey("k", "d")
    record = await platform.executor.submit(sh("sleep 5"), LOCAL, idempotency=key)
    await settle()
    await platform.crash()
    await platform.runtime.reclaim(keep=frozenset())
    again = await platform.reopen()
    final = await again.executor.wait(record.id, LOCAL)
    assert final.failure.code == "sandbox_broken"
    assert (await again.executor.recall(LOCAL, key)).id == record.id
    assert len(platform.host.started) == 1
    await again.executor.aclose()


async def test_a_queued_execution_that_was_submitted_runs_after_the_restart(open_platform):
    platform = await open_platform(running_max=1)
    await platform.executor.submit(sh("sleep 99"), LOCAL)
    files = (FileInput("/tmp/x", b"content"),)
    spec = sh("cat; echo ran", files=files, stdin=b"in ")
    record = await platform.executor.submit(spec, LOCAL)
    await settle()
    await platform.crash()
    again = await platform.reopen(running_max=2)
    assert (again.report.adopted, again.report.queued) == (1, 1)
    final = await again.executor.wait(record.id, LOCAL)
    assert final.result.stdout == b"in ran\n"
    await again.executor.drain(grace_seconds=0)
    await again.executor.aclose()


async def test_a_queued_execution_whose_caller_waited_fails_as_unavailable(open_platform):
    platform = await open_platform(running_max=1)
    await platform.executor.submit(sh("sleep 99"), LOCAL)
    call = asyncio.ensure_future(platform.executor.execute(sh("echo never"), LOCAL))
    await settle()
    (record,) = await platform.executor.list(LOCAL, state=ExecutionState.QUEUED)
    await platform.crash()
    call.cancel()
    again = await platform.reopen(running_max=1)
    final = await again.executor.wait(record.id, LOCAL)
    assert final.failure.code == UnavailableError.code
    await again.executor.drain(grace_seconds=0)
    await again.executor.aclose()


async def test_an_execution_that_never_began_in_its_sandbox_is_run_anew(platform, monkeypatch):
    hold = asyncio.Event()

    async def slow(self, limits):
        await hold.wait()

    await settle()
    with monkeypatch.context() as patch:
        patch.setattr("faas.sandbox.fake.FakeSandbox.apply_limits", slow)
        record = await platform.executor.submit(sh("echo ran", limits=Limits(pids_max=7)), LOCAL)
        await settle()
        assert platform.host.started == []
        await platform.crash()
    again = await platform.reopen()
    assert again.report.queued == 1
    final = await again.executor.wait(record.id, LOCAL)
    assert final.result.stdout == b"ran\n"
    await again.executor.aclose()
    assert platform.host.boxes == {}


async def test_sandboxes_and_spool_files_of_nobody_are_taken_away(platform):
    await settle()
    pooled = set(platform.host.boxes)
    stranger = platform.data_dir / "spool" / "exec-00000000000000000000000000.out"
    stranger.write_bytes(b"?")
    await platform.crash()
    again = await platform.reopen()
    assert again.report.reclaimed["fake"].sandboxes == len(pooled)
    assert again.report.spool_files == 1
    assert not stranger.exists()
    assert not pooled & set(platform.host.boxes)
    await again.executor.aclose()


async def test_spooled_output_of_a_finished_execution_survives_the_clearing(platform):
    record = await platform.executor.execute(sh("cat", stdin=b"x" * 100_000), LOCAL)
    await platform.crash()
    again = await platform.reopen()
    found = await again.executor.get(record.id, LOCAL)
    assert found.result.stdout == b"x" * 100_000
    await again.executor.aclose()


async def test_a_restart_that_drained_first_takes_up_the_rest_too(platform):
    record = await platform.executor.submit(sh("sleep 5; echo done"), LOCAL)
    await settle()
    await platform.executor.drain(grace_seconds=0)
    await platform.executor.aclose()
    again = await platform.reopen()
    waiting = asyncio.ensure_future(again.executor.wait(record.id, LOCAL))
    await settle()
    await platform.clock.advance(5)
    assert (await waiting).result.stdout == b"done\n"
    await again.executor.aclose()


async def test_a_waiter_is_told_that_the_gateway_goes(platform):
    record = await platform.executor.submit(sh("sleep 5"), LOCAL)
    waiting = asyncio.ensure_future(platform.executor.wait(record.id, LOCAL))
    await settle()
    await platform.executor.drain(grace_seconds=0)
    await platform.executor.aclose()
    with pytest.raises(UnavailableError):
        await waiting
