"""Our narrow view of the Docker Engine API: the calls we make, and its refusals as our errors."""

# aiodocker is typed in part only; this is the one room where it is used.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnnecessaryCast=false, reportGeneralTypeIssues=false

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiodocker
import aiohttp
from aiodocker.networks import DockerNetwork
from aiodocker.volumes import DockerVolume

from faas.docker.address import EngineAddress
from faas.errors import InternalError, NotFoundError, RuntimeUnavailableError

if TYPE_CHECKING:
    from aiodocker.stream import Stream

_API = "v1.41"
"""Debian 12's Engine; later ones still speak it."""
_SECONDS_MAX = 60.0
"""For one call; a loaded Engine takes seconds to start a container, never a minute."""
_NOT_FOUND, _IN_PROGRESS, _NOT_MODIFIED = 404, 409, 304
_BAD_REQUEST = 400
_UNKNOWN_UID = -1
_FULL = "no space left on device"
_NO_ANSWER = 900
"""What aiodocker calls the status when there was no connection."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the Engine says of itself."""

    version: str
    oci_runtimes: frozenset[str]
    first_uid: int | None
    """What root in a container is on the Engine's host; None when it is root."""
    has_seccomp: bool


class Engine:
    """One Engine, reached over its socket."""

    def __init__(self, docker: aiodocker.Docker) -> None:
        self._docker = docker

    @classmethod
    def connect(cls, address: EngineAddress) -> "Engine":
        """Make the connection ready; nothing is sent yet.

        Raises:
            RuntimeUnavailableError: no address is known, or it is none.
        """
        try:
            timeout = aiohttp.ClientTimeout(total=_SECONDS_MAX, sock_connect=5.0)
            return cls(
                aiodocker.Docker(
                    url=address.spoken,
                    timeout=timeout,
                    api_version=_API,
                    ssl_context=address.context(),
                )
            )
        except (AssertionError, ValueError, aiodocker.exceptions.DockerError) as failure:
            raise RuntimeUnavailableError(
                "no Docker Engine is installed here, or DOCKER_HOST is wrong",
                hint="apt-get install docker.io, or set DOCKER_HOST",
            ) from failure

    @property
    def client(self) -> aiodocker.Docker:
        """The client below, for calls that live in a file of their own."""
        return self._docker

    def url(self, path: str, *, is_versioned: bool = True) -> str:
        """Return the whole address of a path of the API."""
        base = self._docker.docker_host.replace("unix://", "http://").replace("tcp://", "http://")
        return f"{base}/{self._docker.api_version}/{path}" if is_versioned else f"{base}/{path}"

    async def aclose(self) -> None:
        """Close the connection."""
        await self._docker.close()

    async def facts(self) -> EngineFacts:
        """Ask what it is."""
        await self._agree()
        async with _translated("info"):
            info = cast("Json", await self._docker.system.info())
        options = [str(option) for option in info.get("SecurityOptions") or ()]
        return EngineFacts(
            version=str(info.get("ServerVersion", "unknown")),
            oci_runtimes=frozenset(info.get("Runtimes") or ()),
            first_uid=_first_uid(str(info.get("DockerRootDir", "")))
            if any("name=userns" in option for option in options)
            else None,
            has_seccomp=any("name=seccomp" in option for option in options),
        )

    async def _agree(self) -> None:
        """Settle the version of the API: ours, or the Engine's oldest where it dropped ours.

        Raises:
            RuntimeUnavailableError: the Engine is older than all we speak.
        """
        async with (
            _translated("version"),
            self._docker.session.get(self.url("version", is_versioned=False)) as answer,
        ):
            if answer.status == _BAD_REQUEST:
                raise RuntimeUnavailableError(
                    "the Docker Engine wants TLS",
                    hint="set FAAS_DOCKER_TLS_VERIFY=true and FAAS_DOCKER_CERT_PATH",
                )
            await check_answer(answer)
            told = cast("Json", await answer.json())
        least, most = str(told.get("MinAPIVersion") or "1.12"), str(told.get("ApiVersion") or "0")
        if _numbers(most) < _numbers(_API):
            raise RuntimeUnavailableError(
                f"this Docker Engine speaks API {most}, and {_API} is needed",
                hint="install Docker Engine 20.10 or later",
            )
        self._docker.api_version = f"v{least}" if _numbers(least) > _numbers(_API) else _API

    async def create(self, name: str, config: Json) -> None:
        """Make a container."""
        async with _translated("create"):
            await _to_its_end(self._docker.containers.create(config, name=name))

    async def start(self, name: str) -> None:
        """Start it; its first process has been executed when this returns."""
        async with _translated("start"):
            await _to_its_end(self._docker.containers.container(name).start())

    async def inspect(self, name: str) -> Json | None:
        """Look at a container; None when there is none."""
        try:
            async with _translated("inspect"):
                return cast("Json", await self._docker.containers.container(name).show())
        except NotFoundError:
            return None

    async def put_archive(self, name: str, path: str, tar: bytes) -> None:
        """Unpack a tar below a directory of a container."""
        async with (
            _translated("put an archive"),
            self._docker.session.put(
                self.url(f"containers/{name}/archive"),
                params={"path": path},
                data=tar,
                headers={"Content-Type": "application/x-tar"},
            ) as answer,
        ):
            await check_answer(answer)

    async def attach_exec(self, name: str, argv: list[str], *, user: str) -> "Stream":
        """Run a program in a container, its stdin and stdout at the returned stream."""
        async with _translated("exec"):
            container = self._docker.containers.container(name)
            made = await container.exec(argv, stdin=True, stdout=True, stderr=False, user=user)
            return await made.start(detach=False).__aenter__()

    async def limit(self, name: str, resources: Json) -> None:
        """Change the limits of a container."""
        url = self.url(f"containers/{name}/update")
        async with (
            _translated("update"),
            self._docker.session.post(url, json=resources) as answer,
        ):
            await check_answer(answer)

    async def remove(self, name: str) -> bool:
        """Kill and remove a container with its volumes; False when it was gone already."""
        try:
            async with _translated("remove"):
                await _to_its_end(
                    self._docker.containers.container(name).delete(force=True, v=True)
                )
        except NotFoundError:
            return False
        except _InProgressError:
            await self._wait_gone(name)
        return True

    async def labelled(self, label: str) -> list[Json]:
        """List every container, running or not, that carries a label."""
        async with _translated("list"):
            found = await self._docker.containers.list(all=True, filters={"label": [label]})
            return [cast("Json", one._container) for one in found]  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    async def labelled_networks(self, label: str) -> list[Json]:
        """List every network that carries a label."""
        async with _translated("list networks"):
            found = await self._docker.networks.list(filters={"label": [label]})
            return [cast("Json", one) for one in found]

    async def remove_network(self, name: str) -> bool:
        """Remove a network; False when it was gone already."""
        try:
            async with _translated("remove network"):
                network = DockerNetwork(self._docker, name)
                await _to_its_end(network.delete())
        except NotFoundError:
            return False
        return True

    async def labelled_volumes(self, label: str) -> list[Json]:
        """List every volume that carries a label."""
        async with _translated("list volumes"):
            found = await self._docker.volumes.list(filters={"label": [label]})
            return [cast("Json", one) for one in found.get("Volumes") or ()]

    async def remove_volume(self, name: str) -> bool:
        """Remove a volume; False when it was gone already."""
        try:
            async with _translated("remove volume"):
                volume = DockerVolume(self._docker, name)
                await _to_its_end(volume.delete())
        except NotFoundError:
            return False
        return True

    async def has_image(self, name: str) -> bool:
        """Whether the Engine has an image."""
        try:
            async with _translated("image inspect"):
                await self._docker.images.inspect(name)
        except NotFoundError:
            return False
        return True

    async def load_image(self, archive: Path) -> None:
        """Give the Engine an image in the form `docker save` writes."""
        file = await asyncio.to_thread(archive.open, "rb")
        try:
            async with _translated("load"):
                async for step in self._docker.images.import_image(file, stream=True):
                    said = cast("Mapping[str, object]", step)
                    if _FULL in str(said.get("error")):
                        raise _full("load")
                    if "error" in said:
                        raise InternalError(f"the Docker Engine refused an image: {said['error']}")
        finally:
            file.close()

    async def _wait_gone(self, name: str) -> None:
        async with asyncio.timeout(_SECONDS_MAX):
            while await self.inspect(name) is not None:  # noqa: ASYNC110  the Engine has no signal for it
                await asyncio.sleep(0.05)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.removeprefix("v").split(".") if part.isdigit())


async def check_answer(answer: aiohttp.ClientResponse) -> None:
    """Raise what the Engine refused, as its client would."""
    if answer.status < 400:  # noqa: PLR2004
        return
    try:
        message = str(cast("Json", await answer.json()).get("message"))
    except (ValueError, aiohttp.ClientError):
        message = "no reason given"
    raise aiodocker.exceptions.DockerError(answer.status, message)


def _first_uid(root: str) -> int:
    """Read it from the directory's name, `<data root>/<uid>.<gid>`: nothing else tells."""
    uid, _, _ = root.rpartition("/")[2].partition(".")
    return int(uid) if uid.isdigit() else _UNKNOWN_UID


async def _to_its_end(call: Coroutine[object, object, object]) -> None:
    """Let a change happen wholly: a caller that is cancelled still waits until it is over.

    Else the Engine could make a container after the undo looked for it and found none.
    """
    task = asyncio.ensure_future(call)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise


class _InProgressError(InternalError):
    """The Docker Engine is doing that already."""


@asynccontextmanager
async def _translated(what: str) -> AsyncGenerator[None]:
    try:
        yield
    except aiodocker.exceptions.DockerError as failure:
        if failure.status == _NOT_FOUND:
            raise NotFoundError(
                f"the Docker Engine does not have it: {failure.message}"
            ) from failure
        if failure.status == _IN_PROGRESS:
            raise _InProgressError(failure.message) from failure
        if failure.status == _NOT_MODIFIED:
            return
        if failure.status >= _NO_ANSWER:
            raise _unavailable(what) from failure
        if _FULL in failure.message:
            raise _full(what) from failure
        raise InternalError(
            f"the Docker Engine refused to {what}: {failure.message[:300]}"
        ) from failure
    except (aiohttp.ClientError, OSError, TimeoutError) as failure:
        raise _unavailable(what) from failure


def _full(what: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"the disk of the Docker Engine is full ({what})",
        hint="docker system df; docker system prune",
    )


def _unavailable(what: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"the Docker Engine does not answer ({what})",
        hint="systemctl start docker, or check FAAS_DOCKER_HOST",
    )


translated = _translated
"""For the calls about images (`image_calls`): the Engine's refusals as our errors."""
