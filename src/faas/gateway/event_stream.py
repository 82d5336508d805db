"""Server-sent events of work that is done for one client, ended when the client goes away."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from starlette.types import Receive, Scope, Send

from faas.errors import FaasError, ResourceExhaustedError, UnavailableError
from faas.gateway import problems
from faas.gateway.connection import while_connected
from faas.gateway.door import Door
from faas.gateway.exchange import ClientGoneError, Exchange
from faas.gateway.replies import TRACE_KEY

MEDIA_TYPE = "text/event-stream"
_HEARTBEAT = b": still here\n\n"

Events = AsyncGenerator[tuple[str, bytes]]


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
    if len(door.streams) >= door.settings.streams_max:
        raise ResourceExhaustedError(
            f"{door.settings.streams_max} streams are open, and more are not allowed",
            details={"streams_max": door.settings.streams_max},
        )


class EventStream:
    """The answer: each event as it comes, and a failure as the last event, `error`."""

    def __init__(
        self, door: Door, exchange: Exchange, events: Events, *, kept: AsyncExitStack | None = None
    ) -> None:
        """`kept` is what the events need; it is closed with them."""
        self._door = door
        self._exchange = exchange
        self._events = events
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
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        task = asyncio.current_task()
        assert task is not None, "a request is always served in a task"  # noqa: S101  an invariant
        self._door.streams.add(task)
        try:
            await while_connected(self._pump(send), receive, after_seconds=0)
        except ClientGoneError:
            return
        except asyncio.CancelledError:
            if not self._door.is_closing:
                raise
            task.uncancel()
        finally:
            self._door.streams.discard(task)
        await send({"type": "http.response.body", "body": b""})

    async def _pump(self, send: Send) -> None:
        try:
            async with self._kept, aclosing(self._events) as events:
                async for name, data in self._beating(events, send):
                    await self._send(send, b"event: %b\ndata: %b\n\n" % (name.encode(), data))
        except FaasError as failure:
            body = problems.reply(failure, self._exchange.trace_id).body
            await self._send(send, b"event: error\ndata: %b\n\n" % body)

    async def _beating(self, events: Events, send: Send) -> Events:
        """Yield the events, and keep the connection alive while none comes."""
        waiting: asyncio.Future[tuple[str, bytes]] | None = None
        try:
            while True:
                waiting = asyncio.ensure_future(anext(events))
                while not waiting.done():
                    await asyncio.wait({waiting}, timeout=self._door.settings.heartbeat_seconds)
                    if not waiting.done():
                        await self._send(send, _HEARTBEAT)
                try:
                    yield waiting.result()
                except StopAsyncIteration:
                    return
        finally:
            if waiting is not None and not waiting.done():
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

    async def _send(self, send: Send, piece: bytes) -> None:
        try:
            async with asyncio.timeout(self._door.settings.send_timeout_seconds):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError as stuck:
            raise ClientGoneError from stuck
