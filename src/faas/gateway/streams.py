"""Output while it is written: a piece by offset, or a live stream as server-sent events.

Nothing is buffered here. A stream keeps two numbers, how far its client has got in stdout and
stderr, and reads the spool from there whenever the client takes more; a slow client only slows
itself. Each event's id carries both offsets (`stdout-stderr`), so `Last-Event-ID` resumes at the
very byte.
"""

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Literal, TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from faas.errors import FaasError, InvalidArgumentError
from faas.executor import ExecutionLogs
from faas.gateway import problems, views
from faas.gateway.connection import while_connected
from faas.gateway.door import Door
from faas.gateway.event_stream import require_room
from faas.gateway.exchange import ClientGoneError, Exchange, choice, number
from faas.gateway.executions import encode, execution_id_of
from faas.gateway.image_wire import step_view
from faas.gateway.problems import NotAcceptableError
from faas.gateway.replies import TRACE_KEY, Reply
from faas.gateway.wire import LogsView, OutputEvent
from faas.ids import ExecutionId
from faas.sandbox.protocols import Progress

CHUNK_BYTES = 64 << 10
"""Of one event: large enough for throughput, small enough that two streams take turns."""

LOGS_DEFAULT, LOGS_MAX = 1 << 20, 16 << 20

_OPENING = b": stream of one execution\nretry: 1000\n\n"
_HEARTBEAT = b": still here\n\n"
_EVENT_ID = re.compile(r"(\d{1,15})-(\d{1,15})")

StreamName = Literal["stdout", "stderr"]
T = TypeVar("T")


async def get_logs(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/executions/{id}/logs`"""
    execution_id = execution_id_of(exchange)
    query = exchange.query("stream", "offset", "limit")
    stream: StreamName = (
        "stderr" if choice(query, "stream", ("stdout", "stderr")) == "stderr" else "stdout"
    )
    offset: int = number(query, "offset", 0)
    limit: int = number(query, "limit", LOGS_DEFAULT, least=1, most=LOGS_MAX)
    is_json = _wants_json(exchange)
    logs = door.executor.logs(execution_id, exchange.principal)
    # Progress before data: what arrives in between is left for the next call, never lost.
    progress = logs.progress()
    kept = _kept(progress, stream)
    data = (
        b""
        if offset >= kept
        else logs.read(stream, offset=offset, length=min(limit, kept - offset))
    )
    upto = offset + len(data)
    ended = progress.is_ended and upto >= kept
    if is_json:
        return Reply(
            encode(
                LogsView(
                    execution_id=execution_id,
                    stream=stream,
                    offset=offset,
                    next_offset=upto,
                    ended=ended,
                    data=base64.b64encode(data).decode(),
                    text=data.decode(errors="replace"),
                )
            )
        )
    return Reply(
        data,
        media_type=b"application/octet-stream",
        headers=[
            (b"x-next-offset", b"%d" % upto),
            (b"x-ended", b"true" if ended else b"false"),
        ],
    )


def _wants_json(exchange: Exchange) -> bool:
    accept = exchange.headers.get(b"accept", b"*/*").decode("latin-1").lower()
    kinds = [part.partition(";")[0].strip() for part in accept.split(",")]
    for kind in kinds:
        if kind == "application/json":
            return True
        if kind in ("*/*", "application/*", "application/octet-stream"):
            return False
    supported = ["application/json", "application/octet-stream"]
    raise NotAcceptableError(details={"supported": supported})


async def stream_logs(door: Door, exchange: Exchange) -> ASGIApp:
    """`GET /api/v1/logs/{id}/stream`"""
    execution_id = execution_id_of(exchange)
    query = exchange.query("last_event_id")
    last = exchange.headers.get(b"last-event-id", b"").decode("latin-1")
    stdout, stderr = _resume_at(last or query.get("last_event_id", ""))
    require_room(door)
    logs = door.executor.logs(execution_id, exchange.principal)
    return LogStream(door, exchange, execution_id, logs, {"stdout": stdout, "stderr": stderr})


def _resume_at(event_id: str) -> tuple[int, int]:
    if not event_id:
        return 0, 0
    found = _EVENT_ID.fullmatch(event_id)
    if not found:
        raise InvalidArgumentError(
            f"Last-Event-ID {event_id[:40]!r} is not one of ours",
            hint="ids look like 120-0: bytes taken of stdout, then of stderr",
        )
    return int(found[1]), int(found[2])


class LogStream:
    """One client following one execution."""

    def __init__(
        self,
        door: Door,
        exchange: Exchange,
        execution_id: ExecutionId,
        logs: ExecutionLogs,
        offsets: dict[StreamName, int],
    ) -> None:
        self._door = door
        self._exchange = exchange
        self._id = execution_id
        self._logs = logs
        self._offsets = offsets

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
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
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
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                try:
                    async with asyncio.timeout(self._door.settings.send_timeout_seconds):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                except TimeoutError as stuck:
                    raise ClientGoneError from stuck

    async def _pieces(self) -> AsyncGenerator[bytes]:
        yield _OPENING
        try:
            async for piece in self._image_steps():
                yield piece
            seen = self._logs.progress()
            while True:
                for piece in self._written(seen):
                    yield piece
                if seen.is_ended:
                    break
                async for later in self._until(partial(self._logs.changed, seen)):
                    if later is None:
                        yield _HEARTBEAT
                    else:
                        seen = later
            final = partial(self._door.executor.wait, self._id, self._exchange.principal)
            async for record in self._until(final):
                yield (
                    _HEARTBEAT
                    if record is None
                    else self._event("exit", encode(views.exit_event(record)))
                )
        except FaasError as failure:
            yield self._event("error", problems.reply(failure, self._exchange.trace_id).body)

    async def _image_steps(self) -> AsyncGenerator[bytes]:
        """Tell how its image comes, as long as it is waited for."""
        watch, seen = self._logs.image_watch, 0
        if watch is None:
            return
        while True:
            async for is_more in self._until(partial(watch.changed, seen)):
                if is_more is False:
                    return
                if is_more is None:
                    yield _HEARTBEAT
            steps, seen = watch.since(seen)
            for step in steps:
                yield self._event("image", encode(step_view(step)))

    def _written(self, seen: Progress) -> Iterator[bytes]:
        """Yield what is there and was not sent, one piece of each stream in turn."""
        pending = True
        while pending:
            pending = False
            for stream in ("stdout", "stderr"):
                offset = self._offsets[stream]
                length = min(CHUNK_BYTES, _kept(seen, stream) - offset)
                if length <= 0:
                    continue
                data = self._logs.read(stream, offset=offset, length=length)
                if not data:
                    continue
                pending = True
                self._offsets[stream] = offset + len(data)
                text = data.decode(errors="replace")
                event = OutputEvent(stream, offset, base64.b64encode(data).decode(), text)
                yield self._event(stream, encode(event))

    async def _until(self, make: Callable[[], Awaitable[T]]) -> AsyncGenerator[T | None]:
        """Yield None at each heartbeat, then what was waited for."""
        while True:
            try:
                async with asyncio.timeout(self._door.settings.heartbeat_seconds):
                    answer = await make()
            except TimeoutError:
                yield None
            else:
                yield answer
                return

    def _event(self, name: str, data: bytes) -> bytes:
        place = f"{self._offsets['stdout']}-{self._offsets['stderr']}"
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (place.encode(), name.encode(), data)


def _kept(progress: Progress, stream: StreamName) -> int:
    return progress.stdout_bytes if stream == "stdout" else progress.stderr_bytes
