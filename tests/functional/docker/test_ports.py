"""Ports of containers on a real Engine: without a network, by the same agent."""

import asyncio
import socket

import pytest
from tests.plugins.docker import docker, docker_engine, docker_root

from faas.errors import PortClosedError
from faas.ids import new_sandbox_id
from faas.model import Limits
from faas.sandbox.capabilities import Capability
from faas.sandbox.conformance import Bench
from faas.sandbox.protocols import SandboxSpec

__all__ = ["docker", "docker_engine", "docker_root"]
pytestmark = [pytest.mark.needs_docker, pytest.mark.timeout(180)]


@pytest.fixture
async def bench(docker, docker_root, tmp_path):
    limits = Limits(memory_bytes=64 << 20, disk_bytes=8 << 20, pids_max=32)
    sandbox = await docker.runtime.create(SandboxSpec(new_sandbox_id(), docker_root, limits))
    yield Bench(sandbox, tmp_path)
    await sandbox.destroy("tested")


async def ask(connection: socket.socket) -> bytes:
    loop, got = asyncio.get_running_loop(), b""
    await loop.sock_sendall(connection, b"GET /hello HTTP/1.0\r\n\r\n")
    while piece := await loop.sock_recv(connection, 4096):
        got += piece
    return got


async def test_a_port_of_a_container_is_reached_without_a_network(docker, bench: Bench) -> None:
    assert Capability.PORTS in docker.runtime.capabilities
    serve = "echo hi > /tmp/hello; httpd -p 127.0.0.1:8000 -h /tmp"
    started = await bench.run(serve, is_exclusive=False)
    assert started.code == 0
    async with asyncio.timeout(60):
        while True:
            try:
                connection = await bench.sandbox.connect(8000)
                break
            except PortClosedError:
                await asyncio.sleep(0.05)
    with connection:
        assert (await ask(connection)).endswith(b"hi\n")
    with pytest.raises(PortClosedError):
        await bench.sandbox.connect(8001)
    assert bench.sandbox.is_alive
    assert (bench.sandbox.cpu_us() or 0) > 0
    assert (bench.sandbox.memory_bytes() or 0) > 0
