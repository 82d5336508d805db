"""A snapshot as one file: carried away and brought back, in pieces both ways.

An answer that cannot be finished is cut before its announced length, so nobody takes it for whole.
"""

from contextlib import AsyncExitStack, aclosing

from starlette.types import ASGIApp, Receive, Scope, Send

from faas.clock import within
from faas.gateway.connection import while_connected
from faas.gateway.door import Door
from faas.gateway.exchange import ClientGoneError, Exchange
from faas.gateway.problems import UnsupportedMediaTypeError
from faas.gateway.replies import TRACE_KEY, Headers, Reply
from faas.gateway.snapshots import encode, named, snapshot_view, store_of
from faas.gateway.uploads import pieces
from faas.snapshots import Export, exported, import_snapshot

PORTABLE = "application/octet-stream"
_SENT_BYTES = 256 << 10
"""At once: a slow line is told from a dead one by this much in `send_timeout_seconds`."""


async def export(door: Door, exchange: Exchange) -> ASGIApp:
    """`GET /api/v1/snapshots/{id}/export`"""
    exchange.query()
    record = await named(door, exchange)
    async with AsyncExitStack() as kept:
        file = await kept.enter_async_context(exported(store_of(door), record.id))
        return _Download(door, file, name=f"{record.id}.faas-snapshot", kept=kept.pop_all())


async def bring_back(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots/import`"""
    exchange.query()
    if exchange.media_type() != PORTABLE:
        raise UnsupportedMediaTypeError(
            f"the body is {exchange.media_type() or 'of no stated type'}, not {PORTABLE}",
            hint="send the file that export gave",
            details={"supported": [PORTABLE]},
        )
    body = pieces(exchange, bytes_max=door.settings.import_bytes_max, setting="import_bytes_max")
    async with aclosing(body):
        record = await import_snapshot(store_of(door), body, tenant=exchange.principal.tenant.id)
    return Reply(encode(snapshot_view(record)))


class _Download:
    """One file on its way to one client."""

    def __init__(self, door: Door, file: Export, *, name: str, kept: AsyncExitStack) -> None:
        """`kept` is what holds the file; it is closed with the answer."""
        self._door = door
        self._file = file
        self._name = name
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = [
            (b"content-type", PORTABLE.encode()),
            (b"content-length", b"%d" % self._file.size_bytes),
            (b"content-disposition", b'attachment; filename="%b"' % self._name.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"x-trace-id", scope[TRACE_KEY].encode()),
        ]
        async with self._kept:
            scope["faas.started"] = True
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if scope["method"] != "HEAD":
                await while_connected(self._pump(send), receive, after_seconds=0)
            await send({"type": "http.response.body", "body": b""})

    async def _pump(self, send: Send) -> None:
        async for piece in self._file.pieces:
            for at in range(0, len(piece), _SENT_BYTES):
                part = piece[at : at + _SENT_BYTES]
                message = {"type": "http.response.body", "body": part, "more_body": True}
                try:
                    await within(self._door.settings.send_timeout_seconds, send(message))
                except TimeoutError as stuck:
                    raise ClientGoneError from stuck
