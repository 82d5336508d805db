"""Bytes to and from a port of a sandbox, never waiting in the kernel and never running ahead.

The descriptor came out of a sandbox, and whoever kept a copy of it can make it a blocking one. So
every read and write says itself that it must not wait. Nothing is buffered here: a read is made
when its bytes are wanted, a write returns when the kernel has taken all, and that is the whole of
the flow control.
"""

import asyncio
import socket
from collections.abc import Callable

from faas.clock import within
from faas.errors import DeadlineExceededError

PIECE_BYTES = 64 << 10
"""Of one read: large enough for throughput, small enough that connections take turns."""

IDLE_SECONDS_MAX = 600.0
"""Without a byte in either direction a connection is given up: longer than long polls and than the
heartbeats of anything that is meant to stay open."""


class LinkLostError(Exception):
    """The other end broke the connection."""


class PortLink:
    """One connection. Whoever gave the socket closes it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._number = connection.fileno()

    async def read(self) -> bytes:
        """Return what came, at most `PIECE_BYTES`; empty at the end.

        Raises:
            LinkLostError: the connection broke.
            DeadlineExceededError: nothing came for too long.
        """
        while True:
            try:
                return self._socket.recv(PIECE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await self._turn(loop.add_reader, loop.remove_reader)
            except OSError as broken:
                raise LinkLostError from broken

    async def write(self, data: bytes) -> None:
        """Return when all is on its way.

        Raises:
            LinkLostError: the connection broke.
            DeadlineExceededError: nothing was taken for too long.
        """
        rest = memoryview(data)
        while rest:
            try:
                sent = self._socket.send(rest, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                rest = rest[sent:]
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await self._turn(loop.add_writer, loop.remove_writer)
            except OSError as broken:
                raise LinkLostError from broken

    async def _turn(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        turned: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_ready() -> None:
            if not turned.done():
                turned.set_result(None)

        add(self._number, on_ready)
        try:
            await within(IDLE_SECONDS_MAX, turned)
        except TimeoutError:
            raise DeadlineExceededError("the port was silent for too long") from None
        finally:
            remove(self._number)
