"""An image taken from the Engine by `docker rmi -f` while containers of it wait.

What is ready runs, what must be made is made again or refused by name, and nothing is left.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.functional.docker.test_engine_images import World, base, made, stdout
from tests.plugins.docker import docker_engine, script

from faas.assembly import open_platform
from faas.clock import Deadline
from faas.config import Settings
from faas.docker.engine_images import REPOSITORY
from faas.errors import ImageNotFoundError
from faas.executor.pool_shelf import Template
from faas.images.provider import BELIEVED_SECONDS
from faas.model import ExecutionSpec, PullPolicy, RuntimeChoice
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL

__all__ = ["base", "docker_engine"]
pytestmark = [pytest.mark.needs_docker, pytest.mark.timeout(180)]
READY = 3


class Place(World):
    """A world that says which images it leaves to be removed."""

    left: tuple[str, ...] = ()


@pytest.fixture
async def world(docker_engine: str, tmp_path: Path) -> AsyncIterator[Place]:
    settings = Settings(
        data_dir=tmp_path / "data", runtimes=("docker", "noop"), docker_host=docker_engine,
        pool_size=0, parked_max=0, default_image="host",
    )  # fmt: skip
    async with open_platform(settings) as platform:
        place = Place(platform, docker_engine, tmp_path / "docker-home")
        yield place
    assert containers(place, label="faas.data") == []
    for image in place.left:
        place.cli("rmi", "-f", image)


def containers(world: World, *, label: str = "faas.sandbox") -> list[str]:
    ours = f"label=faas.data={world.platform.data_dir.tag}"
    return world.cli("ps", "-aq", "--filter", ours, "--filter", f"label={label}").split()


async def warmed(world: World, image: str) -> Template:
    spec = ExecutionSpec(
        ("true",), image, runtime=RuntimeChoice.DOCKER, pull_policy=PullPolicy.NEVER
    )
    made = await world.platform.executor.prewarm(
        spec, LOCAL, count=READY, keep_seconds=600, deadline=Deadline(None)
    )
    assert made.is_ready
    return made.template


async def run(world: World, image: str) -> str:
    return stdout(await world.run(image, policy=PullPolicy.NEVER))


async def test_a_tree_of_ours_is_given_to_the_engine_again(world: World) -> None:
    """Forced, the Engine drops the name although containers use it; what waits runs on."""
    archive = await asyncio.to_thread(script, "test_images.sh", "alpine")
    kept = await world.images.import_("alpine", Path(archive))
    await warmed(world, "alpine")
    name = f"{REPOSITORY}:{kept.digest.removeprefix('sha256:')}"
    await asyncio.to_thread(world.cli, "rmi", "-f", name)
    records = await asyncio.gather(
        *(world.run("alpine", "echo on", policy=PullPolicy.NEVER) for _ in range(READY + 3))
    )
    assert [stdout(record) for record in records] == ["on"] * len(records)
    assert world.platform.executor.stats().from_pool >= READY
    assert await asyncio.to_thread(world.cli, "image", "inspect", name)


async def test_a_name_that_was_taken_away_is_not_found_and_its_containers_are_not_lost(
    world: Place, base: str
) -> None:
    name = f"faas-test-pool:{world.platform.data_dir.tag}"
    digest = await asyncio.to_thread(made, world.engine, base, name, "pooled")
    template = await warmed(world, name)
    await asyncio.to_thread(world.cli, "rmi", "-f", name)
    await asyncio.sleep(BELIEVED_SECONDS)
    with pytest.raises(ImageNotFoundError) as refused:
        await run(world, name)
    assert "pull" in (refused.value.hint or "")
    # The image itself lives as long as a container of it does, and is found by its digest.
    before = world.platform.executor.stats().from_pool
    assert await run(world, digest) == "pooled"
    assert world.platform.executor.stats().from_pool == before + 1
    assert world.platform.executor.stats().templates[template].kept == READY
    world.left = (digest,)


async def test_an_image_that_is_wholly_gone_is_told_and_other_runtimes_go_on(
    world: World, base: str
) -> None:
    """Its containers first, as the Engine wants it, in the middle of executions."""
    name = f"faas-test-pool:{world.platform.data_dir.tag}"
    digest = await asyncio.to_thread(made, world.engine, base, name, "pooled")
    template = await warmed(world, name)
    running = asyncio.gather(
        *(world.run(name, "sleep 0.2; cat /mark") for _ in range(2)), return_exceptions=True
    )
    await asyncio.sleep(0.05)
    async with asyncio.timeout(60):
        while True:
            ids = await asyncio.to_thread(containers, world)
            if ids:
                await asyncio.to_thread(world.cli, "rm", "-f", *ids)
            try:
                await asyncio.to_thread(world.cli, "rmi", "-f", digest)
                break
            except subprocess.CalledProcessError:  # a container was made meanwhile
                continue
    await running
    await asyncio.sleep(BELIEVED_SECONDS)
    for image in (name, digest):
        with pytest.raises(ImageNotFoundError) as refused:
            await run(world, image)
        assert refused.value.hint
    async with asyncio.timeout(30):
        while world.platform.executor.stats().templates[template].ready:
            await asyncio.sleep(0.05)
    spec = ExecutionSpec(("true",), "host", runtime=RuntimeChoice.AUTO)
    assert (await world.platform.executor.execute(spec, LOCAL)).result is not None
