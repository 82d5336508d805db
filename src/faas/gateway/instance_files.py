"""Files of an instance: read, write, list, move, remove, and whole trees as tar, while it runs."""

import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime

from starlette.types import ASGIApp, Receive, Scope, Send

from faas.errors import InvalidArgumentError, UnsupportedError
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange, choice, number
from faas.gateway.instance_wire import (
    ABSOLUTE,
    DirectoryView,
    FileView,
    MakeDirectoryRequest,
    MoveRequest,
)
from faas.gateway.instances import encode, reference
from faas.gateway.replies import TRACE_KEY, NoContent, Reply
from faas.gateway.strict import decode
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import FileStat

READ_DEFAULT, READ_MAX = 1 << 20, 16 << 20

_PATH = re.compile(ABSOLUTE.replace(r"\u0000", "\0"))
_OCTAL = re.compile("[0-7]{1,4}")
_PATH_BYTES_MAX = 4096


async def read(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/instances/{id}/files`"""
    query = exchange.query("path", "offset", "limit")
    path = path_in(query)
    offset: int = number(query, "offset", 0)
    limit: int = number(query, "limit", READ_DEFAULT, least=1, most=READ_MAX)
    async with door.executor.instances.use(reference(exchange), exchange.principal) as (_, sandbox):
        size = (await sandbox.stat(path)).size_bytes
        data = await sandbox.read_file(path, offset=offset, length=limit)
    upto = offset + len(data)
    return Reply(
        data,
        media_type=b"application/octet-stream",
        headers=[
            (b"x-next-offset", b"%d" % upto),
            (b"x-ended", b"true" if upto >= size else b"false"),
        ],
    )


async def write(door: Door, exchange: Exchange) -> NoContent:
    """`PUT /api/v1/instances/{id}/files`"""
    query = exchange.query("path", "mode")
    path, mode = path_in(query), query.get("mode", "0644")
    if not _OCTAL.fullmatch(mode):
        raise InvalidArgumentError(f"query: mode {mode[:16]!r} is not octal, such as 0755")
    data = await exchange.body()
    async with door.executor.instances.use(reference(exchange), exchange.principal) as (_, sandbox):
        await sandbox.write_file(path, data, mode=int(mode, 8))
    return NoContent()


async def remove(door: Door, exchange: Exchange) -> NoContent:
    """`DELETE /api/v1/instances/{id}/files`"""
    query = exchange.query("path", "recursive")
    path = path_in(query)
    is_recursive = choice(query, "recursive", ("false", "true")) == "true"
    async with door.executor.instances.use(reference(exchange), exchange.principal) as (_, sandbox):
        await sandbox.remove(path, recursive=is_recursive)
    return NoContent()


async def list_directory(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/instances/{id}/files/list`"""
    path = path_in(exchange.query("path"))
    async with door.executor.instances.use(reference(exchange), exchange.principal) as (_, sandbox):
        entries = await sandbox.list_dir(path)
    return Reply(encode(DirectoryView(path, [_view(entry) for entry in entries])))


async def stat(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/instances/{id}/files/stat`"""
    path = path_in(exchange.query("path"))
    async with door.executor.instances.use(reference(exchange), exchange.principal) as (_, sandbox):
        return Reply(encode(_view(await sandbox.stat(path))))


async def move(door: Door, exchange: Exchange) -> NoContent:
    """`POST /api/v1/instances/{id}/files/move`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), MoveRequest)
    source, target = _absolute(request.source), _absolute(request.target)
    async with door.executor.instances.use(reference(exchange), exchange.principal) as (_, sandbox):
        await sandbox.rename(source, target)
    return NoContent()


async def make_directory(door: Door, exchange: Exchange) -> NoContent:
    """`POST /api/v1/instances/{id}/files/mkdir`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), MakeDirectoryRequest)
    path = _absolute(request.path)
    async with door.executor.instances.use(reference(exchange), exchange.principal) as (_, sandbox):
        await sandbox.make_dir(path, parents=request.parents)
    return NoContent()


async def upload(door: Door, exchange: Exchange) -> NoContent:
    """`PUT /api/v1/instances/{id}/archive`"""
    path = path_in(exchange.query("path"))
    tar = await exchange.body()
    async with door.executor.instances.use(reference(exchange), exchange.principal) as (_, sandbox):
        await sandbox.make_dir(path)
        await sandbox.put_archive(tar, path=path)
    return NoContent()


async def download(door: Door, exchange: Exchange) -> ASGIApp:
    """`GET /api/v1/instances/{id}/archive`"""
    path = path_in(exchange.query("path"))
    pieces = _tar(door, exchange, path)
    # The first piece before the answer begins: what is not there is a problem, not a torn tar.
    first = await anext(pieces, b"")
    return _TarReply(first, pieces)


async def _tar(door: Door, exchange: Exchange, path: str) -> AsyncGenerator[bytes]:
    async with AsyncExitStack() as stack:
        _, sandbox = await stack.enter_async_context(
            door.executor.instances.use(reference(exchange), exchange.principal)
        )
        await _require_directory(sandbox, path)
        async for piece in sandbox.get_archive(path):
            yield piece


async def _require_directory(sandbox: GuardedSandbox, path: str) -> None:
    if (await sandbox.stat(path)).kind.value != "directory":
        raise UnsupportedError(f"{path} is no directory", hint="read a file by /files?path=")


class _TarReply:
    """A tar as it is made. Cut short when the sandbox breaks: a tar without its end is no tar."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes]) -> None:
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"application/x-tar"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-trace-id", scope[TRACE_KEY].encode()),
        ]
        scope["faas.started"] = True
        async with aclosing(self._rest) as rest:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for piece in rest:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def path_in(query: dict[str, str]) -> str:
    """Read the path a query names.

    Raises:
        InvalidArgumentError: it names none, or what is none.
    """
    path = query.get("path")
    if path is None:
        raise InvalidArgumentError("query: path is missing", hint="add ?path=/absolute/path")
    return _absolute(path)


def _absolute(path: str) -> str:
    if not _PATH.fullmatch(path) or len(path.encode()) > _PATH_BYTES_MAX:
        raise InvalidArgumentError(
            f"{path[:64]!r} is not a path: it starts with `/`, each name has at most 255 bytes"
        )
    return path


def _view(entry: FileStat) -> FileView:
    return FileView(
        name=entry.name,
        kind=entry.kind.value,
        size_bytes=entry.size_bytes,
        mode=f"{entry.mode & 0o7777:04o}",
        uid=entry.uid,
        gid=entry.gid,
        modified_at=datetime.fromtimestamp(entry.modified_ns / 1e9, UTC),
        link_target=entry.link_target,
    )
