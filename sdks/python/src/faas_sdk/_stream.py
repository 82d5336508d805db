"""A command's output while it is written: an iterator that survives broken connections."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Dict,
    Optional,
    Type,
    Union,
)

from faas_sdk._errors import FaaSError, GatewayUnreachableError
from faas_sdk._models import ExecutionResult, ExitEvent, StreamEvent
from faas_sdk._sse import OutputCursor, SseParser
from faas_sdk._transport import Call, Transport

if TYPE_CHECKING:
    from faas_sdk._client import FaaSClient

STEADY_SECONDS = 5.0
"""A connection that held this long worked: the next failure is a first one again, so that a quiet
command may be followed for hours through a proxy that cuts idle connections."""

IDLE_SECONDS = 60.0
"""Longer than several of a gateway's heartbeats: silence for this long is a dead connection."""


async def follow(transport: Transport, execution_id: str) -> AsyncIterator[StreamEvent]:
    """Yield the output of an execution from its first byte, then how it ended.

    Raises:
        FaaSError: there is no such execution, or the connection broke again and again.
    """
    cursor = OutputCursor()
    attempt = 0
    while not cursor.is_ended:
        opened_at = time.monotonic()
        events: Any = _once(transport, execution_id, cursor)
        try:
            async for event in events:
                attempt = 0
                yield event
            broken = GatewayUnreachableError("the gateway ended the stream before the command did")
        except GatewayUnreachableError as error:
            broken = error
        except FaaSError as error:
            if not error.retryable or error.status not in (429, 503, None):
                raise
            broken = error
        finally:
            await events.aclose()
        if not cursor.is_ended:
            held = time.monotonic() - opened_at > STEADY_SECONDS
            attempt = 1 if held else attempt + 1
            await transport.pause(broken, attempt)


async def _once(
    transport: Transport, execution_id: str, cursor: OutputCursor
) -> AsyncIterator[StreamEvent]:
    headers = {"Accept": "text/event-stream"}
    if cursor.last_event_id is not None:
        headers["Last-Event-ID"] = cursor.last_event_id
    call = Call(
        "GET",
        f"/api/v1/logs/{execution_id}/stream",
        read_seconds=IDLE_SECONDS,
        headers=headers,
        is_repeatable=True,
    )
    parser = SseParser()
    async with transport.open(call) as response:
        async for chunk in response.aiter_bytes():
            for message in parser.feed(chunk):
                event = cursor.take(message)
                if event is not None:
                    yield event
            if cursor.is_ended:
                return


async def watch(
    transport: Transport, path: str, query: Dict[str, Any]
) -> AsyncIterator[Dict[str, Any]]:
    """Yield events of files until the gateway says that there will be no more.

    Raises:
        FaaSError: there is no such thing, or the connection broke.
    """
    call = Call(
        "GET",
        path,
        read_seconds=IDLE_SECONDS,
        query=query,
        headers={"Accept": "text/event-stream"},
        is_repeatable=True,
    )
    parser = SseParser()
    async with transport.open(call) as response:
        async for chunk in response.aiter_bytes():
            for message in parser.feed(chunk):
                if message.event == "end":
                    return
                told: Dict[str, Any] = json.loads(message.data)
                yield {**told, "event": told.get("event", message.event)}
    raise GatewayUnreachableError("the gateway ended the watch")


class ExecutionStream:
    """A running command: iterate over its output, write to its stdin, cancel it.

    As a context manager it ends the command when you leave before it ended. Iterated without,
    the command runs on when you stop listening; `execution_id` finds it again.
    """

    def __init__(
        self, client: FaaSClient, transport: Transport, start: Callable[[], Awaitable[str]]
    ) -> None:
        self._client = client
        self._transport = transport
        self._start = start
        self._events: Optional[AsyncIterator[StreamEvent]] = None
        self._stdin_offset = 0
        self.execution_id: Optional[str] = None
        self.exit: Optional[ExitEvent] = None

    async def start(self) -> str:
        """Submit the command, unless that happened already; return the id of its execution."""
        if self.execution_id is None:
            self.execution_id = await self._start()
            self._events = follow(self._transport, self.execution_id)
        return self.execution_id

    def __aiter__(self) -> ExecutionStream:
        return self

    async def __anext__(self) -> StreamEvent:
        await self.start()
        if self._events is None:
            raise StopAsyncIteration
        event = await self._events.__anext__()
        if isinstance(event, ExitEvent):
            self.exit = event
        return event

    async def write_stdin(self, data: Union[str, bytes], *, is_last: bool = False) -> None:
        """Send input to a command started with `stdin_open=True`; safe when a connection breaks."""
        execution_id = await self.start()
        encoded = data.encode() if isinstance(data, str) else data
        self._stdin_offset = await self._client.write_stdin(
            execution_id, encoded, offset=self._stdin_offset, is_last=is_last
        )

    async def cancel(self) -> None:
        """End the command now. Harmless when it has ended."""
        if self.execution_id is not None:
            await self._client.cancel(self.execution_id)

    async def result(self) -> ExecutionResult:
        """Read on to the end and return the whole result.

        Raises:
            ExecutionTimeoutError: the command ran out of its time.
        """
        async for _ in self:
            pass
        return (await self._client.wait(await self.start())).raise_for_timeout()

    async def __aenter__(self) -> ExecutionStream:
        await self.start()
        return self

    async def __aexit__(
        self,
        _type: Optional[Type[BaseException]],
        value: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        events: Any = self._events
        self._events = None
        if events is not None:
            await events.aclose()
        if self.exit is not None:
            return
        try:
            await self.cancel()
        except FaaSError:
            # What made the caller leave says more than that the command could not be ended.
            if value is None:
                raise
