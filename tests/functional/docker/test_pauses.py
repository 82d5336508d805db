"""Pause containers: a namespace for each start, and none to join once something went wrong."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from tests.plugins.docker import Docker, docker, docker_engine, docker_root

from faas.docker.container import container_config, container_name
from faas.errors import SandboxBrokenError
from faas.ids import new_sandbox_id
from faas.sandbox.protocols import RootFilesystem, SandboxSpec

__all__ = ["docker", "docker_engine", "docker_root"]
pytestmark = [pytest.mark.needs_root, pytest.mark.needs_docker, pytest.mark.timeout(180)]


def namespace(sandbox) -> str:
    return str(Path(f"/proc/{sandbox._groups.pid}/ns/net").readlink())


async def test_every_sandbox_has_a_namespace_of_its_own(
    docker: Docker, docker_root: RootFilesystem
) -> None:
    specs = [SandboxSpec(new_sandbox_id(), docker_root) for _ in range(6)]
    made = await asyncio.gather(*(docker.runtime.create(spec) for spec in specs))
    seen = {namespace(sandbox) for sandbox in made}
    idle = {
        str(Path(f"/proc/{pause._pid}/ns/net").readlink()) for pause in docker.runtime._pauses._idle
    }
    assert len(seen) == 6
    assert not seen & idle
    assert len(docker.containers(label="faas.pause")) <= 4
    await asyncio.gather(*(sandbox.destroy("tested") for sandbox in made))


async def test_a_start_whose_end_is_unknown_has_no_namespace_to_join(
    docker: Docker, docker_root: RootFilesystem
) -> None:
    """The gateway gave up a start; the Engine does it later all the same."""
    engine, images = docker.runtime._opened()
    spec = SandboxSpec(new_sandbox_id(), docker_root)
    name = container_name(docker.tag, spec.id)

    async def give_up() -> None:
        async with docker.runtime._pauses.lend() as pause:
            config = container_config(
                spec, docker.runtime._settings, image=await images.ensure(docker_root),
                sockets=docker.data_dir, oci_runtime=None, pause=pause.name,
            )  # fmt: skip
            await engine.create(name, config)
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await give_up()
    argv = ["docker", "-H", docker.engine, "start", name]
    late = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=False)
    assert late.returncode != 0
    await engine.remove(name)


async def test_a_container_in_another_namespace_is_refused(
    docker: Docker, docker_root: RootFilesystem, monkeypatch
) -> None:
    monkeypatch.setattr("faas.docker.pauses.Pause.is_in", lambda _self, _pid: False)
    with pytest.raises(SandboxBrokenError, match="network"):
        await docker.runtime.create(SandboxSpec(new_sandbox_id(), docker_root))
    assert docker.containers() == []


async def test_a_pause_that_was_killed_is_replaced(
    docker: Docker, docker_root: RootFilesystem
) -> None:
    for _ in range(2):
        sandbox = await docker.runtime.create(SandboxSpec(new_sandbox_id(), docker_root))
        await sandbox.destroy("tested")
        pauses = docker.containers(label="faas.pause")
        argv = ["docker", "-H", docker.engine, "kill", *pauses]
        await asyncio.to_thread(subprocess.run, argv, check=True, stdout=-1)


async def test_the_pauses_of_a_dead_gateway_end_and_go_with_the_next(
    docker: Docker, docker_root: RootFilesystem
) -> None:
    sandbox = await docker.runtime.create(SandboxSpec(new_sandbox_id(), docker_root))
    await sandbox.destroy("tested")
    assert docker.containers(label="faas.pause")
    for pause in docker.runtime._pauses._idle:
        # What the kernel does with the connections of a process that is killed.
        pause._connection.close()
    running = ["docker", "-H", docker.engine, "ps", "-q", f"--filter=label=faas.data={docker.tag}"]
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(subprocess.check_output, running)).strip():
            await asyncio.sleep(0.05)
    second = docker.new_runtime()
    await second.start()
    await second.reclaim(keep=frozenset())
    assert docker.containers(label="faas.data") == []
    await second.aclose()
