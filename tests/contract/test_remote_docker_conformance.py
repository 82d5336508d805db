"""The Docker runtime keeps the same rules where the Engine shares nothing with this machine.

What differs is only how the agent is reached: copied in, and relayed to over the Engine's API.
"""

import pytest
from tests.plugins.docker import docker_root
from tests.plugins.remote_engine import remote, remote_engine

from faas.sandbox.conformance import RuntimeConformance

__all__ = ["docker_root", "remote", "remote_engine"]


@pytest.mark.needs_docker
class TestRemoteDocker(RuntimeConformance):
    @pytest.fixture(autouse=True)
    def use_image(self, docker_root):
        self.root = docker_root

    @pytest.fixture
    async def runtime(self, remote):
        return remote.runtime

    @pytest.fixture
    async def reopen(self, remote):
        opened = []

        async def another():
            made = remote.new_runtime()
            await made.start()
            opened.append(made)
            return made

        yield another
        for made in opened:
            await made.aclose()
