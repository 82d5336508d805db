"""Server-sent events: the one form in which every stream of them is answered.

What is told is a generator of pieces; this is its head, its heartbeats and its ending. Nothing is
taken ahead of the client: a slow one only slows itself, one that takes nothing is cut, and one that
leaves ends the generator. A gateway that shuts down ends every stream at once.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from starlette.types import Receive, Scope, Send

from faas.clock import within
from faas.errors import FaasError, ResourceExhaustedError, UnavailableError
from faas.gateway import problems
from faas.gateway.connection import while_connected
from faas.gateway.door import Door
from faas.gateway.exchange import ClientGoneError, Exchange
from faas.gateway.replies import TRACE_KEY

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": still here\n\n"

Events = AsyncGenerator[tuple[str, bytes]]
"""Names and data."""
Pieces = AsyncGenerator[bytes]
"""What is sent: events, heartbeats, comments."""


def opening(words: str) -> bytes:
    """A comment to begin with, and how soon a client that was cut is to come back."""
    return b": %b\nretry: 1000\n\n" % words.encode()


def event(name: str, data: bytes, *, event_id: str | None = None) -> bytes:
    """One event; with an id the client can resume after it."""
    head = b"" if event_id is None else b"id: %b\n" % event_id.encode()
    return b"%bevent: %b\ndata: %b\n\n" % (head, name.encode(), data)


def wants_events(exchange: Exchange) -> bool:
    """Whether the client takes events rather than one answer at the end."""
    accept = exchange.headers.get(b"accept", b"").decode("latin-1").lower()
    return MEDIA_TYPE in accept


def require_room(door: Door) -> None:
    """Refuse one more stream when there are too many.

    Raises:
        ResourceExhaustedError: there are.
        UnavailableError: the gateway is shutting down.
    """
    if door.is_closing:
        raise UnavailableError("the gateway is shutting down", retry_after_seconds=1.0)
    most = door.settings.streams_max
    if len(door.streams) >= most:
        raise ResourceExhaustedError(
            f"{most} streams are open, and more are not allowed", details={"streams_max": most}
        )


class EventStream:
    """The answer to one client."""

    def __init__(self, door: Door, pieces: Pieces, *, kept: AsyncExitStack | None = None) -> None:
        """`kept` is what the pieces need; it is closed after them, also when none was taken."""
        self._door = door
        self._pieces = pieces
        self._kept = kept or AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["faas.started"] = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-trace-id", scope[TRACE_KEY].encode()),
        ]
        async with self._kept, aclosing(self._pieces):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if scope["method"] == "HEAD" or await self._served(receive, send):
                await send({"type": "http.response.body", "body": b""})

    async def _served(self, receive: Receive, send: Send) -> bool:
        """Send all of it; False when the client left first."""
        task = asyncio.current_task()
        assert task is not None, "a request is always served in a task"  # noqa: S101  an invariant
        self._door.streams.add(task)
        try:
            await while_connected(self._pump(send), receive, after_seconds=0)
        except ClientGoneError:
            return False
        except asyncio.CancelledError:
            if not self._door.is_closing:
                raise
            task.uncancel()
        finally:
            self._door.streams.discard(task)
        return True

    async def _pump(self, send: Send) -> None:
        async for piece in self._pieces:
            message = {"type": "http.response.body", "body": piece, "more_body": True}
            try:
                await within(self._door.settings.send_timeout_seconds, send(message))
            except TimeoutError as stuck:
                raise ClientGoneError from stuck


async def told(events: Events, exchange: Exchange) -> Pieces:
    """Tell events of work that is done for this client: a failure is the last, `error`, and while
    none comes there are heartbeats."""
    try:
        async with aclosing(events), aclosing(_beating(events, exchange)) as pieces:
            async for piece in pieces:
                yield piece
    except FaasError as failure:
        yield event("error", problems.reply(failure, exchange.trace_id).body)


async def _beating(events: Events, exchange: Exchange) -> Pieces:
    waiting: asyncio.Future[tuple[str, bytes]] | None = None
    try:
        while True:
            waiting = asyncio.ensure_future(anext(events))
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=exchange.settings.heartbeat_seconds)
                if not waiting.done():
                    yield HEARTBEAT
            try:
                name, data = waiting.result()
            except StopAsyncIteration:
                return
            yield event(name, data)
    finally:
        if waiting is not None and not waiting.done():
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
