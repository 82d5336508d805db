"""`GET /api/v1/instances/{id}/files/watch`: what changes below a directory, as server-sent events.

`ready` comes when the first look is done: from then on every change that lasts is told. A watch
is no use of the instance: one that sleeps is not woken, and goes to sleep all the same; the watch
goes on when it runs again, and ends when it is deleted.
"""

import msgspec
from starlette.types import ASGIApp

from faas.errors import FaasError
from faas.gateway.container_wire import FileEvent
from faas.gateway.door import Door
from faas.gateway.event_stream import (
    HEARTBEAT,
    EventStream,
    Pieces,
    event,
    opening,
    require_room,
)
from faas.gateway.exchange import Exchange
from faas.gateway.file_watch import FileWatch
from faas.gateway.instance_files import path_in
from faas.gateway.instance_wire import WatchEndEvent, WatchReadyEvent
from faas.gateway.instances import reference
from faas.ids import InstanceId

_OPENING = opening("changes of files")
_encode = msgspec.json.Encoder().encode


async def watch(door: Door, exchange: Exchange) -> ASGIApp:
    """`GET /api/v1/instances/{id}/files/watch`"""
    path = path_in(exchange.query("path"))
    record = door.executor.instances.get(reference(exchange), exchange.principal)
    require_room(door)
    return EventStream(door, _Watch(door, record.id, path).pieces())


class _Watch:
    """What changes below one directory, for one client."""

    def __init__(self, door: Door, instance_id: InstanceId, path: str) -> None:
        self._door = door
        self._id = instance_id
        self._path = path

    async def pieces(self) -> Pieces:
        """What is sent, until the instance is deleted or the client has left."""
        yield _OPENING
        look, is_ready, silent_seconds = FileWatch(self._path), False, 0.0
        while (changes := await self._look(look)) is not None or self._exists():
            if changes is not None and not is_ready:
                is_ready = True
                yield event("ready", _encode(WatchReadyEvent(self._path)))
            for change in changes or ():
                silent_seconds = 0.0
                yield event("file_event", _encode(change))
            if silent_seconds >= self._door.settings.heartbeat_seconds:
                silent_seconds = 0.0
                yield HEARTBEAT
            await self._door.clock.sleep(look.pause_seconds)
            silent_seconds += look.pause_seconds
        yield event("end", _encode(WatchEndEvent()))

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
