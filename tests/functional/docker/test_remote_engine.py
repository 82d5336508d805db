"""An Engine over TCP with TLS: who may speak with it, and which version is spoken."""

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from tests.plugins.docker import docker_root
from tests.plugins.remote_engine import RemoteEngine, remote, remote_engine

from faas.assembly import open_platform
from faas.config import Settings, load
from faas.docker.address import EngineAddress
from faas.docker.container import RESERVED_UID
from faas.docker.engine import Engine
from faas.errors import (
    InvalidArgumentError,
    PortClosedError,
    RuntimeUnavailableError,
    UnsupportedError,
)
from faas.ids import new_sandbox_id
from faas.images import ImageStore
from faas.model import ExecutionSpec, ExitReason, Limits, NetworkMode
from faas.sandbox.capabilities import Capability
from faas.sandbox.conformance import Bench, until
from faas.sandbox.protocols import RootFilesystem, SandboxSpec
from faas.tenancy import LOCAL_PRINCIPAL

__all__ = ["docker_root", "remote", "remote_engine"]
pytestmark = [pytest.mark.needs_docker, pytest.mark.timeout(180)]


async def facts_of(address: EngineAddress) -> str:
    engine = Engine.connect(address)
    try:
        return (await engine.facts()).version
    finally:
        await engine.aclose()


async def test_an_engine_over_tls_answers_those_it_knows(remote_engine: RemoteEngine) -> None:
    known = EngineAddress(remote_engine.url, remote_engine.certificates)
    assert await facts_of(known)
    for wrong in (
        replace(known, certificates=None),
        replace(known, certificates=remote_engine.strangers),
        replace(known, url="tcp://127.0.0.1:1"),
    ):
        with pytest.raises(RuntimeUnavailableError) as refused:
            await facts_of(wrong)
        assert refused.value.hint


async def test_missing_certificates_and_addresses_of_nothing_are_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="certificates"):
        Engine.connect(EngineAddress("tcp://127.0.0.1:2376", tmp_path))
    with pytest.raises(RuntimeUnavailableError, match="not an address"):
        EngineAddress("ftp://x").check()


def test_the_variables_of_docker_say_where_the_engine_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2376")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    settings = load(environment={}).settings
    assert (settings.docker_address, settings.docker_is_tls) == ("tcp://127.0.0.1:2376", True)
    assert settings.docker_certificates == tmp_path


@pytest.mark.parametrize(
    ("least", "most", "spoken"),
    [("1.12", "1.41", "v1.41"), ("1.24", "1.51", "v1.41"), ("1.44", "1.52", "v1.44")],
)
async def test_the_version_is_one_that_both_speak(least: str, most: str, spoken: str) -> None:
    asked = []

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"ApiVersion": most, "MinAPIVersion": least})

    async def info(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"ServerVersion": "x", "SecurityOptions": []})

    app = web.Application()
    app.router.add_get("/version", version)
    app.router.add_get("/{version}/info", info)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        await facts_of(EngineAddress(f"tcp://127.0.0.1:{port}"))
    finally:
        await runner.cleanup()
    assert asked == [f"/{spoken}/info"]


@pytest.fixture
async def bench(remote, docker_root, tmp_path):
    limits = Limits(memory_bytes=64 << 20, disk_bytes=8 << 20, pids_max=32)
    sandbox = await remote.runtime.create(SandboxSpec(new_sandbox_id(), docker_root, limits))
    yield Bench(sandbox, tmp_path)
    await sandbox.destroy("tested")


async def test_no_command_reaches_the_agent_that_was_copied_in(bench: Bench) -> None:
    for attack in (
        "touch /.faas/x", "rm /.faas/agent", "echo x > /.faas/agent", "mv /.faas/run /.faas/r",
        "chmod 777 /.faas", "chown 0 /.faas/agent", "ls /.faas/run", "cat /.faas/run/spool/*",
        "kill -9 $(pidof faas-native agent relay) 1",
    ):  # fmt: skip
        assert (await bench.run(attack)).code != 0, attack
    relay = "for p in /proc/[0-9]*; do grep -qs relay $p/cmdline && echo ${p#/proc/}; done"
    await bench.run(f"kill -9 $({relay}); kill -9 -1; true")
    assert (await bench.run("echo alive")).code == 0
    assert bench.stdout.endswith(b"alive\n")


async def test_the_users_of_the_agent_cannot_be_taken(bench: Bench) -> None:
    with pytest.raises(InvalidArgumentError):
        await bench.run("true", uid=RESERVED_UID)


async def test_what_runs_ends_with_an_exclusive_command(bench: Bench) -> None:
    await bench.run("sleep 1000 & setsid sleep 1001 & true", is_exclusive=True)

    async def is_over() -> bool:
        await bench.run("ps | grep -c '[s]leep 100'")
        return bench.stdout.strip() == b"0"

    await until(is_over)  # a killed process is in the list for a moment


async def test_the_probe_says_which_way_the_agent_went(remote) -> None:
    report = await remote.runtime.probe()
    assert report.is_available
    assert "copied in" in report.detail


async def test_the_platform_runs_on_an_engine_elsewhere(
    remote_engine: RemoteEngine, docker_root: RootFilesystem, tmp_path: Path
) -> None:
    settings = Settings(
        data_dir=tmp_path / "data", runtimes=("docker",), docker_host=remote_engine.url,
        docker_tls_verify=True, docker_cert_path=str(remote_engine.certificates),
        disable_prewarm=True, parked_max=0,
    )  # fmt: skip
    assert docker_root.path is not None
    await ImageStore(tmp_path / "data" / "images").import_("alpine", docker_root.path)
    async with open_platform(settings) as platform:
        script = "cat; echo err >&2; head -c 300000 /dev/zero | tr '\\0' x"
        spec = ExecutionSpec(("/bin/sh", "-c", script), "alpine", stdin=b"in\n")
        record = await platform.executor.execute(spec, LOCAL_PRINCIPAL)
    assert record.result is not None
    assert record.result.stdout == b"in\n" + b"x" * 300_000
    assert (record.result.stderr, record.result.runtime_used) == (b"err\n", "docker")


async def until_open(bench: Bench, port: int) -> socket.socket:
    async with asyncio.timeout(60):
        while True:
            try:
                return await bench.sandbox.connect(port)
            except PortClosedError:
                await asyncio.sleep(0.05)


async def whole(connection: socket.socket, question: bytes) -> bytes:
    loop, got = asyncio.get_running_loop(), bytearray()
    await loop.sock_sendall(connection, question)
    while piece := await loop.sock_recv(connection, 1 << 16):
        got += piece
    return bytes(got)


async def test_ports_of_a_container_elsewhere_are_reached(remote, bench: Bench) -> None:
    assert Capability.PORTS in remote.runtime.capabilities
    serve = "head -c 3000000 /dev/zero > /tmp/big; echo hi > /tmp/hello; httpd -p 8000 -h /tmp"
    await bench.run(serve, is_exclusive=False)
    with await until_open(bench, 8000) as connection:
        assert (await whole(connection, b"GET /hello HTTP/1.0\r\n\r\n")).endswith(b"hi\n")
    with pytest.raises(PortClosedError, match="refused"):
        await bench.sandbox.connect(8001)
    idle = [await bench.sandbox.connect(8000) for _ in range(10)]
    with await bench.sandbox.connect(8000) as unread:
        await asyncio.get_running_loop().sock_sendall(unread, b"GET /big HTTP/1.0\r\n\r\n")
        answers = await asyncio.gather(*(whole(one, b"GET /big HTTP/1.0\r\n\r\n") for one in idle))
    assert {len(answer) for answer in answers} == {len(answers[0])}
    assert all(answer.endswith(b"\0" * 3_000_000) for answer in answers)
    for one in idle:
        one.close()
    relays = "for p in /proc/[0-9]*; do grep -qs tunnel $p/cmdline && echo ${p#/proc/}; done"
    await bench.run(f"kill -9 $({relays}); kill -9 -1; true")
    with await bench.sandbox.connect(8000) as connection:
        assert (await whole(connection, b"GET /hello HTTP/1.0\r\n\r\n")).endswith(b"hi\n")


async def test_what_is_used_elsewhere_is_counted(bench: Bench) -> None:
    spent = await bench.run("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
    assert spent.cpu_us > 50_000
    assert (spent.memory_peak_bytes or 0) > 0
    assert (bench.sandbox.cpu_us() or 0) > 50_000
    assert (bench.sandbox.memory_bytes() or 0) > 0
    ended = await bench.run("head -c 100000000 /dev/zero | tail -n 1")
    assert ended.reason is ExitReason.OUT_OF_MEMORY
    assert bench.sandbox.is_alive


async def test_egress_elsewhere_is_refused_with_the_reason(remote, docker_root) -> None:
    spec = SandboxSpec(new_sandbox_id(), docker_root, network=NetworkMode.EGRESS)
    with pytest.raises(UnsupportedError, match="on an Engine elsewhere"):
        await remote.runtime.create(spec)
