"""The output of one command as events, from where a client stands, cut between characters."""

import base64
import codecs
from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import UNSET, Struct

from faas.executor import ExecutionLogs
from faas.gateway.container_wire import StderrEvent, StdoutEvent
from faas.ids import ExecutionId
from faas.sandbox.protocols import Progress

CHUNK_BYTES = 64 << 10
"""Of one event: large enough for throughput, small enough that streams take turns."""

Tell = Callable[[Struct], Awaitable[None]]
StreamName = Literal["stdout", "stderr"]


class Follower:
    """Tells all that a command writes, then returns."""

    def __init__(
        self,
        logs: ExecutionLogs,
        execution_id: ExecutionId,
        offsets: tuple[int, int],
        *,
        tell: Tell,
    ) -> None:
        self._logs = logs
        self._id = execution_id
        self._offsets: dict[StreamName, int] = {"stdout": offsets[0], "stderr": offsets[1]}
        self._tell = tell

    async def run(self) -> None:
        """Follow to the end."""
        seen = self._logs.progress()
        while True:
            while await self._tell_some(seen):
                pass
            if seen.is_ended:
                return
            seen = await self._logs.changed(seen)

    async def _tell_some(self, seen: Progress) -> bool:
        told = False
        for stream in ("stdout", "stderr"):
            kept = seen.stdout_bytes if stream == "stdout" else seen.stderr_bytes
            offset = self._offsets[stream]
            data = self._logs.read(stream, offset=offset, length=min(CHUNK_BYTES, kept - offset))
            is_last = seen.is_ended and offset + len(data) >= kept
            data = data if is_last else whole_characters(data)
            if kept <= offset or not data:
                continue
            told = True
            self._offsets[stream] = offset + len(data)
            await self._tell(self._event(stream, offset, data))
        return told

    def _event(self, stream: StreamName, offset: int, data: bytes) -> StdoutEvent | StderrEvent:
        kind = StdoutEvent if stream == "stdout" else StderrEvent
        upto = offset + len(data)
        try:
            return kind(data.decode(), self._id, offset, upto, UNSET)
        except UnicodeDecodeError:
            exact = base64.b64encode(data).decode()
            return kind(data.decode(errors="replace"), self._id, offset, upto, exact)


def whole_characters(data: bytes) -> bytes:
    """Leave out the beginning of a character at the end; what is no UTF-8 anyway stays."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    pending = len(decoder.getstate()[0])
    return data[: len(data) - pending]
