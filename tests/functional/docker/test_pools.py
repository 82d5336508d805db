"""Warm pools, choice and dependency caches over a real Engine."""

import asyncio
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.plugins.docker import (
    another_engine,
    docker_engine,
    docker_root,
    engine_directory,
    script,
)

from faas.assembly import Platform, open_platform
from faas.clock import Deadline
from faas.config import Settings
from faas.errors import RuntimeUnavailableError, UnsupportedError
from faas.images import ImageStore
from faas.model import ExecutionSpec, RuntimeChoice
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL

__all__ = ["docker_engine", "docker_root"]
pytestmark = [pytest.mark.needs_docker, pytest.mark.timeout(180)]


@asynccontextmanager
async def open_one(engine: str, tmp_path: Path, *runtimes: str) -> AsyncGenerator[Platform]:
    archive = script("test_images.sh", "alpine")
    data = tmp_path / "data"
    await ImageStore(data / "images").import_("alpine", Path(archive))
    settings = Settings(
        data_dir=data,
        runtimes=runtimes or ("docker",),
        docker_host=engine,
        default_image="alpine",
        pool_size=0,
    )
    async with open_platform(settings) as opened:
        yield opened


@pytest.fixture
async def platform(docker_engine: str, tmp_path: Path) -> AsyncIterator[Platform]:
    async with open_one(docker_engine, tmp_path) as opened:
        yield opened


def ask(command: str, **fields) -> ExecutionSpec:
    return ExecutionSpec(
        ("/bin/sh", "-c", command), "alpine", runtime=RuntimeChoice.DOCKER, **fields
    )


async def prewarm(platform: Platform, count: int):
    return await platform.executor.prewarm(
        ask("true"), LOCAL, count=count, keep_seconds=600, deadline=Deadline(None)
    )


def containers(platform: Platform, engine: str) -> list[str]:
    label = f"label=faas.data={platform.data_dir.tag}"
    argv = ["docker", "-H", engine, "ps", "-q", "--filter", label, "--filter", "label=faas.sandbox"]
    return subprocess.run(argv, stdout=-1, text=True, check=True).stdout.split()


async def test_pre_warmed_containers_are_there_and_are_used_once(
    platform: Platform, docker_engine: str
) -> None:
    made = await prewarm(platform, 3)
    assert made.is_ready
    ready = await asyncio.to_thread(containers, platform, docker_engine)
    assert len(ready) >= 3
    script_ = "test -e /tmp/mark && echo used; echo x > /tmp/mark"
    records = await asyncio.gather(
        *(platform.executor.execute(ask(script_), LOCAL) for _ in range(8))
    )
    results = [record.result for record in records]
    assert {r.stdout for r in results if r} == {b""}
    assert len({r.sandbox_id for r in results if r}) == 8
    assert {r.runtime_reason for r in results if r} == {"asked for"}
    assert platform.executor.stats().from_pool >= 3


async def test_containers_killed_from_outside_are_never_handed_out_and_made_again(
    platform: Platform, docker_engine: str
) -> None:
    await prewarm(platform, 2)
    ready = await asyncio.to_thread(containers, platform, docker_engine)
    argv = ["docker", "-H", docker_engine, "rm", "-f", *ready]
    await asyncio.to_thread(subprocess.run, argv, stdout=-1, check=True)
    template = (await prewarm(platform, 2)).template
    async with asyncio.timeout(60):
        while platform.executor.stats().templates[template].ready < 2:
            await asyncio.sleep(0.05)
        again = await asyncio.to_thread(containers, platform, docker_engine)
        while set(again) & set(ready) or len(again) < 2:
            await asyncio.sleep(0.05)
            again = await asyncio.to_thread(containers, platform, docker_engine)
    record = await platform.executor.execute(ask("echo on"), LOCAL)
    assert record.result is not None
    assert record.result.stdout == b"on\n"


async def test_a_cache_goes_from_one_container_to_the_next(platform: Platform) -> None:
    await prewarm(platform, 1)
    write = "cd $npm_config_cache && mkdir -p _cacache/index-v5 && echo good > _cacache/index-v5/a"
    for script_, expected in ((write, b""), ("cat $npm_config_cache/_cacache/*/a", b"good\n")):
        record = await platform.executor.execute(ask(script_, caches=("npm",)), LOCAL)
        assert record.result is not None
        assert (record.result.exit_code, record.result.stdout) == (0, expected), record.result
    evil = await platform.executor.execute(
        ask("echo evil > $npm_config_cache/_cacache/index-v5/a", caches=("npm",)), LOCAL
    )
    assert evil.result is not None
    assert evil.result.caches[0].added == 0
    last = await platform.executor.execute(
        ask("cat $npm_config_cache/_cacache/*/a", caches=("npm",), user="1000"), LOCAL
    )
    assert last.result is not None
    assert last.result.stdout == b"good\n"


async def test_the_pool_survives_a_restart_of_its_engine(tmp_path: Path) -> None:
    """While it is down an execution is told so at once; afterwards the pool fills by itself."""
    where = {"FAAS_TEST_DOCKER": str(engine_directory() / "pools")}
    with another_engine("pools") as engine:
        async with open_one(engine, tmp_path) as platform:
            template = (await prewarm(platform, 2)).template
            before = await asyncio.to_thread(containers, platform, engine)
            await asyncio.to_thread(script, "docker_engine.sh", "stop", **where)
            async with asyncio.timeout(60):
                while platform.executor.stats().templates[template].ready:
                    await asyncio.sleep(0.05)
            with pytest.raises(RuntimeUnavailableError):
                await platform.executor.execute(ask("true"), LOCAL)
            pool = platform.executor.stats().templates[template]
            assert pool.kept == 2
            await asyncio.to_thread(script, "docker_engine.sh", "start", **where)
            async with asyncio.timeout(120):
                while platform.executor.stats().templates[template].ready < 2:
                    await asyncio.sleep(0.1)
                while "docker" not in {r.name for r in platform.registry.available()}:
                    await asyncio.sleep(0.1)
            record = await platform.executor.execute(ask("echo on"), LOCAL)
            assert record.result is not None
            assert record.result.stdout == b"on\n"
            after = await asyncio.to_thread(containers, platform, engine)
            assert not set(before) & set(after)


@pytest.mark.needs_root
async def test_auto_chooses_among_real_runtimes_and_says_why(
    docker_engine: str, tmp_path: Path
) -> None:
    async with open_one(docker_engine, tmp_path, "embedded", "docker") as platform:

        async def why(image: str, **fields) -> tuple[str, str]:
            spec = ExecutionSpec(("/bin/sh", "-c", "true"), image, **fields)
            result = (await platform.executor.execute(spec, LOCAL)).result
            assert result is not None
            return result.runtime_used, result.runtime_reason

        only = "auto: the only one here that can"
        assert await why("host") == ("embedded", only)
        # gVisor is stronger than demanded, where the Engine has it; ours is sooner all the same.
        assert (await why("alpine", isolation_min="userns"))[0] == "embedded"
        assert await why("alpine", runtime=RuntimeChoice.DOCKER) == ("docker", "asked for")
        chosen, reason = await why("alpine")
        assert chosen in {"embedded", "docker"}
        assert reason.startswith("auto: ")
        with pytest.raises(UnsupportedError) as caught:
            await why("alpine", isolation_min="microvm")
        assert set(caught.value.details["supported"]) == {"embedded", "docker"}
        with pytest.raises(UnsupportedError, match="the image host"):
            await why("host", runtime=RuntimeChoice.DOCKER)
