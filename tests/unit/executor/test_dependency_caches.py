"""Caches in the life of an execution: put in, kept when it ended well, kept over a restart."""

import asyncio

import pytest

from faas.caches import CacheBounds, CacheName, CacheStore
from faas.errors import InvalidArgumentError, UnsupportedError
from faas.executor.dependency_caches import environment
from faas.executor.fake import FakePlatform
from faas.model import CacheReport, ExecutionSpec, FileInput, Mode
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL

PLACE = "/tmp/.faas-caches/pip"


def ask(script: str, *, leaves: str | None = None, **fields) -> ExecutionSpec:
    """A run whose command, as it were, wrote a file into its cache."""
    files = () if leaves is None else (FileInput(f"{PLACE}/{leaves}", b"content"),)
    fields = {"caches": ("pip",), "files": files} | fields
    return ExecutionSpec(argv=("sh", "-c", script), image="host", **fields)


async def kept(platform: FakePlatform) -> set[str]:
    store = CacheStore(platform.data_dir / "dependency-caches")
    layers = await store.layers(LOCAL.tenant.id, CacheName.PIP, bytes_max=1 << 30)
    return {layer.name for layer in layers}


async def test_what_a_run_added_is_kept_and_said(platform):
    record = await platform.executor.execute(ask("true", leaves="wheel"), LOCAL)
    assert record.result.caches == (CacheReport("pip", 1, 7, 0),)
    assert len(await kept(platform)) == 1
    again = await platform.executor.execute(ask("true", leaves="wheel"), LOCAL)
    assert again.result.caches == (CacheReport("pip"),)
    stored = await platform.executor.get(record.id, LOCAL)
    assert stored.result.caches == record.result.caches


@pytest.mark.parametrize("fields", [{"script": "exit 1"}, {"script": "true", "cache_write": False}])
async def test_a_failed_run_or_one_that_may_not_leaves_nothing(platform, fields):
    record = await platform.executor.execute(ask(**fields, leaves="wheel"), LOCAL)
    assert record.result.caches == (CacheReport("pip"),)
    assert not await kept(platform)


async def test_without_caches_nothing_is_told_or_kept(platform):
    record = await platform.executor.execute(ask("true", caches=()), LOCAL)
    assert record.result.caches == ()
    assert PLACE not in str(platform.host.started[-1].env)


async def test_the_tool_is_told_and_the_requests_own_word_wins(platform):
    await platform.executor.execute(ask("true"), LOCAL)
    assert dict(platform.host.started[-1].env)["PIP_CACHE_DIR"] == PLACE
    await platform.executor.execute(ask("true", env=(("PIP_CACHE_DIR", "/mine"),)), LOCAL)
    assert dict(platform.host.started[-1].env)["PIP_CACHE_DIR"] == "/mine"
    assert environment(["go"]).keys() == {"GOMODCACHE", "GOCACHE"}


async def test_a_command_taken_up_after_a_kill_keeps_its_cache(open_platform):
    platform = await open_platform()
    submitted = await platform.executor.submit(ask("sleep 5", leaves="wheel"), LOCAL)
    async with asyncio.timeout(30):
        while not platform.host.started:
            await asyncio.sleep(0.001)
    await platform.crash()
    following = await platform.reopen()
    await platform.clock.advance(6.0)
    record = await following.executor.wait(submitted.id, LOCAL)
    assert record.result.caches == (CacheReport("pip", 1, 7, 0),)
    await following.executor.aclose()


async def test_a_snapshot_does_not_hold_the_caches(platform):
    spec = ask("true", leaves="wheel", mode=Mode.CHECKPOINTED)
    record = await platform.executor.execute(spec, LOCAL)
    assert record.result.caches[0].added == 1
    listed = await platform.snapshots.get(record.result.snapshot_id)
    assert "wheel" not in str(listed)


async def test_an_instance_has_no_need_of_them(platform):
    with pytest.raises(InvalidArgumentError, match="keeps its own caches"):
        await platform.executor.execute(ask("true", mode=Mode.PERSISTENT), LOCAL)


async def test_a_gateway_that_keeps_none_says_so(open_platform):
    platform = await open_platform(dependency_caches=CacheBounds(tenant_bytes_max=0))
    with pytest.raises(UnsupportedError, match="keeps no dependency caches"):
        await platform.executor.execute(ask("true"), LOCAL)
    await platform.executor.aclose()
