"""Server-sent events without a socket: bytes in, messages out; and the place in the output.

A broken connection costs nothing: `Last-Event-ID` names both byte offsets, and `OutputCursor`
drops what comes twice and refuses a gap, so every byte is handed on exactly once.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, cast

from faas_sdk._errors import ProtocolError, error_from_problem
from faas_sdk._models import ExitEvent, OutputEvent, StreamEvent, failure_of

LINE_BYTES_MAX = 16 << 20
"""Far above any event a gateway sends; a peer that never ends its line is not one."""


@dataclass(frozen=True)
class SseMessage:
    """One event as it came."""

    event: str
    data: str
    id: Optional[str]


class SseParser:
    """Feed it chunks cut anywhere; it yields whole messages."""

    def __init__(self) -> None:
        self._buffer = b""
        self._fields: Dict[str, Any] = {"data": []}

    def feed(self, chunk: bytes) -> Iterator[SseMessage]:
        """Yield what this chunk completes.

        Raises:
            ProtocolError: a line is longer than any event.
        """
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        if len(self._buffer) > LINE_BYTES_MAX:
            raise ProtocolError("the event stream has a line without end")
        for line in lines:
            message = self._line(line.rstrip(b"\r").decode("utf-8", "replace"))
            if message is not None:
                yield message

    def _line(self, line: str) -> Optional[SseMessage]:
        if not line:
            fields, self._fields = self._fields, {"data": []}
            if not fields["data"]:
                return None
            data: List[str] = fields["data"]
            return SseMessage(fields.get("event", "message"), "\n".join(data), fields.get("id"))
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._fields["data"].append(value)
        elif name in ("event", "id"):
            self._fields[name] = value
        return None


class OutputCursor:
    """Where a reader stands in the output of one execution."""

    def __init__(self) -> None:
        self.last_event_id: Optional[str] = None
        self.is_ended = False
        self._offsets = {"stdout": 0, "stderr": 0}

    @property
    def offsets(self) -> Mapping[str, int]:
        """Bytes handed on so far, by stream."""
        return dict(self._offsets)

    def take(self, message: SseMessage) -> Optional[StreamEvent]:
        """Return what a message adds; None when it adds nothing.

        Raises:
            ProtocolError: it cannot be read, or bytes are missing before it.
            FaaSError: it says that the platform failed, to run the command or to tell of it.
        """
        try:
            facts = json.loads(message.data)
        except ValueError as error:
            raise ProtocolError("an event of the stream is not JSON") from error
        if not isinstance(facts, dict):
            raise ProtocolError("an event of the stream is not an object")
        event = self._read(message.event, cast("Dict[str, Any]", facts))
        if message.id is not None:
            self.last_event_id = message.id
        return event

    def _read(self, name: str, facts: Mapping[str, Any]) -> Optional[StreamEvent]:
        if name in self._offsets:
            return self._output(name, facts)
        if name == "exit":
            self.is_ended = True
            failure = failure_of(facts)
            if failure is not None:
                raise failure
            return ExitEvent(
                exit_code=int(facts["exit_code"]),
                reason=str(facts.get("reason") or "exited"),
                signal=facts.get("signal"),
                duration_ms=facts.get("duration_ms"),
            )
        if name == "error":
            raise error_from_problem(int(facts.get("status") or 500), facts)
        return None

    def _output(self, name: str, facts: Mapping[str, Any]) -> Optional[OutputEvent]:
        try:
            offset = int(facts["offset"])
            data = base64.b64decode(facts["data"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise ProtocolError("an output event has no offset or no data") from error
        have = self._offsets[name]
        if offset > have:
            raise ProtocolError(f"{offset - have} bytes of {name} are missing at offset {have}")
        fresh = data[have - offset :]
        if not fresh:
            return None
        self._offsets[name] = have + len(fresh)
        return OutputEvent(stream=name, offset=have, data=fresh)
