"""The Engine's calls about images, as narrow as we need them."""

# aiodocker is typed in part only; see `engine`.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnnecessaryCast=false

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import aiodocker
import aiohttp

from faas.docker.engine import Engine, Json, check_answer, translated
from faas.errors import InternalError, InvalidImageError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from faas.sandbox.image_keeper import BuildOrder, RegistryLogin

_LINE_BYTES_MAX = 1 << 20
"""Of what the Engine tells as it goes on; its own lines are far below 64 KiB."""
_ENDLESS = aiohttp.ClientTimeout(sock_connect=5.0)
"""Pulls and builds are ended by their caller's deadline, not by the connection's."""


class EngineSaidError(Exception):
    """The Engine broke off work that it had begun, and this is what it said."""


class ImageCalls:
    """Asks one Engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def inspect(self, name: str) -> Json | None:
        """Look at an image by name or id; None when there is none."""
        try:
            async with translated("inspect an image"):
                return cast("Json", await self._engine.client.images.inspect(name))
        except NotFoundError:
            return None
        except InternalError as failure:
            # Names of registries that the Engine's own grammar lacks, such as IPv6 addresses.
            if "invalid reference" in failure.message:
                return None
            raise

    async def pull(self, name: str, login: "RegistryLogin | None") -> AsyncGenerator[Json]:
        """Pull `registry/repository:tag` or `…@digest`, yielding what the Engine tells.

        Raises:
            EngineSaidError: the pull failed.
        """
        headers: dict[str, str] = {}
        if login is not None:
            headers["X-Registry-Auth"] = _header(_login(login, name.partition("/")[0]))
        params = {"fromImage": name}
        async for step in self._told("images/create", params, headers=headers):
            yield step

    async def build(
        self, context: Path, order: "BuildOrder", logins: "Mapping[str, RegistryLogin]"
    ) -> AsyncGenerator[Json]:
        """Build a tar, yielding what the Engine tells.

        Raises:
            EngineSaidError: the build failed.
        """
        params = {
            "t": order.reference,
            "dockerfile": order.dockerfile,
            "buildargs": json.dumps(dict(order.arguments)),
            "networkmode": order.network,
            "memory": str(order.memory_bytes),
            "memswap": str(order.memory_bytes),
            "rm": "1",
            "forcerm": "1",
        }
        if order.target is not None:
            params["target"] = order.target
        if not order.use_cache:
            params["nocache"] = "1"
        known = {registry: _login(login, registry) for registry, login in logins.items()}
        headers = {"Content-Type": "application/x-tar", "X-Registry-Config": _header(known)}
        file = await asyncio.to_thread(context.open, "rb")
        try:
            async for step in self._told("build", params, headers=headers, data=file):
                yield step
        finally:
            file.close()

    async def load(self, archive: Path) -> list[str]:
        """Load what `docker save` wrote; return the names and ids that the Engine tells."""
        file = await asyncio.to_thread(archive.open, "rb")
        headers = {"Content-Type": "application/x-tar"}
        found: list[str] = []
        try:
            async for step in self._told("images/load", {}, headers=headers, data=file):
                _, colon, name = str(step.get("stream", "")).partition(": ")
                if colon:
                    found.append(name.strip())
        except EngineSaidError as failure:
            raise InvalidImageError(f"the Docker Engine cannot load it: {failure}") from failure
        finally:
            file.close()
        return found

    async def tag(self, name: str, *, repository: str, tag: str) -> None:
        """Give an image one more name."""
        async with translated("tag an image"):
            await self._engine.client.images.tag(name, repository, tag=tag)

    async def remove(self, name: str) -> None:
        """Forget a name.

        Raises:
            NotFoundError: there is no such image.
            FaasError: the Engine refuses, for a container uses it.
        """
        async with translated("remove an image"):
            await self._engine.client.images.delete(name)

    async def list(self) -> list[Json]:
        """List all images that have a name."""
        async with translated("list images"):
            return cast("list[Json]", await self._engine.client.images.list(digests="1"))

    async def _told(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        headers: Mapping[str, str],
        data: object = None,
    ) -> AsyncGenerator[Json]:
        """Post, and yield line by line what comes. Leaving early ends the work in the Engine."""
        async with (
            _whole(path),
            translated(path),
            self._engine.client.session.post(
                self._engine.url(path),
                params=params,
                headers=headers,
                data=data,
                timeout=_ENDLESS,
                read_bufsize=_LINE_BYTES_MAX,
            ) as answer,
        ):
            if answer.status >= 400:  # noqa: PLR2004
                raise EngineSaidError(await _message(answer))
            async for line in answer.content:
                step = cast("Json", json.loads(line)) if line.strip() else {}
                if "error" in step:
                    raise EngineSaidError(str(step["error"])[-2000:])
                yield step


async def _message(answer: aiohttp.ClientResponse) -> str:
    try:
        await check_answer(answer)
    except aiodocker.exceptions.DockerError as failure:
        return failure.message
    return ""


@asynccontextmanager
async def _whole(what: str) -> AsyncGenerator[None]:
    """Say that the Engine broke off in the middle of a line, or told what is no JSON."""
    try:
        yield
    except ValueError as failure:
        raise UnavailableError(
            f"the Docker Engine broke off ({what})", hint="try again"
        ) from failure


def _login(login: "RegistryLogin", registry: str) -> dict[str, str]:
    return {
        "username": login.username,
        "password": login.password,
        "serveraddress": registry,
    }


def _header(content: object) -> str:
    return urlsafe_b64encode(json.dumps(content).encode()).decode()
