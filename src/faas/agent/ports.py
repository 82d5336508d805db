"""A connection to a port of a sandbox: the agent makes it inside and hands the socket out.

Each one comes over a connection to the agent of its own, so that descriptors are taken only where
one is expected; on the main channel the kernel throws them away. What comes is checked before it
is believed: one descriptor, a TCP socket, its other end the port that was asked for.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable

from faas.agent.failures import refusal
from faas.agent.protocol import (
    CONNECT_IPV6,
    VERSION,
    Answer,
    Frame,
    FrameReader,
    ProtocolError,
    Request,
    pack_frame,
    pack_u32,
    parse_error,
    parse_hello,
)
from faas.errors import (
    DeadlineExceededError,
    FaasError,
    PortClosedError,
    ResourceExhaustedError,
    SandboxBrokenError,
    UnsupportedError,
)

OpenAgent = Callable[[], socket.socket]
"""Makes one more connection to the agent."""

_AGENT_SECONDS = 30.0
"""For the agent to answer: it shares its processor quota with the commands."""
_ACCEPT_SECONDS = 5.0
"""For the server inside to take the connection; its queue may be full."""
_RECEIVE_BYTES = 4096
_DESCRIPTORS_MAX = 4
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_OURS = frozenset({errno.EINVAL, errno.EAGAIN, errno.EOPNOTSUPP, errno.EMFILE, errno.ENFILE})
"""What the agent refuses by itself; all else is what connect(2) says of the port."""


async def connect(open_agent: OpenAgent | None, port: int) -> socket.socket:
    """Connect to a port of the sandbox's loopback, by IPv4, else by IPv6.

    Raises:
        PortClosedError: nobody listens there, or nobody accepts.
        UnsupportedError: no descriptor can come from where this agent is.
        DeadlineExceededError: the agent did not answer in time.
        SandboxBrokenError: the agent is gone, or answers not as one of ours would.
    """
    if open_agent is None:
        raise UnsupportedError(
            "ports of this sandbox cannot be reached: it runs on another machine",
            hint="use a runtime on this machine: embedded, or a local Docker Engine",
        )
    caller = _Caller(open_agent)
    try:
        await caller.hello()
        try:
            return await caller.connect(port, socket.AF_INET)
        except PortClosedError as closed:
            with contextlib.suppress(PortClosedError):
                return await caller.connect(port, socket.AF_INET6)
            raise closed from None
    finally:
        caller.close()


class _Caller:
    """One connection to the agent, for a moment."""

    def __init__(self, open_agent: OpenAgent) -> None:
        try:
            self._socket = open_agent()
        except OSError as gone:
            raise SandboxBrokenError(details={"cause": "the agent is gone"}) from gone
        self._socket.settimeout(0)
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self._descriptors: list[int] = []
        self._last_id = 0

    def close(self) -> None:
        """End it, and close what was not asked for."""
        self._socket.close()
        for descriptor in self._descriptors:
            os.close(descriptor)

    async def hello(self) -> None:
        """Greet the agent."""
        answer = await self._call(Request.HELLO, pack_u32(VERSION), 0)
        try:
            parse_hello(answer.payload)
        except ProtocolError as wrong:
            raise _broken(str(wrong)) from wrong

    async def connect(self, port: int, family: socket.AddressFamily) -> socket.socket:
        """Ask for one connection and wait until it stands."""
        flags = CONNECT_IPV6 if family == socket.AF_INET6 else 0
        answer = await self._call(Request.CONNECT, port.to_bytes(2, "little"), flags)
        if answer.kind == Answer.ERROR:
            raise _refused(answer)
        if answer.kind != Answer.CONNECTED or answer.payload or len(self._descriptors) != 1:
            raise _broken(f"answer {answer.kind} with {len(self._descriptors)} descriptors")
        connection = _taken(self._descriptors.pop(), family)
        try:
            await _stands(connection, port)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _call(self, kind: Request, payload: bytes, flags: int) -> Frame:
        self._last_id += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_AGENT_SECONDS):
                await loop.sock_sendall(
                    self._socket, pack_frame(kind, self._last_id, payload, flags)
                )
                while not self._frames:
                    await _ready(loop.add_reader, loop.remove_reader, self._socket)
                    self._receive()
        except TimeoutError:
            raise DeadlineExceededError("the sandbox is too busy to take a connection") from None
        except (OSError, ProtocolError) as failure:
            raise _broken(str(failure)) from failure
        frame = self._frames.pop(0)
        if frame.id != self._last_id or self._frames:
            raise _broken("an answer to no question")
        return frame

    def _receive(self) -> None:
        room = socket.CMSG_SPACE(_DESCRIPTORS_MAX * 4)
        wanted = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(_RECEIVE_BYTES, room, wanted)
        except BlockingIOError:
            return
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(content) - len(content) % 4
                self._descriptors += memoryview(content)[:whole].cast("i").tolist()
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > 1:
            raise ProtocolError("too many descriptors")
        if not data:  # it has room for eight hosts
            raise ResourceExhaustedError("the sandbox takes no more connections now")
        self._frames += self._reader.feed(data)


def _taken(descriptor: int, family: socket.AddressFamily) -> socket.socket:
    """Own a descriptor that claims to be a TCP socket of that family; close it when it is not."""
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError as wrong:
        os.close(descriptor)
        raise _broken("the descriptor is no socket") from wrong
    wanted = (family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    asked = (socket.SO_DOMAIN, socket.SO_TYPE, socket.SO_PROTOCOL)
    if tuple(connection.getsockopt(socket.SOL_SOCKET, one) for one in asked) != wanted:
        connection.close()
        raise _broken("the descriptor is no TCP socket")
    connection.settimeout(0)
    return connection


async def _stands(connection: socket.socket, port: int) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_ACCEPT_SECONDS):
            await _ready(loop.add_writer, loop.remove_writer, connection)
    except TimeoutError:
        raise PortClosedError(f"port {port} takes no connection: its server is busy") from None
    number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise PortClosedError(f"connect to port {port}: {os.strerror(number)}")
    try:
        peer = connection.getpeername()
    except OSError:
        raise PortClosedError(f"port {port} hung up at once") from None
    if peer[:2] != (_LOOPBACK[connection.family], port):
        raise _broken("the socket leads elsewhere")


def _refused(answer: Frame) -> FaasError:
    try:
        number, what = parse_error(answer.payload)
    except ProtocolError as wrong:
        return _broken(str(wrong))
    if number in _OURS:
        return refusal(number, what)
    return PortClosedError(f"{what}: {os.strerror(number)}")


def _broken(cause: str) -> SandboxBrokenError:
    return SandboxBrokenError(details={"cause": cause})


async def _ready(
    add: Callable[..., object], remove: Callable[[int], object], connection: socket.socket
) -> None:
    """Wait until a socket can be read or written, by the loop's pair of functions for it."""
    turned: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_ready() -> None:
        if not turned.done():
            turned.set_result(None)

    number = connection.fileno()
    add(number, on_ready)
    try:
        await turned
    finally:
        remove(number)
