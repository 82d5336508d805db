"""The images a Docker Engine has, by the names people know.

What runs is named by its id, the digest of its configuration and so of its layers: a tag that moves
between the look and the run changes nothing. Names of the trees we gave the Engine ourselves are
not shown.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faas.docker.credentials import DockerLogins
from faas.docker.engine_images import REPOSITORY
from faas.errors import (
    FaasError,
    ImageNotFoundError,
    InternalError,
    InvalidImageError,
    NotFoundError,
    RuntimeUnavailableError,
    UnavailableError,
    WrongStateError,
)
from faas.images import ImageReference
from faas.images.pull import explain
from faas.images.reference import is_digest
from faas.model import PullStep
from faas.sandbox.image_keeper import BuildOrder, KeptImage, RegistryLogin, Told
from faas.sandbox.protocols import RootFilesystem

if TYPE_CHECKING:
    from faas.docker.image_calls import ImageCalls

Json = dict[str, Any]

_NO_NAME = "<none>"
_BUILD_LINES_MAX = 200_000
"""A build that says more is told to its end without its words."""


class EngineShelf:
    """An `ImageShelf` over one Engine."""

    def __init__(self, calls: "ImageCalls", *, keeper: str, logins: DockerLogins) -> None:
        self._calls = calls
        self._keeper = keeper
        self._logins = logins

    async def find(self, reference: str) -> RootFilesystem | None:
        found = await self._look(reference)
        return None if found is None else _root(found, self._keeper)

    async def pull(
        self, reference: str, *, login: RegistryLogin | None, told: Told
    ) -> RootFilesystem:
        from faas.docker.image_calls import EngineSaidError  # noqa: PLC0415  as in `runtime`

        parsed = ImageReference.parse(reference)
        login = login or await self._logins.of(parsed.registry)
        told(PullStep("Resolving"))
        try:
            async with aclosing(self._calls.pull(_pullable(parsed), login)) as steps:
                async for step in steps:
                    _tell(step, told)
        except EngineSaidError as failure:
            raise explain(parsed, str(failure), by="engine") from failure
        found = await self.find(str(parsed))
        if found is None:
            # The client takes the end of the connection for the end of the pull.
            raise UnavailableError(
                f"the Docker Engine broke off while it pulled {parsed.familiar}", hint="try again"
            )
        return found

    async def list(self) -> list[KeptImage]:
        return [kept for found in await self._calls.list() for kept in _names(found)]

    async def load(self, archive: Path, reference: str) -> RootFilesystem:
        parsed = ImageReference.parse(reference)
        loaded = await self._calls.load(archive)
        if len(loaded) != 1:
            raise InvalidImageError(
                f"the archive holds {len(loaded)} images",
                hint="save one image: docker save NAME -o image.tar",
            )
        repository = f"{parsed.registry}/{parsed.repository}"
        await self._calls.tag(loaded[0], repository=repository, tag=parsed.tag)
        return await self._present(parsed)

    async def build(self, context: Path, order: BuildOrder) -> AsyncGenerator[str]:
        from faas.docker.image_calls import EngineSaidError  # noqa: PLC0415

        parsed = ImageReference.parse(order.reference)
        logins = await self._logins.all()
        lines = 0
        try:
            async with aclosing(self._calls.build(context, order, logins)) as steps:
                async for step in steps:
                    text = _build_words(step)
                    lines += text.count("\n")
                    if text and lines <= _BUILD_LINES_MAX:
                        yield text
        except EngineSaidError as failure:
            raise InvalidImageError(
                f"{parsed.familiar} could not be built: {failure}",
                hint="see what the build said before; the Dockerfile and its context are at fault",
            ) from failure
        await self._present(parsed)

    async def remove(self, reference: str) -> None:
        name = reference if is_digest(reference) else ImageReference.parse(reference).name
        try:
            await self._calls.remove(name)
        except NotFoundError as failure:
            raise ImageNotFoundError(
                f"the Docker Engine has no image {reference!r}", hint="faas images list"
            ) from failure
        except (RuntimeUnavailableError, WrongStateError):
            raise
        except InternalError as failure:
            raise WrongStateError(
                f"the image {reference!r} is in use",
                hint="wait for its executions to end and its pool to empty, then try again",
            ) from failure

    async def _present(self, parsed: ImageReference) -> RootFilesystem:
        found = await self.find(str(parsed))
        if found is None:
            raise UnavailableError(f"the Docker Engine has no {parsed.familiar} after all")
        return found

    async def _look(self, reference: str) -> Json | None:
        if is_digest(reference):
            return await self._calls.inspect(reference)
        parsed = ImageReference.parse(reference)
        if parsed.digest is None:
            return await self._calls.inspect(parsed.name)
        pinned = f"{parsed.registry}/{parsed.repository}@{parsed.digest}"
        found = await self._calls.inspect(pinned)
        if found is not None:
            return found
        named = await self._calls.inspect(parsed.name)
        return named if named is not None and named.get("Id") == parsed.digest else None


def _pullable(parsed: ImageReference) -> str:
    repository = f"{parsed.registry}/{parsed.repository}"
    return f"{repository}@{parsed.digest}" if parsed.digest else f"{repository}:{parsed.tag}"


def _root(found: Json, keeper: str) -> RootFilesystem:
    config: Json = found.get("Config") or {}
    pairs = (str(item).partition("=") for item in config.get("Env") or ())
    return RootFilesystem(
        digest=str(found["Id"]),
        path=None,
        env=tuple((name, value) for name, equals, value in pairs if equals),
        working_dir=str(config.get("WorkingDir") or "/"),
        user=str(config.get("User") or "") or None,
        entrypoint=tuple(str(word) for word in config.get("Entrypoint") or ()),
        keeper=keeper,
        volumes=tuple(sorted(str(path) for path in config.get("Volumes") or ())),
    )


def _names(found: Json) -> list[KeptImage]:
    digests = [str(text).partition("@") for text in found.get("RepoDigests") or ()]
    kept: list[KeptImage] = []
    for tag in found.get("RepoTags") or ():
        repository = str(tag).rpartition(":")[0]
        if repository in (_NO_NAME, REPOSITORY):
            continue
        try:
            familiar = ImageReference.parse(str(tag)).familiar
        except FaasError:
            continue
        created = found.get("Created")
        kept.append(
            KeptImage(
                reference=familiar,
                digest=str(found["Id"]),
                size_bytes=int(found.get("Size") or 0),
                created_at=datetime.fromtimestamp(int(created), UTC) if created else None,
                manifest_digest=next((d for r, _, d in digests if r == repository), None),
            )
        )
    return kept


def _tell(step: Json, told: Told) -> None:
    status = step.get("status")
    if not status:
        return
    detail: Json = step.get("progressDetail") or {}
    told(
        PullStep(
            status=str(status)[:200],
            layer=str(step["id"])[:64] if "id" in step else None,
            current_bytes=_count(detail.get("current")),
            total_bytes=_count(detail.get("total")),
        )
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _build_words(step: Json) -> str:
    if "stream" in step:
        return str(step["stream"])
    if "status" not in step or step.get("progressDetail"):
        return ""
    layer = f"{step['id']}: " if "id" in step else ""
    return f"{layer}{step['status']}\n"
