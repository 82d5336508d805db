"""Images: list, pull, build, import, remove. All but looking works where the gateway keeps any."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import msgspec
from starlette.types import ASGIApp

from faas.errors import InvalidArgumentError, UnsupportedError
from faas.executor.images import ImageWatch
from faas.gateway.connection import while_connected
from faas.gateway.door import Door
from faas.gateway.event_stream import Events, EventStream, require_room, told, wants_events
from faas.gateway.exchange import Exchange, choice
from faas.gateway.image_wire import (
    BuildWords,
    ImagePullRequest,
    ImageReadyView,
    ImagesView,
    ImageView,
    step_view,
)
from faas.gateway.problems import UnsupportedMediaTypeError
from faas.gateway.replies import NoContent, Reply
from faas.gateway.specs import login_of
from faas.gateway.strict import decode
from faas.gateway.uploads import received
from faas.images import ImageOrder, ImageProvider, ListedImage
from faas.images.order import PULL_SECONDS_MAX
from faas.model import PullPolicy
from faas.sandbox.image_keeper import BuildOrder
from faas.sandbox.protocols import RootFilesystem

TAR = ("application/x-tar", "application/octet-stream")
NETWORKS = ("default", "none")
KEEPERS = ("docker", "embedded")

encode = msgspec.json.Encoder().encode


async def list_images(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/images`"""
    exchange.query()
    rows: list[ImageView] = []
    if door.images is not None:
        rows = [_view(one) for one in await door.images.list(exchange.principal.tenant.id)]
    if all(row.reference != "host" for row in rows):
        rows.insert(0, ImageView(reference="host", digest="host"))
    settings = door.settings
    return Reply(encode(ImagesView(rows, dict(settings.image_aliases), settings.default_image)))


async def pull(door: Door, exchange: Exchange) -> ASGIApp:
    """`POST /api/v1/images/pull`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), ImagePullRequest)
    images = _images(door)
    seconds = PULL_SECONDS_MAX if request.timeout_ms is None else request.timeout_ms / 1000
    order = ImageOrder(
        reference=request.image,
        tenant=exchange.principal.tenant.id,
        policy=PullPolicy(request.pull_policy),
        runtime=request.runtime,
        login=login_of(request.registry_auth),
        seconds_max=seconds,
    )
    if wants_events(exchange):
        require_room(door)
        return EventStream(door, told(_pull_events(images, order), exchange))
    root = await while_connected(
        images.provide(order),
        exchange.receive,
        after_seconds=door.settings.disconnect_watch_seconds,
    )
    return Reply(encode(_ready(request.image, root)))


async def _pull_events(
    images: ImageProvider, order: ImageOrder
) -> AsyncGenerator[tuple[str, bytes]]:
    watch, seen = ImageWatch(), 0
    work = asyncio.ensure_future(images.provide(order, watch.tell))
    work.add_done_callback(lambda _: watch.end())
    try:
        while await watch.changed(seen):
            steps, seen = watch.since(seen)
            for step in steps:
                yield "progress", encode(step_view(step))
        yield "done", encode(_ready(order.reference, await work))
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def build(door: Door, exchange: Exchange) -> ASGIApp:
    """`POST /api/v1/images/build`"""
    query = exchange.query("name", "dockerfile", "target", "network", "no_cache", "args")
    order = BuildOrder(
        reference=_name(query),
        dockerfile=_inside(query.get("dockerfile", "Dockerfile")),
        target=query.get("target"),
        arguments=_arguments(query.get("args")),
        network=choice(query, "network", NETWORKS) or "default",
        use_cache=choice(query, "no_cache", ("false", "true")) != "true",
        seconds_max=door.settings.build_seconds_max,
    )
    images = _images(door)
    _require_tar(exchange)
    settings = door.settings
    async with AsyncExitStack() as kept:
        # All of the body first: from then on, whoever receives watches for a client that leaves.
        context = await kept.enter_async_context(
            received(exchange, settings.data_dir, bytes_max=settings.build_bytes_max)
        )
        events = _build_events(images, context, order)
        if wants_events(exchange):
            require_room(door)
            return EventStream(door, told(events, exchange), kept=kept.pop_all())
        answer = await while_connected(
            _last(events), exchange.receive, after_seconds=settings.disconnect_watch_seconds
        )
        return Reply(answer)


async def _last(events: Events) -> bytes:
    data = b""
    async with aclosing(events):
        async for _, piece in events:
            data = piece
    return data


async def _build_events(
    images: ImageProvider, context: Path, order: BuildOrder
) -> AsyncGenerator[tuple[str, bytes]]:
    """What a build says, then the image."""
    async with aclosing(images.build(context, order)) as building:
        async for said in building:
            if isinstance(said, RootFilesystem):
                yield "done", encode(_ready(order.reference, said))
            else:
                yield "output", encode(BuildWords(said))


async def import_image(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/images/import`"""
    name = _name(exchange.query("name"))
    _require_tar(exchange)
    settings = door.settings
    async with received(exchange, settings.data_dir, bytes_max=settings.build_bytes_max) as archive:
        made = await _images(door).import_(name, archive)
    return Reply(encode(_view(made)))


async def remove(door: Door, exchange: Exchange) -> NoContent:
    """`DELETE /api/v1/images`"""
    query = exchange.query("name", "runtime")
    runtime = choice(query, "runtime", KEEPERS)
    await _images(door).remove(_name(query), runtime=None if runtime == "embedded" else runtime)
    return NoContent()


def _view(image: ListedImage) -> ImageView:
    return ImageView(
        reference=image.reference,
        digest=image.digest,
        size_bytes=image.size_bytes,
        created_at=image.created_at,
        source=image.source,
        manifest_digest=image.manifest_digest,
        runtime=image.keeper,
    )


def _ready(reference: str, root: RootFilesystem) -> ImageReadyView:
    return ImageReadyView(reference=reference, digest=root.digest, runtime=root.keeper)


def _images(door: Door) -> ImageProvider:
    if door.images is None:
        raise UnsupportedError("this gateway keeps no images")
    return door.images


def _name(query: dict[str, str]) -> str:
    name = query.get("name", "")
    if not name:
        raise InvalidArgumentError("query: name is missing", hint="?name=NAME, an image's name")
    return name


def _inside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or not path.isprintable():
        raise InvalidArgumentError("query: dockerfile is a path inside the context")
    return path


def _arguments(text: str | None) -> tuple[tuple[str, str], ...]:
    if text is None:
        return ()
    try:
        return tuple(msgspec.json.decode(text, type=dict[str, str]).items())
    except msgspec.MsgspecError as failure:
        raise InvalidArgumentError(
            "query: args is no JSON object of texts", hint='args={"VERSION":"1"}'
        ) from failure


def _require_tar(exchange: Exchange) -> None:
    if exchange.media_type() not in TAR:
        raise UnsupportedMediaTypeError(
            f"the body is {exchange.media_type() or 'of no stated type'}, not a tar",
            hint="send the header Content-Type: application/x-tar",
            details={"supported": list(TAR)},
        )
