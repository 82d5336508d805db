"""Pre-warming: told when ready, bounded, kept a while and over a restart, let go when it fails."""

import asyncio

import pytest

from faas.clock import Deadline
from faas.errors import (
    ImageNotFoundError,
    InvalidArgumentError,
    QuotaExceededError,
    ResourceExhaustedError,
    SandboxBrokenError,
    UnavailableError,
    UnsupportedError,
)
from faas.executor.fake import FakePlatform
from faas.executor.pool_records import load
from faas.ids import TenantId
from faas.model import ExecutionSpec
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL
from faas.tenancy import Principal, Quota, Scope, Tenant

OTHER = Principal(Tenant(TenantId("other"), Quota(running_max=3)), frozenset({Scope.ADMIN}))


def ask(image: str = "python", **fields) -> ExecutionSpec:
    return ExecutionSpec(argv=("true",), image=image, **fields)


async def prewarm(platform: FakePlatform, count: int, image: str = "python", who=LOCAL, **fields):
    seconds = fields.pop("seconds", None)
    return await platform.executor.prewarm(
        ask(image, **fields),
        who,
        count=count,
        keep_seconds=60,
        deadline=Deadline.after(platform.clock, seconds),
    )


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


async def until(done) -> None:
    """Files are written in threads, which takes real time."""
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0.001)


def pool(platform: FakePlatform, image: str = "python"):
    found = [s for t, s in platform.executor.stats().templates.items() if t.image_digest == image]
    return found[0] if found else None


async def test_it_answers_when_they_are_really_there(platform):
    made = await prewarm(platform, 3)
    assert made.is_ready
    assert (made.stats.ready, made.requested, made.template.runtime) == (3, 3, "fake")
    boxes = [b for b in platform.host.boxes.values() if b.spec.root.digest == "python"]
    assert len(boxes) == 3


async def test_an_execution_takes_one_and_it_is_made_again(platform):
    await prewarm(platform, 2)
    before = {id(b) for b in platform.host.boxes.values() if b.spec.root.digest == "python"}
    record = await platform.executor.execute(ask(), LOCAL)
    assert platform.executor.stats().from_pool == 1
    await settle()
    assert record.result.exit_code == 0
    assert pool(platform).ready == 2
    after = {id(b) for b in platform.host.boxes.values() if b.spec.root.digest == "python"}
    assert before != after


async def test_when_time_is_up_it_says_how_far_it_came(platform):
    platform.host.create_seconds = 5.0
    call = asyncio.ensure_future(prewarm(platform, 4, seconds=7.0))
    await until(lambda: pool(platform) is not None)
    await settle()
    await platform.clock.advance(5.0)
    await settle()
    await platform.clock.advance(2.0)
    made = await call
    assert not made.is_ready
    assert (made.stats.ready, made.stats.making, made.stats.target) == (2, 2, 4)
    await platform.clock.advance(5.0)
    await settle()
    assert pool(platform).ready == 4


async def test_more_than_the_ceiling_is_the_callers_mistake(platform):
    with pytest.raises(InvalidArgumentError, match="ceiling of 64"):
        await prewarm(platform, 65)


async def test_no_more_than_the_tenant_may_run(platform):
    await prewarm(platform, 2, who=OTHER)
    with pytest.raises(QuotaExceededError):
        await prewarm(platform, 2, image="node", who=OTHER)
    assert (await prewarm(platform, 1, image="node", who=OTHER)).is_ready


async def test_no_more_than_the_pools_have_room_for(open_platform):
    platform = await open_platform(pool_size=2, pool_max=6)
    await prewarm(platform, 3)
    with pytest.raises(ResourceExhaustedError) as caught:
        await prewarm(platform, 2, image="node")
    assert caught.value.details["kept"] == 5
    assert (await prewarm(platform, 1, image="node")).is_ready
    await platform.executor.aclose()


async def test_no_more_than_fits_into_the_memory_set_aside(open_platform):
    platform = await open_platform(pool_size=0, pool_memory_bytes=4 * (16 << 20))
    with pytest.raises(ResourceExhaustedError):
        await prewarm(platform, 5)
    assert (await prewarm(platform, 4)).is_ready
    await platform.executor.aclose()


async def test_two_tenants_wants_add_up_and_each_ends_its_own(platform):
    await prewarm(platform, 2)
    await prewarm(platform, 3, who=OTHER)
    assert pool(platform).kept == 5
    await prewarm(platform, 0)
    await platform.clock.advance(1.0)
    await settle()
    assert (pool(platform).kept, pool(platform).ready) == (3, 3)


async def test_asking_again_replaces_and_renews(platform):
    first = await prewarm(platform, 4)
    await platform.clock.advance(40.0)
    second = await prewarm(platform, 2)
    assert second.expires_at > first.expires_at
    assert pool(platform).kept == 2
    await platform.clock.advance(40.0)
    await settle()
    assert pool(platform).kept == 2


async def test_it_ends_after_its_time(platform):
    await prewarm(platform, 4)
    await platform.clock.advance(61.0)
    await settle()
    await platform.clock.advance(61.0)
    await settle()
    assert pool(platform) is None or pool(platform).ready == 0
    assert not [b for b in platform.host.boxes.values() if b.spec.root.digest == "python"]


async def test_what_cannot_be_made_is_told_and_not_kept(platform):
    platform.host.fail_next_creates(3)
    call = asyncio.ensure_future(prewarm(platform, 1))
    for _ in range(10):
        await until(lambda: pool(platform) is not None or call.done())
        await settle()
        await platform.clock.advance(1.0)
    with pytest.raises(SandboxBrokenError):
        await call
    assert pool(platform).kept == 0
    assert load(platform.data_dir / "pools.json").reservations == ()


async def test_one_failure_is_chance_and_is_waited_out(platform):
    platform.host.fail_next_creates(1)
    call = asyncio.ensure_future(prewarm(platform, 1))
    await until(lambda: pool(platform) is not None)
    await settle()
    await platform.clock.advance(1.0)
    assert (await call).is_ready


async def test_an_image_that_is_not_there_is_refused_at_once(platform):
    def resolve(reference: str):
        raise ImageNotFoundError(f"no {reference}")

    platform.images.resolve = resolve
    with pytest.raises(ImageNotFoundError):
        await prewarm(platform, 1, image="nowhere")


async def test_a_gateway_without_pools_says_so(open_platform):
    platform = await open_platform(pool_size=0, pool_max=0)
    with pytest.raises(UnsupportedError, match="keeps no sandbox ready"):
        await prewarm(platform, 1)
    await platform.executor.aclose()


async def test_a_gateway_that_closes_ends_the_wait(platform):
    platform.host.create_seconds = 50.0
    call = asyncio.ensure_future(prewarm(platform, 1))
    await until(lambda: pool(platform) is not None)
    await settle()
    await platform.executor.drain(grace_seconds=0)
    with pytest.raises(UnavailableError):
        await call


@pytest.mark.parametrize("is_killed", [True, False])
async def test_it_outlives_the_gateway(open_platform, is_killed):
    platform = await open_platform()
    await prewarm(platform, 3)
    if is_killed:
        await platform.crash()
    else:
        await platform.executor.aclose()
    following = await platform.reopen()
    await settle()
    assert (pool(following).ready, pool(following).kept) == (3, 3)
    boxes = [b for b in platform.host.boxes.values() if b.spec.root.digest == "python"]
    assert len(boxes) == 3, "what the dead gateway had ready is reclaimed, never handed out"
    await following.executor.aclose()


async def test_what_expired_while_no_gateway_ran_stays_gone(open_platform):
    platform = await open_platform()
    await prewarm(platform, 3)
    await platform.executor.aclose()
    await platform.clock.advance(3600.0)
    following = await platform.reopen()
    await settle()
    assert pool(following) is None or pool(following).kept == 0
    await following.executor.aclose()


async def test_what_was_used_lately_is_ready_again_after_a_restart(open_platform):
    platform = await open_platform()
    await platform.executor.execute(ask("node"), LOCAL)
    await platform.executor.aclose()
    following = await platform.reopen()
    await settle()
    assert pool(following, "node").ready == 1
    await following.executor.aclose()


async def test_a_damaged_file_holds_nobody_up(open_platform):
    platform = await open_platform()
    await platform.executor.aclose()
    (platform.data_dir / "pools.json").write_bytes(b'{"reservations": [')
    following = await platform.reopen()
    assert (await prewarm(following, 1)).is_ready
    await following.executor.aclose()


async def test_many_calls_at_once_never_reserve_more_than_there_is_room_for(open_platform):
    platform = await open_platform(pool_size=0, pool_max=8)
    calls = [prewarm(platform, 2, image=f"i{n}") for n in range(8)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, ResourceExhaustedError)]
    assert len(refused) == 4
    assert sum(s.kept for s in platform.executor.stats().templates.values()) == 8
    await platform.executor.aclose()
