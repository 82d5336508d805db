"""An Engine over TCP with TLS: who may speak with it, and which version is spoken."""

from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from tests.plugins.docker import docker_engine
from tests.plugins.remote_engine import RemoteEngine, remote_engine

from faas.config import load
from faas.docker.address import EngineAddress
from faas.docker.engine import Engine
from faas.errors import RuntimeUnavailableError

__all__ = ["docker_engine", "remote_engine"]
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
