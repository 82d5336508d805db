"""The Docker runtime keeps every rule of `faas.sandbox.protocols`, on a real Engine."""

from dataclasses import replace

import pytest
from tests.plugins.docker import docker, docker_engine, docker_root

from faas.errors import UnsupportedError
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


@pytest.mark.needs_docker
class TestGvisor(TestDocker):
    """The same where system calls are answered by gVisor: a request demands it."""

    def spec(self, **fields):
        return replace(super().spec(**fields), isolation_min="gvisor")

    async def test_a_terminal_has_the_size_asked_for(self, bench):
        """Debian 12's gVisor gives a new session no terminal: refused, not faked."""
        with pytest.raises(UnsupportedError, match="terminal"):
            await bench.sh("stty size", tty=True)
