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
from functools import partial
from typing import Literal, TypeVar

from starlette.types import ASGIApp

from faas.errors import FaasError, InvalidArgumentError
from faas.executor import ExecutionLogs
from faas.gateway import problems, views
from faas.gateway.door import Door
from faas.gateway.event_stream import (
    HEARTBEAT,
    EventStream,
    Pieces,
    event,
    opening,
    require_room,
)
from faas.gateway.exchange import Exchange, choice, number
from faas.gateway.executions import encode, execution_id_of
from faas.gateway.image_wire import step_view
from faas.gateway.problems import NotAcceptableError
from faas.gateway.replies import Reply
from faas.gateway.wire import LogsView, OutputEvent
from faas.ids import ExecutionId
from faas.sandbox.protocols import Progress

CHUNK_BYTES = 64 << 10
"""Of one event: large enough for throughput, small enough that two streams take turns."""

LOGS_DEFAULT, LOGS_MAX = 1 << 20, 16 << 20

_OPENING = opening("stream of one execution")
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
    output = _Output(door, exchange, execution_id, logs, {"stdout": stdout, "stderr": stderr})
    return EventStream(door, output.pieces())


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


class _Output:
    """What one execution says, for one client."""

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

    async def pieces(self) -> Pieces:
        """What is sent, until the command has ended or the client has left."""
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
                        yield HEARTBEAT
                    else:
                        seen = later
            final = partial(self._door.executor.wait, self._id, self._exchange.principal)
            async for record in self._until(final):
                yield (
                    HEARTBEAT
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
                    yield HEARTBEAT
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
                written = OutputEvent(stream, offset, base64.b64encode(data).decode(), text)
                yield self._event(stream, encode(written))

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
        return event(name, data, event_id=place)


def _kept(progress: Progress, stream: StreamName) -> int:
    return progress.stdout_bytes if stream == "stdout" else progress.stderr_bytes
