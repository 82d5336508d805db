"""`GET /api/v1/instances/{id}/files/watch`: what changes below a directory, as server-sent events.

`ready` comes when the first look is done: from then on every change that lasts is told. A watch
is no use of the instance: one that sleeps is not woken, and goes to sleep all the same; the watch
goes on when it runs again, and ends when it is deleted.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from faas.clock import within
from faas.errors import FaasError, ResourceExhaustedError, UnavailableError
from faas.gateway.connection import while_connected
from faas.gateway.container_wire import FileEvent
from faas.gateway.door import Door
from faas.gateway.exchange import ClientGoneError, Exchange
from faas.gateway.file_watch import FileWatch
from faas.gateway.instance_files import path_in
from faas.gateway.instances import reference
from faas.gateway.replies import TRACE_KEY
from faas.ids import InstanceId

_OPENING = b": changes of files\nretry: 1000\n\n"
_HEARTBEAT = b": still here\n\n"
_encode = msgspec.json.Encoder().encode


async def watch(door: Door, exchange: Exchange) -> ASGIApp:
    """`GET /api/v1/instances/{id}/files/watch`"""
    path = path_in(exchange.query("path"))
    record = door.executor.instances.get(reference(exchange), exchange.principal)
    if door.is_closing:
        raise UnavailableError("the gateway is shutting down", retry_after_seconds=1.0)
    most = door.settings.streams_max
    if len(door.streams) >= most:
        raise ResourceExhaustedError(
            f"{most} streams are open, and more are not allowed", details={"streams_max": most}
        )
    return WatchStream(door, record.id, path)


class WatchStream:
    """One client watching one directory."""

    def __init__(self, door: Door, instance_id: InstanceId, path: str) -> None:
        self._door = door
        self._id = instance_id
        self._path = path

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
            if scope["method"] != "HEAD":
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
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                message = {"type": "http.response.body", "body": piece, "more_body": True}
                try:
                    await within(self._door.settings.send_timeout_seconds, send(message))
                except TimeoutError as stuck:
                    raise ClientGoneError from stuck

    async def _pieces(self) -> AsyncGenerator[bytes]:
        yield _OPENING
        look, is_ready, silent_seconds = FileWatch(self._path), False, 0.0
        while (events := await self._look(look)) is not None or self._exists():
            if events is not None and not is_ready:
                is_ready = True
                yield _event("ready", {"path": self._path})
            for event in events or ():
                silent_seconds = 0.0
                yield _event("file_event", event)
            if silent_seconds >= self._door.settings.heartbeat_seconds:
                silent_seconds = 0.0
                yield _HEARTBEAT
            await self._door.clock.sleep(look.pause_seconds)
            silent_seconds += look.pause_seconds
        yield _event("end", {"reason": "deleted"})

    async def _look(self, look: FileWatch) -> list[FileEvent] | None:
        """Return what changed; None while nothing can be looked at."""
        record = self._door.executor.instances.find(self._id)
        if record is None or record.sandbox_id is None:
            return None
        sandbox = self._door.executor.instances.sandbox(record.sandbox_id)
        if sandbox is None:
            return None
        try:
            return await look.look(sandbox)
        except FaasError:  # paused, or just going
            return None

    def _exists(self) -> bool:
        return self._door.executor.instances.find(self._id) is not None


def _event(name: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))
