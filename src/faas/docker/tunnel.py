"""Ports of a container on an Engine elsewhere: its connections share one stream through the Engine.

No socket can be handed out of such a container. `faas-native tunnel`, run by the Engine inside,
makes the connections there; who asks for one here gets an end of a pair of sockets, and what goes
over it is carried. Each side sends only what the other has room for, so a connection that nobody
reads holds up no other. The program is started by the first who asks, and again when it is gone.
"""

import asyncio
import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING

import aiohttp

from faas.clock import within
from faas.errors import (
    FaasError,
    PortClosedError,
    ResourceExhaustedError,
    SandboxBrokenError,
)

if TYPE_CHECKING:
    from aiodocker.stream import Stream

_HEAD = struct.Struct("<BBHI")
_PIECE_BYTES = 32 << 10
_FIRST_CREDIT_BYTES = 64 << 10
"""What the tunnel takes of a connection before it is told of more (`native/tunnel.c`)."""
_ROOM_BYTES = 256 << 10
"""What is held here of a connection that nobody reads."""
_ACCEPT_SECONDS = 10.0
"""For the server inside to take the connection, and for the Engine to carry question and answer."""
_HANG_UP_LOOK_SECONDS = 1.0
"""Between looks whether a caller who said its last word has gone: that wakes nobody."""
_IPV6 = 1


class Kind(IntEnum):
    """What a frame says."""

    OPEN = 1
    DATA = 2
    END = 3
    RESET = 4
    CREDIT = 5


class Tunnel:
    """The way to the ports of one container."""

    def __init__(
        self,
        dial: "Callable[[], Awaitable[Stream]]",
        keep: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """`dial` starts the program inside; `keep` holds the task that listens to it."""
        self._dial = dial
        self._keep = keep
        self._turn = asyncio.Lock()
        self._wire: _Wire | None = None

    async def connect(self, port: int) -> socket.socket:
        """Connect to a port of the container's loopback, by IPv4, else by IPv6.

        Raises:
            PortClosedError: nobody listens there, or nobody accepts.
            ResourceExhaustedError: as many connections as there may be stand already.
            SandboxBrokenError: the program inside cannot be started, or was lost.
        """
        wire = await self._opened()
        try:
            return await wire.connect(port, flags=0)
        except PortClosedError as closed:
            with contextlib.suppress(PortClosedError):
                return await wire.connect(port, flags=_IPV6)
            raise closed from None

    def close(self) -> None:
        """Cut every connection."""
        if self._wire is not None:
            self._wire.close()

    async def _opened(self) -> "_Wire":
        async with self._turn:
            if self._wire is None or not self._wire.is_open:
                try:
                    stream = await self._dial()
                except FaasError as failure:
                    raise SandboxBrokenError("no way to its ports can be made") from failure
                self._wire = _Wire(stream)
                self._keep(self._wire.listening)
            return self._wire


class _Flow:
    """One connection, seen from here."""

    def __init__(self, number: int, ours: socket.socket) -> None:
        self.number = number
        self.ours = ours
        self.stands: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.credit = _FIRST_CREDIT_BYTES
        """How much more the container takes."""
        self.room = _ROOM_BYTES
        """How much more we said we would."""
        self.has_credit = asyncio.Event()
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()
        """What came and was not handed on; empty bytes are the end. Bounded by `room`."""
        self.is_heard_out = asyncio.Event()
        self.carrying: asyncio.Task[None] | None = None


class _Wire:
    """One running program inside and the connections it carries."""

    def __init__(self, stream: "Stream") -> None:
        self._stream = stream
        self._flows: dict[int, _Flow] = {}
        self._last = 0
        self._writing = asyncio.Lock()
        self.is_open = True
        self.listening = asyncio.create_task(self._listen())

    def close(self) -> None:
        """End it with all it carries."""
        self.listening.cancel()

    async def connect(self, port: int, *, flags: int) -> socket.socket:
        """Make one connection and wait until it stands."""
        self._last += 1
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        theirs.settimeout(0)
        flow = self._flows[self._last] = _Flow(self._last, ours)
        try:
            await self._say(Kind.OPEN, flow.number, port.to_bytes(2, "little"), flags)
            await self._credit(flow.number, _ROOM_BYTES)
            await within(_ACCEPT_SECONDS, flow.stands)
        except BaseException as failure:
            theirs.close()
            await self._forget(flow, is_told=True)
            if refusal := self._refusal(failure, port):
                raise refusal from failure
            raise
        flow.carrying = asyncio.create_task(self._carry(flow))
        # Also when it was cancelled before its first step.
        flow.carrying.add_done_callback(lambda _: ours.close())
        return theirs

    def _refusal(self, failure: BaseException, port: int) -> FaasError | None:
        """Return what a failed connection means to who asked for it; None when it was cancelled."""
        if isinstance(failure, TimeoutError):
            return PortClosedError(f"port {port} takes no connection: its server is busy")
        if not isinstance(failure, OSError | aiohttp.ClientError):
            return None
        if not self.is_open or not isinstance(failure, OSError):
            return SandboxBrokenError(details={"cause": "the way to its ports was lost"})
        if failure.errno == errno.EAGAIN:
            return ResourceExhaustedError("the sandbox takes no more connections now")
        return PortClosedError(f"connect to port {port}: {failure.strerror}")

    async def _listen(self) -> None:
        """Sort what comes from inside until it ends or is not what ours would say."""
        held = bytearray()
        try:
            while (message := await self._stream.read_out()) is not None:
                if message.stream != 1:
                    continue
                held += message.data
                while len(held) >= _HEAD.size:
                    kind, _, length, number = _HEAD.unpack_from(held)
                    if len(held) < _HEAD.size + length:
                        break
                    payload = bytes(held[_HEAD.size : _HEAD.size + length])
                    del held[: _HEAD.size + length]
                    if not self._take(kind, number, payload):
                        return
        except (aiohttp.ClientError, OSError):
            return
        finally:
            self.is_open = False
            for flow in list(self._flows.values()):
                self._drop(flow, errno.ECONNRESET)
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await self._stream.close()

    def _take(self, kind: int, number: int, payload: bytes) -> bool:
        """Hear one frame; False when it is none."""
        flow = self._flows.get(number)
        if flow is None:  # it may have been forgotten here meanwhile
            return 0 < number <= self._last
        if kind == Kind.OPEN and not payload and not flow.stands.done():
            flow.stands.set_result(None)
        elif kind == Kind.DATA and 0 < len(payload) <= flow.room:
            flow.room -= len(payload)
            flow.arrived.put_nowait(payload)
        elif kind == Kind.END and not payload:
            flow.arrived.put_nowait(b"")
        elif kind == Kind.CREDIT and len(payload) == 4:  # noqa: PLR2004  an u32
            flow.credit += int.from_bytes(payload, "little")
            flow.has_credit.set()
        elif kind == Kind.RESET and len(payload) == 4:  # noqa: PLR2004
            self._drop(flow, int.from_bytes(payload, "little"))
        else:
            return False
        return True

    async def _carry(self, flow: _Flow) -> None:
        """Carry one connection until both its sides have ended, or one broke."""
        ways = [asyncio.ensure_future(self._up(flow)), asyncio.ensure_future(self._down(flow))]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
            is_broken = any(way.exception() is not None for way in done)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        await self._forget(flow, is_told=is_broken)

    async def _up(self, flow: _Flow) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not flow.credit:
                flow.has_credit.clear()
                await flow.has_credit.wait()
            data = await loop.sock_recv(flow.ours, min(flow.credit, _PIECE_BYTES))
            if not data:
                break
            flow.credit -= len(data)
            await self._say(Kind.DATA, flow.number, data)
        await self._say(Kind.END, flow.number)
        while not flow.is_heard_out.is_set():
            with contextlib.suppress(TimeoutError):
                await within(_HANG_UP_LOOK_SECONDS, flow.is_heard_out.wait())
            if _is_gone(flow.ours):
                raise ConnectionAbortedError

    async def _down(self, flow: _Flow) -> None:
        loop = asyncio.get_running_loop()
        while data := await flow.arrived.get():
            await loop.sock_sendall(flow.ours, data)
            flow.room += len(data)
            await self._credit(flow.number, len(data))
        flow.is_heard_out.set()
        flow.ours.shutdown(socket.SHUT_WR)

    async def _credit(self, number: int, more: int) -> None:
        await self._say(Kind.CREDIT, number, more.to_bytes(4, "little"))

    async def _say(self, kind: Kind, number: int, payload: bytes = b"", flags: int = 0) -> None:
        async with self._writing:
            if not self.is_open:
                raise ConnectionResetError(errno.ECONNRESET, "the tunnel has ended")
            frame = _HEAD.pack(kind, flags, len(payload), number) + payload
            await self._stream.write_in(frame)

    def _drop(self, flow: _Flow, number: int) -> None:
        """End a connection that the container ended, or that was lost with it."""
        self._flows.pop(flow.number, None)
        if not flow.stands.done():
            flow.stands.set_exception(OSError(number, os.strerror(number)))
        if flow.carrying is not None:
            flow.carrying.cancel()

    async def _forget(self, flow: _Flow, *, is_told: bool) -> None:
        flow.ours.close()
        if self._flows.pop(flow.number, None) is not None and is_told:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await self._say(Kind.RESET, flow.number)


def _is_gone(ours: socket.socket) -> bool:
    """Whether the other end was closed, and not only said its last word."""
    look = select.poll()
    look.register(ours, 0)
    return any(happened & select.POLLHUP for _, happened in look.poll(0))
