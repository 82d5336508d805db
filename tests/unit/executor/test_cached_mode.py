"""Mode `cached`: what ran before is answered, told as a hit, and recorded like any other."""

from dataclasses import replace

import pytest

from faas.errors import InvalidArgumentError
from faas.events import CachedResultDiffered
from faas.ids import TenantId
from faas.model import ExecutionSpec, ExecutionState, Mode
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL
from faas.tenancy import Principal, Scope, Tenant

OTHER = Principal(Tenant(TenantId("other")), frozenset({Scope.EXECUTE}))


def sh(script, **fields):
    return ExecutionSpec(argv=("sh", "-c", script), image="host", mode=Mode.CACHED, **fields)


async def test_the_second_time_is_answered_without_running(platform):
    first = await platform.executor.execute(sh("echo out; echo err >&2"), LOCAL)
    second = await platform.executor.execute(sh("echo out; echo err >&2"), LOCAL)
    assert (first.result.cache_hit, second.result.cache_hit) == (False, True)
    assert (second.result.stdout, second.result.stderr) == (b"out\n", b"")
    assert first.result.stderr == b"err\n"
    assert len(platform.host.started) == 1


async def test_a_hit_is_a_recorded_execution_of_its_own(platform):
    first = await platform.executor.execute(sh("echo out"), LOCAL)
    second = await platform.executor.execute(sh("echo out"), LOCAL)
    assert first.id != second.id
    stored = await platform.executor.get(second.id, LOCAL)
    assert stored.state is ExecutionState.FINISHED
    assert stored.result == second.result


async def test_changed_code_is_a_miss_then_a_hit(platform):
    await platform.executor.execute(sh("echo one"), LOCAL)
    changed = [await platform.executor.execute(sh("echo two"), LOCAL) for _ in range(2)]
    assert [record.result.cache_hit for record in changed] == [False, True]


async def test_a_failure_is_not_kept(platform):
    records = [await platform.executor.execute(sh("exit 9"), LOCAL) for _ in range(2)]
    assert [(r.result.exit_code, r.result.cache_hit) for r in records] == [(9, False), (9, False)]


async def test_ephemeral_never_answers_from_the_cache(platform):
    await platform.executor.execute(sh("echo out"), LOCAL)
    record = await platform.executor.execute(replace(sh("echo out"), mode=Mode.EPHEMERAL), LOCAL)
    assert not record.result.cache_hit
    assert len(platform.host.started) == 2


async def test_another_tenant_does_not_see_it(platform):
    await platform.executor.execute(sh("echo out"), LOCAL)
    assert not (await platform.executor.execute(sh("echo out"), OTHER)).result.cache_hit


async def test_a_callers_key_stands_for_the_content(platform):
    await platform.executor.execute(sh("echo one", cache_key="k"), LOCAL)
    record = await platform.executor.execute(sh("echo two", cache_key="k"), LOCAL)
    assert record.result.stdout == b"one\n"


async def test_the_next_gateway_knows_it(platform):
    await platform.executor.execute(sh("echo out"), LOCAL)
    await platform.executor.aclose()
    again = await platform.reopen()
    assert (await again.executor.execute(sh("echo out"), LOCAL)).result.cache_hit
    await again.executor.aclose()


async def test_a_long_answer_can_be_read_as_a_log(platform):
    script = f"echo {'x' * 100_000}"
    await platform.executor.execute(sh(script), LOCAL)
    record = await platform.executor.execute(sh(script), LOCAL)
    logs = platform.executor.logs(record.id, LOCAL)
    assert record.result.cache_hit
    assert logs.read("stdout", offset=99_999, length=10) == b"x\n"


async def test_a_sampled_answer_that_differs_is_told(open_platform):
    platform = await open_platform(cache_verify_share=1.0)
    await platform.executor.execute(sh("echo one", cache_key="k"), LOCAL)
    record = await platform.executor.execute(sh("echo two", cache_key="k"), LOCAL)
    assert (record.result.stdout, record.result.cache_hit) == (b"two\n", False)
    assert [e for e in platform.events if isinstance(e, CachedResultDiffered)]
    await platform.executor.aclose()


@pytest.mark.parametrize("field", ["stdin_open", "tty"])
async def test_a_conversation_is_not_cached(platform, field):
    with pytest.raises(InvalidArgumentError):
        await platform.executor.execute(sh("cat", **{field: True}), LOCAL)
