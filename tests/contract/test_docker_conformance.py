"""The Docker runtime keeps every rule of `faas.sandbox.protocols`, on a real Engine."""

import pytest
from tests.plugins.docker import docker, docker_engine, docker_root

from faas.sandbox.conformance import RuntimeConformance

__all__ = ["docker", "docker_engine", "docker_root"]


@pytest.mark.needs_docker
class TestDocker(RuntimeConformance):
    @pytest.fixture(autouse=True)
    def use_image(self, docker_root):
        self.root = docker_root

    @pytest.fixture
    async def runtime(self, docker):
        return docker.runtime

    @pytest.fixture
    async def reopen(self, docker):
        opened = []

        async def another():
            made = docker.new_runtime()
            await made.start()
            opened.append(made)
            return made

        yield another
        for made in opened:
            await made.aclose()
