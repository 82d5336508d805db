"""A real registry on loopback, on a free port, with or without a password."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_registry = pytest.mark.skipif(
    shutil.which("skopeo") is None or shutil.which("docker-registry") is None,
    reason="needs skopeo and docker-registry: apt-get install skopeo docker-registry",
)

PASSWORD = "correct-horse-7"
HTPASSWD = "faas:$2y$05$abcdefghijklmnopqrstuuBYe9o9CGi/BHa4OAlLpruMUDfwV3Rby\n"
"""The same, as bcrypt: the only form the registry takes."""


@dataclass(frozen=True)
class Registry:
    address: str
    pulled: Path
    """The registry's log of requests."""
    is_private: bool = False

    def name(self, repository: str) -> str:
        return f"{self.address}/{repository}"

    def push(self, layout: Path, repository: str, *options: str) -> None:
        argv = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *options]
        target = f"docker://{self.name(repository)}"
        subprocess.run([*argv, f"oci:{layout}", target], check=True, stdin=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _configuration(where: Path, port: int, *, auth: str) -> Path:
    path = where / "config.json"
    settings = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(where / "blobs")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if auth:
        (where / "htpasswd").write_text(auth)
        settings["auth"] = {"htpasswd": {"realm": "faas", "path": str(where / "htpasswd")}}
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


async def _serve(where: Path, *, auth: str = "") -> AsyncIterator[Registry]:
    where.mkdir()
    port = free_port()
    config = _configuration(where, port, auth=auth)
    log = (where / "log").open("wb")
    child = await asyncio.create_subprocess_exec(
        "docker-registry", "serve", str(config), stdout=log, stderr=log
    )
    log.close()
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                await writer.wait_closed()
                break
        yield Registry(f"127.0.0.1:{port}", where / "log", bool(auth))
    finally:
        child.send_signal(signal.SIGTERM)
        await child.wait()


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async for one in _serve(tmp_path / "registry"):
        yield one


@pytest.fixture
async def private_registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async for one in _serve(tmp_path / "registry", auth=HTPASSWD):
        yield one
