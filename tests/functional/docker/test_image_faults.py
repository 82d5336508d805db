"""Images while things go wrong: a registry that dies, a full disk, an Engine that is slow."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.functional.docker.test_engine_images import World, base, opened, publish
from tests.plugins.docker import REPOSITORY, docker_engine
from tests.plugins.registry import Registry, needs_registry, registry
from tests.unit.images.archives import directory, file, oci_layout, tar

from faas.errors import DeadlineExceededError, ImageNotFoundError, UnavailableError
from faas.executor.images import ImageAsk
from faas.model import PullPolicy

__all__ = ["base", "docker_engine", "registry"]
pytestmark = [pytest.mark.needs_docker, pytest.mark.timeout(240), needs_registry]


@asynccontextmanager
async def between(
    target: tuple[str, int] | str, *, upto: int | None = None, stalls_at: bytes | None = None
) -> AsyncIterator[tuple[int, str]]:
    """Stand between a client and what it talks to: cut answers after so many bytes, or hold back
    requests that begin with something. Yields a port and a socket's path."""

    async def carry(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None
    ) -> None:
        passed = 0
        while data := await reader.read(1 << 16):
            passed += len(data)
            if stalls_at is not None and stalls_at in data:
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()
            if most is not None and passed > most:
                break
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(target, str):
            far_reader, far_writer = await asyncio.open_unix_connection(target)
        else:
            far_reader, far_writer = await asyncio.open_connection(*target)
        ways = [
            asyncio.ensure_future(carry(reader, far_writer, None)),
            asyncio.ensure_future(carry(far_reader, writer, upto)),
        ]
        running.extend(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()
        far_writer.close()

    running: list[asyncio.Future[None]] = []
    with tempfile.TemporaryDirectory(prefix="faas-between-") as place:
        path = f"{place}/engine.sock"
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        local = await asyncio.start_unix_server(serve, path)
        try:
            yield server.sockets[0].getsockname()[1], path
        finally:
            server.close()
            local.close()
            for way in running:
                way.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def test_a_registry_that_dies_in_the_middle_leaves_nothing_and_can_be_tried_again(
    docker_engine: str, registry: Registry, tmp_path: Path
) -> None:
    await asyncio.to_thread(_layout, tmp_path / "big")
    await asyncio.to_thread(registry.push, tmp_path / "big", "cut:1")
    host, port = registry.address.split(":")
    async with (
        between((host, int(port)), upto=200_000) as (cut, _),
        opened(docker_engine, tmp_path, f"127.0.0.1:{cut}", registry.address) as world,
    ):
        name = f"127.0.0.1:{cut}/cut:1"
        # The Engine tries for a minute; its caller need not wait as long.
        with pytest.raises((UnavailableError, DeadlineExceededError)):
            await world.pull(name, seconds_max=10)
        with pytest.raises(ImageNotFoundError):
            await world.run(name, policy=PullPolicy.NEVER)
        assert (await world.pull(registry.name("cut:1"))).keeper == "docker"
        await world.images.remove(registry.name("cut:1"))


async def test_an_engine_that_answers_slowly_is_given_no_more_than_the_caller_allows(
    docker_engine: str, registry: Registry, tmp_path: Path, base: str
) -> None:
    await publish(docker_engine, registry, base, "slow:1", "one")
    socket = docker_engine.removeprefix("unix://")
    async with (
        between(socket, stalls_at=b"/images/create") as (_, path),
        opened(f"unix://{path}", tmp_path, registry.address) as world,
    ):
        name = registry.name("slow:1")
        with pytest.raises(DeadlineExceededError, match="took longer"):
            await world.run(name, ask=ImageAsk(seconds_max=2))
        listed = await world.images.list()
        assert "host" in {one.reference for one in listed}


@pytest.fixture
def small_engine() -> Iterator[str]:
    """An Engine whose disk holds little."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory(prefix="faas-small-") as place:
        data = Path(place) / "data"
        data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", data], check=True)
        environment = {**os.environ, "FAAS_TEST_DOCKER": place}
        run = str(REPOSITORY / "scripts" / "docker_engine.sh")
        try:
            done = subprocess.run([run, "start"], env=environment, stdout=-1, text=True, check=True)
            yield done.stdout.strip()
        finally:
            subprocess.run([run, "stop"], env=environment, check=False)
            subprocess.run(["umount", "-lq", data], check=False)


async def test_a_full_disk_is_told_for_what_it_is(
    small_engine: str, registry: Registry, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    await asyncio.to_thread(_layout, big)
    await asyncio.to_thread(registry.push, big, "big:1")
    async with opened_small(small_engine, tmp_path, registry.address) as world:
        with pytest.raises(UnavailableError, match="no room on disk"):
            await world.pull(registry.name("big:1"))
        assert world.images.resolve("host").digest == "host"


@asynccontextmanager
async def opened_small(engine: str, place: Path, address: str) -> AsyncIterator[World]:
    """Its probe finds no room for an image either, so its shelf is opened by itself."""
    async with opened(engine, place, address) as world:
        runtime = world.platform.registry.get("docker")
        shelf = runtime.shelf
        assert shelf is not None
        world.images._shelves = lambda: {"docker": shelf}
        yield world


def _layout(target: Path) -> None:
    """An image of noise, which no Engine has yet and nothing makes smaller."""
    layer = tar([directory("bin"), file("bin/noise", os.urandom(8 << 20))])
    oci_layout(target, [layer])
