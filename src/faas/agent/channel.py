"""One connection to an agent: requests by id, answers to futures, command news to their sinks.

Plain non-blocking socket and `add_reader`: a round trip costs one send, one receive and one
future. The first bad byte, a timeout or the end of the stream closes the channel, and everybody
who waits gets `SandboxBrokenError`.
"""

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from faas.agent.failures import refusal
from faas.agent.protocol import (
    VERSION,
    Answer,
    ExitFrame,
    Frame,
    FrameReader,
    HelloOk,
    ProtocolError,
    Request,
    Started,
    pack_frame,
    pack_u32,
    parse_error,
    parse_exit,
    parse_hello,
    parse_output,
    parse_started,
)
from faas.clock import expire_later
from faas.errors import SandboxBrokenError, TooLargeError

_RECEIVE_BYTES = 256 << 10
_ANSWER_SECONDS = 30.0
"""An agent shares its processor quota with the commands; under a fork bomb it may be slow."""
_ID_MAX = 0xFFFFFFFF

T = TypeVar("T")


class CommandSink(Protocol):
    """Who hears about one command."""

    def on_output(self, stdout_kept: int, stderr_kept: int) -> None:
        """More was kept."""
        ...

    def on_exit(self, ended: ExitFrame) -> None:
        """It ended; nothing follows."""
        ...

    def on_lost(self, error: SandboxBrokenError) -> None:
        """The channel closed before it ended; nothing follows."""
        ...


class _Outgoing:
    """Bytes that did not fit into the socket, and descriptors that go with their first byte."""

    __slots__ = ("data", "descriptors")

    def __init__(self, data: memoryview, descriptors: Sequence[int]) -> None:
        self.data = data
        self.descriptors = descriptors


def _look_at(answer: asyncio.Future[Frame]) -> None:
    """Whoever sent the greeting may fail before it waits for the answer."""
    if not answer.cancelled():
        answer.exception()


class AgentChannel:
    """One connection; made over a connected stream socket inside a running loop."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._last_id = 0
        self._pending: dict[int, deque[asyncio.Future[Frame]]] = {}
        """By id, oldest first: several requests about one command bear its id, and the agent
        answers them in order."""
        self._sinks: dict[int, CommandSink] = {}
        self._outgoing: deque[_Outgoing] = deque()
        self._broken: SandboxBrokenError | None = None
        self._loop.add_reader(connection.fileno(), self._on_readable)

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self._broken is None

    def greet(self) -> asyncio.Future[Frame]:
        """Send the greeting of an agent that is not there yet: it answers as soon as it is.

        `hello` waits for the answer.
        """
        answer = self._send(Request.HELLO, self._new_id(), pack_u32(VERSION), 0, ())
        answer.add_done_callback(_look_at)
        return answer

    async def hello(
        self, greeting: asyncio.Future[Frame] | None = None, *, seconds: float = 10.0
    ) -> HelloOk:
        """Greet the agent, or wait for the answer to a greeting that was sent: it proves that the
        agent runs and speaks our version."""
        payload = await self._answered(
            Request.HELLO, greeting or self.greet(), Answer.HELLO_OK, seconds
        )
        return self.parsed(parse_hello, payload)

    async def call(
        self,
        kind: Request,
        payload: bytes = b"",
        *,
        expects: Answer = Answer.OK,
        flags: int = 0,
        descriptors: Sequence[int] = (),
        frame_id: int | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> bytes:
        """Send one request and return the payload of its answer. Takes over `descriptors`.

        Raises:
            SandboxBrokenError: the channel closed, or no answer came in time.
            FaasError: the agent refused, by the class of who must act.
        """
        number = self._new_id() if frame_id is None else frame_id
        answer = self._send(kind, number, payload, flags, descriptors)
        return await self._answered(kind, answer, expects, seconds)

    async def _answered(
        self, kind: Request, answer: asyncio.Future[Frame], expects: Answer, seconds: float
    ) -> bytes:
        timer = expire_later(answer, seconds, self._loop)
        try:
            frame = await answer
        except TimeoutError:
            self.close(f"no answer to {kind.name} within {seconds:.0f} s")
            raise self._error() from None
        finally:
            timer.cancel()
        if frame.kind == expects:
            return frame.payload
        if frame.kind == Answer.ERROR:
            raise refusal(*self.parsed(parse_error, frame.payload))
        self.close(f"answer {frame.kind} to {kind.name}")
        raise self._error()

    async def command(
        self,
        kind: Request,
        payload: bytes,
        sink: CommandSink,
        *,
        flags: int = 0,
        descriptors: Sequence[int] = (),
    ) -> tuple[int, Started]:
        """Start or attach to a command whose news go to `sink`; return its id on this channel."""
        number = self._new_id()
        self._sinks[number] = sink
        try:
            answer = await self.call(
                kind,
                payload,
                expects=Answer.STARTED,
                flags=flags,
                descriptors=descriptors,
                frame_id=number,
            )
        except Exception:
            self._sinks.pop(number, None)
            raise
        return number, self.parsed(parse_started, answer)

    def close(self, why: str = "closed by the host") -> None:
        """Close it; everybody who waits gets SandboxBrokenError. Idempotent."""
        if self._broken is not None:
            return
        self._broken = SandboxBrokenError(details={"cause": why})
        self._loop.remove_reader(self._socket.fileno())
        if self._outgoing:
            self._loop.remove_writer(self._socket.fileno())
        for waiting in self._outgoing:
            _close_all(waiting.descriptors)
        self._outgoing.clear()
        self._socket.close()
        pending, self._pending = self._pending, {}
        for answer in (answer for waiting in pending.values() for answer in waiting):
            if not answer.done():
                answer.set_exception(self._error())
        sinks, self._sinks = self._sinks, {}
        for sink in sinks.values():
            sink.on_lost(self._error())

    def _error(self) -> SandboxBrokenError:
        return SandboxBrokenError(details=self._broken.details if self._broken else None)

    def _new_id(self) -> int:
        while True:
            self._last_id = self._last_id % _ID_MAX + 1
            if self._last_id not in self._pending and self._last_id not in self._sinks:
                return self._last_id

    def _send(
        self, kind: Request, number: int, payload: bytes, flags: int, descriptors: Sequence[int]
    ) -> asyncio.Future[Frame]:
        answer: asyncio.Future[Frame] = self._loop.create_future()
        if self._broken is not None:
            _close_all(descriptors)
            raise self._error()
        try:
            data = pack_frame(kind, number, payload, flags)
        except TooLargeError:
            _close_all(descriptors)
            raise
        self._pending.setdefault(number, deque()).append(answer)
        self._write(data, descriptors)
        return answer

    def _write(self, data: bytes, descriptors: Sequence[int]) -> None:
        if not self._outgoing:
            sent = self._try_send(data, descriptors)
            if sent is None or sent == len(data):
                return
            if sent:
                descriptors = ()
            self._loop.add_writer(self._socket.fileno(), self._on_writable)
            self._outgoing.append(_Outgoing(memoryview(data)[sent:], descriptors))
        else:
            self._outgoing.append(_Outgoing(memoryview(data), descriptors))

    def _try_send(self, data: bytes | memoryview, descriptors: Sequence[int]) -> int | None:
        """Return how much went out, 0 when the socket is full, None when the channel broke."""
        try:
            if descriptors:
                rights = array.array("i", descriptors)
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                sent = self._socket.sendmsg([data], ancillary)
                _close_all(descriptors)
                return sent
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            _close_all(descriptors)
            self.close(f"sending failed: {error.strerror}")
            return None

    def _on_writable(self) -> None:
        while self._outgoing:
            first = self._outgoing[0]
            sent = self._try_send(first.data, first.descriptors)
            if sent is None:
                return
            if sent:
                first.descriptors = ()
                first.data = first.data[sent:]
            if first.data:
                return
            self._outgoing.popleft()
        self._loop.remove_writer(self._socket.fileno())

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(f"receiving failed: {error.strerror}")
            return
        if not data:
            self.close("the agent is gone")
            return
        try:
            for frame in self._reader.feed(data):
                self._dispatch(frame)
        except ProtocolError as error:
            self.close(f"bad frame: {error}")

    def _dispatch(self, frame: Frame) -> None:
        kind, number = frame.kind, frame.id
        if kind == Answer.OUTPUT or kind == Answer.EXIT:  # noqa: PLR1714  quicker than a set on the hot path
            sink = self._sinks.get(number)
            if sink is None:
                raise ProtocolError("news of a command that nobody started")
            if kind == Answer.OUTPUT:
                sink.on_output(*parse_output(frame.payload))
            else:
                ended = parse_exit(frame.payload)
                del self._sinks[number]
                sink.on_exit(ended)
            return
        waiting = self._pending.get(number)
        if not waiting:
            raise ProtocolError("an answer to no question")
        answer = waiting.popleft()
        if not waiting:
            del self._pending[number]
        if not answer.done():
            answer.set_result(frame)

    def parsed(self, parse: Callable[[bytes], T], payload: bytes) -> T:
        try:
            return parse(payload)
        except ProtocolError as error:
            self.close(f"bad frame: {error}")
            raise self._error() from error


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
