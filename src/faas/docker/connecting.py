"""The way to an Engine: its client is loaded only when there is one; refusals say what to do."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from faas.docker.address import EngineAddress
from faas.docker.credentials import DockerLogins
from faas.docker.settings import DockerSettings
from faas.docker.shelf import EngineShelf
from faas.errors import RuntimeUnavailableError
from faas.sandbox.registry import RuntimeContext

if TYPE_CHECKING:
    from faas.docker.engine import Engine

SOCKETS = (Path("/var/run/docker.sock"), Path("/run/docker.sock"))


def connect(address: EngineAddress) -> "Engine":
    """Connect, or say what is missing; the client is loaded only when there is an Engine."""
    address.check()
    if address.url is None and not any(path.is_socket() for path in SOCKETS):
        raise RuntimeUnavailableError(
            "there is no Docker Engine on this machine",
            hint="apt-get install docker.io, or set FAAS_DOCKER_HOST",
        )
    own = [Path(address.url.removeprefix("unix://"))] if address.url else list(SOCKETS)
    if not address.is_remote and any(_is_closed(path) for path in own):
        raise RuntimeUnavailableError(
            "this user may not speak with the Docker Engine",
            hint="run the gateway as root, or let the user in (as good as root on this machine):"
            " sudo usermod -aG docker $USER, then log in anew",
        )
    try:
        from faas.docker.engine import Engine  # noqa: PLC0415  see above
    except ImportError as failure:
        raise RuntimeUnavailableError(
            "the client of the Docker Engine is not installed",
            hint="pip install 'faas-platform[docker]'",
        ) from failure
    return Engine.connect(address)


def _is_closed(path: Path) -> bool:
    return path.exists() and not os.access(path, os.W_OK)


@asynccontextmanager
async def engine_shelf(context: RuntimeContext) -> AsyncGenerator[EngineShelf]:
    """Open the images of the Engine and nothing else, for whoever runs no sandboxes.

    Raises:
        RuntimeUnavailableError: there is no Engine, or it does not answer.
    """
    settings = DockerSettings.from_context(context)
    engine = connect(settings.address)
    try:
        await engine.facts()
        yield open_shelf(engine, settings)
    finally:
        await engine.aclose()


def open_shelf(engine: "Engine", settings: DockerSettings) -> EngineShelf:
    """Open the images of an Engine."""
    from faas.docker.image_calls import ImageCalls  # noqa: PLC0415  as `connect`

    logins = DockerLogins(settings.logins or Path("/nonexistent"))
    return EngineShelf(ImageCalls(engine), keeper="docker", logins=logins)
