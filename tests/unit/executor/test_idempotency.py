"""One key, one run, one answer."""

import asyncio

import pytest

from faas.errors import IdempotencyConflictError, SandboxBrokenError
from faas.executor import IdempotencyKey
from faas.ids import TenantId
from faas.model import ExecutionSpec
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL
from faas.tenancy import Principal, Scope, Tenant

KEY = IdempotencyKey("k", "digest")


def sh(script: str, **fields) -> ExecutionSpec:
    return ExecutionSpec(argv=("sh", "-c", script), image="host", **fields)


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_fifty_calls_at_once_are_one_run_and_one_answer(platform):
    calls = [
        asyncio.ensure_future(
            platform.executor.execute(sh("sleep 1; echo hi"), LOCAL, idempotency=KEY)
        )
        for _ in range(50)
    ]
    await settle()
    await platform.clock.advance(1)
    records = await asyncio.gather(*calls)
    assert len({id(record) for record in records}) == 1
    assert len(platform.host.started) == 1


async def test_a_later_call_gets_the_stored_answer(platform):
    first = await platform.executor.execute(sh("echo hi"), LOCAL, idempotency=KEY)
    await settle()
    assert await platform.executor.execute(sh("echo hi"), LOCAL, idempotency=KEY) == first
    assert await platform.executor.recall(LOCAL, KEY) == first
    assert len(platform.host.started) == 1


async def test_a_key_survives_a_restart(platform):
    first = await platform.executor.execute(sh("echo hi"), LOCAL, idempotency=KEY)
    await platform.crash()
    again = await platform.reopen()
    assert await again.executor.execute(sh("echo hi"), LOCAL, idempotency=KEY) == first
    assert len(platform.host.started) == 1
    await again.executor.aclose()


async def test_the_same_key_for_another_request_is_a_conflict_while_running_and_after(platform):
    other = IdempotencyKey("k", "another digest")
    running = await platform.executor.submit(sh("sleep 1"), LOCAL, idempotency=KEY)
    with pytest.raises(IdempotencyConflictError):
        await platform.executor.submit(sh("true"), LOCAL, idempotency=other)
    await settle()
    await platform.clock.advance(1)
    await platform.executor.wait(running.id, LOCAL)
    await settle()
    with pytest.raises(IdempotencyConflictError):
        await platform.executor.execute(sh("true"), LOCAL, idempotency=other)
    with pytest.raises(IdempotencyConflictError):
        await platform.executor.recall(LOCAL, other)


async def test_a_key_belongs_to_its_tenant(platform):
    other = Principal(Tenant(TenantId("other")), frozenset({Scope.ADMIN}))
    first = await platform.executor.execute(sh("echo hi"), LOCAL, idempotency=KEY)
    second = await platform.executor.execute(sh("echo hi"), other, idempotency=KEY)
    assert first.id != second.id


async def test_a_caller_that_goes_away_leaves_an_execution_with_a_key_running(platform):
    call = asyncio.ensure_future(
        platform.executor.execute(sh("sleep 1; echo hi"), LOCAL, idempotency=KEY)
    )
    await settle()
    call.cancel()
    await settle()
    retry = asyncio.ensure_future(
        platform.executor.execute(sh("sleep 1; echo hi"), LOCAL, idempotency=KEY)
    )
    await settle()
    await platform.clock.advance(1)
    assert (await retry).result.stdout == b"hi\n"
    assert len(platform.host.started) == 1


async def test_a_failure_after_the_start_is_the_answer_from_then_on(platform):
    platform.host.break_next_starts(1)
    for _ in range(2):
        with pytest.raises(SandboxBrokenError):
            await platform.executor.execute(sh("true"), LOCAL, idempotency=KEY)
        await settle()
    assert len(platform.host.started) == 1


async def test_a_failure_before_the_start_gives_the_key_back(open_platform):
    platform = await open_platform(pool_size=0)
    platform.host.fail_next_creates(9)
    with pytest.raises(SandboxBrokenError):
        await platform.executor.execute(sh("true"), LOCAL, idempotency=KEY)
    platform.host.fail_next_creates(0)
    await settle()
    record = await platform.executor.execute(sh("true"), LOCAL, idempotency=KEY)
    assert record.result.exit_code == 0
    await platform.executor.aclose()
