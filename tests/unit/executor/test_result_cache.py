"""The result cache gives only what it was given, to whom may have it, while it is good."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas.clock import FakeClock
from faas.executor.result_cache import CacheLimits, ResultCache, cache_key
from faas.ids import ExecutionId, SandboxId, TenantId
from faas.model import (
    ExecutionResult,
    ExecutionSpec,
    ExitReason,
    FileInput,
    Limits,
    NetworkMode,
    Timings,
    Usage,
)

SPEC = ExecutionSpec(argv=("echo", "hi"), image="host")
A, B = TenantId("a"), TenantId("b")
RESULT = ExecutionResult(
    execution_id=ExecutionId("exec-1"), exit_code=0, signal=None, reason=ExitReason.EXITED,
    stdout=b"hi\n", stderr=b"", stdout_total_bytes=3, stderr_total_bytes=0, duration_ms=1,
    usage=Usage(), timings=Timings(), runtime_used="embedded", isolation="x",
    image_digest="host", sandbox_id=SandboxId("sbx-1"),
)  # fmt: skip


def key(spec: ExecutionSpec = SPEC, tenant: TenantId = A, image: str = "host") -> bytes:
    return cache_key(spec, tenant=tenant, image_digest=image, runtime="embedded")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_what_was_kept_comes_back_also_after_a_restart(clock: FakeClock, tmp_path: Path) -> None:
    cache = ResultCache(tmp_path / "c", clock=clock)
    cache.put(key(), RESULT)
    cache.close()

    again = ResultCache(tmp_path / "c", clock=clock)

    assert again.get(key()) == RESULT
    again.close()


@pytest.mark.parametrize(
    "bad",
    [
        replace(RESULT, exit_code=9),
        replace(RESULT, reason=ExitReason.TIMED_OUT),
        replace(RESULT, stdout_total_bytes=99),
    ],
    ids=["failed", "timed out", "truncated"],
)
def test_only_whole_successes_are_kept(clock: FakeClock, bad: ExecutionResult) -> None:
    cache = ResultCache(None, clock=clock)

    assert cache.put(key(), bad) is False
    assert cache.get(key()) is None


async def test_an_old_result_is_not_given(clock: FakeClock) -> None:
    cache = ResultCache(None, clock=clock, limits=CacheLimits(ttl_seconds=60))
    cache.put(key(), RESULT)

    await clock.advance(61)

    assert cache.get(key()) is None
    assert cache.size_bytes == 0


async def test_what_was_used_longest_ago_goes_first(clock: FakeClock) -> None:
    big = replace(RESULT, stdout=b"x" * 1000, stdout_total_bytes=1000)
    cache = ResultCache(None, clock=clock, limits=CacheLimits(bytes_max=2600))
    for number in range(3):
        cache.put(bytes([number]), big)
        await clock.advance(1)

    assert cache.get(b"\x00") is None
    assert cache.get(b"\x02") is not None
    assert cache.size_bytes <= 2600


async def test_what_is_asked_for_again_and_again_stays(clock: FakeClock, tmp_path: Path) -> None:
    big = replace(RESULT, stdout=b"x" * 10_000, stdout_total_bytes=10_000)
    two = CacheLimits(bytes_max=25_000)
    cache = ResultCache(tmp_path / "c", clock=clock, limits=two)
    for number in range(2):
        cache.put(bytes([number]), big)
        await clock.advance(1)
    assert cache.get(b"\x00") == big  # from memory, where no database is asked
    cache.close()
    again = ResultCache(tmp_path / "c", clock=clock, limits=two)
    await clock.advance(1)

    again.put(b"\x02", big)

    assert again.get(b"\x00") == big
    assert again.get(b"\x01") is None
    again.close()


CHANGES = {
    "argv": replace(SPEC, argv=("echo", "h", "i")),
    "split": replace(SPEC, argv=("echo hi",)),
    "env": replace(SPEC, env=(("A", "1"),)),
    "cwd": replace(SPEC, working_dir="/tmp"),
    "stdin": replace(SPEC, stdin=b""),
    "file": replace(SPEC, files=(FileInput("x", b"1"),)),
    "archive": replace(SPEC, archive=b"1"),
    "limits": replace(SPEC, limits=Limits(timeout_ms=1)),
    "network": replace(SPEC, network=NetworkMode.EGRESS),
    "user": replace(SPEC, user="1000"),
    "own key": replace(SPEC, cache_key="k"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_decides_the_answer_is_in_the_key(name: str) -> None:
    assert key(CHANGES[name]) != key()


def test_tenants_and_images_never_share(clock: FakeClock) -> None:
    own = replace(SPEC, cache_key="k")

    assert key(tenant=B) != key()
    assert key(own, tenant=B) != key(own)
    assert key(image="sha256:1") != key()


def test_the_order_of_the_environment_does_not_matter() -> None:
    one = replace(SPEC, env=(("A", "1"), ("B", "2")))
    other = replace(SPEC, env=(("B", "2"), ("A", "1")))

    assert key(one) == key(other)


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_different_commands_never_share_a_key(left: list[str], right: list[str]) -> None:
    same = key(replace(SPEC, argv=tuple(left))) == key(replace(SPEC, argv=tuple(right)))

    assert same == (left == right)


async def test_one_miss_runs_and_the_others_wait(clock: FakeClock) -> None:
    cache = ResultCache(None, clock=clock)
    runs = 0

    async def ask() -> ExecutionResult:
        nonlocal runs
        async with cache.flight(key()) as flight:
            if flight.hit is not None:
                return flight.hit
            runs += 1
            await asyncio.sleep(0)
            cache.put(key(), RESULT)
            return RESULT

    answers = await asyncio.gather(*(ask() for _ in range(20)))

    assert runs == 1
    assert answers == [RESULT] * 20


async def test_when_the_first_fails_the_others_do_not_queue(clock: FakeClock) -> None:
    cache = ResultCache(None, clock=clock)
    inside, most = 0, 0

    async def fail() -> None:
        nonlocal inside, most
        async with cache.flight(key()) as flight:
            assert flight.hit is None
            inside += 1
            most = max(most, inside)
            for _ in range(20):
                await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(fail() for _ in range(10)))

    assert most == 9
    assert cache._flights == {}


async def test_when_the_first_fails_the_next_runs(clock: FakeClock) -> None:
    cache = ResultCache(None, clock=clock)

    async def fail() -> None:
        async with cache.flight(key()) as flight:
            assert flight.hit is None
            await asyncio.sleep(0)
            raise OSError("broken")

    results = await asyncio.gather(*(fail() for _ in range(3)), return_exceptions=True)

    assert [type(r) for r in results] == [OSError] * 3
    assert cache._flights == {}
