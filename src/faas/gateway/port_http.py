"""One HTTP request to a port of a sandbox, and its answer, streamed both ways.

Each request has a connection of its own, so that nothing one answer leaves behind can be taken for
the next one's. h11 speaks to the server inside: strict about every byte, bounded in what it holds.
Bodies flow as the slower side takes them. An answer that breaks off is broken off to the client.
"""

import asyncio
from dataclasses import dataclass

import h11
from starlette.types import Receive, Send

from faas.clock import within
from faas.errors import DeadlineExceededError, InvalidArgumentError
from faas.gateway.exchange import ClientGoneError
from faas.gateway.port_headers import Headers, Way, outward
from faas.gateway.port_link import LinkLostError, PortLink
from faas.gateway.problems import BadGatewayError

HEAD_BYTES_MAX = 64 << 10
"""Of an answer's head; also what is held of anything unfinished."""
_INTERIM_MAX = 16
"""Answers before the answer (1xx); there is no use for more than one or two."""
_CLIENT_PIECE_BYTES = 32 << 10
"""Given to the client at once: a client that takes one in `send_timeout_seconds` is alive."""
_BODILESS = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class PortRequest:
    """A request, its headers already as the server is to see them."""

    method: bytes
    way: Way
    headers: Headers
    length: int | None
    """Of the body; None when it is not known before."""
    has_body: bool


def body_of(headers: Headers) -> tuple[bool, int | None]:
    """Say whether a request has a body, and how long it is.

    Raises:
        InvalidArgumentError: it says so in two ways that differ.
    """
    lengths = {value for name, value in headers if name == b"content-length"}
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if lengths or len(codings) > 1 or codings[0].strip().lower() != b"chunked":
            raise InvalidArgumentError("the request says in two ways how long its body is")
        return True, None
    if not lengths:
        return False, 0
    text = lengths.pop()
    if lengths or not text.isdigit() or len(text) > 19:  # noqa: PLR2004  digits of 2**63
        raise InvalidArgumentError("the request says in two ways how long its body is")
    return int(text) > 0, int(text)


class HttpRelay:
    """Carries one request in and its answer out."""

    def __init__(self, link: PortLink, request: PortRequest, *, send_seconds: float) -> None:
        self._link = link
        self._request = request
        self._send_seconds = send_seconds
        self._peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self.is_started = False
        """Whether the client has heard the head of an answer."""

    async def run(self, receive: Receive, send: Send) -> bool:
        """Serve; False when the answer broke off after it began.

        Raises:
            BadGatewayError: what came is no answer.
            ClientGoneError: the client went away.
        """
        try:
            await self._send_head()
            return await self._both(receive, send)
        except (LinkLostError, h11.RemoteProtocolError, BadGatewayError) as broken:
            if self.is_started:
                return False
            raise BadGatewayError("the server in the sandbox broke off, or is none") from broken

    async def _both(self, receive: Receive, send: Send) -> bool:
        up = asyncio.ensure_future(self._up(receive))
        down = asyncio.ensure_future(self._down(send))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if not down.done():
                up.result()
                raise ClientGoneError
            return down.result()
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.wait({up, down})
            _ = up.cancelled() or up.exception()  # heard, so that nobody complains

    async def _send_head(self) -> None:
        request = self._request
        framing: Headers = []
        if request.has_body and request.length is None:
            framing.append((b"transfer-encoding", b"chunked"))
        elif request.has_body or (request.length is not None and request.method != b"GET"):
            framing.append((b"content-length", b"%d" % (request.length or 0)))
        head = h11.Request(
            method=request.method,
            target=request.way.target,
            headers=[*request.headers, *framing, (b"connection", b"close")],
        )
        await self._say(head)
        if not request.has_body:
            await self._say(h11.EndOfMessage())

    async def _say(self, event: h11.Event) -> None:
        data = self._peer.send(event)
        if data:
            await self._link.write(data)

    async def _up(self, receive: Receive) -> None:
        """Pass the body on, then wait for the client to go away."""
        is_open = self._request.has_body
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if not is_open:
                continue
            try:
                if piece := message.get("body", b""):
                    await self._say(h11.Data(data=piece))
                if not message.get("more_body", False):
                    is_open = False
                    await self._say(h11.EndOfMessage())
            except (LinkLostError, h11.LocalProtocolError):
                # It takes no more, but may have answered before; the answer says what is wrong.
                is_open = False

    async def _down(self, send: Send) -> bool:
        head = await self._answer_head()
        await self._tell_head(head, send)
        while True:
            event = await self._next()
            if isinstance(event, h11.Data):
                await self._tell(bytes(event.data), send)
            elif isinstance(event, h11.EndOfMessage):
                await send({"type": "http.response.body", "body": b""})
                return True
            else:
                return False

    async def _answer_head(self) -> h11.Response:
        for _ in range(_INTERIM_MAX):
            event = await self._next()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse) or event.status_code == 101:  # noqa: PLR2004
                break
        raise BadGatewayError("the server in the sandbox gave no answer")

    async def _next(self) -> object:
        while True:
            event = self._peer.next_event()
            if event is not h11.NEED_DATA:
                return event
            # Others get a turn, however fast these two are.
            await asyncio.sleep(0)
            self._peer.receive_data(await self._link.read())

    async def _tell_head(self, head: h11.Response, send: Send) -> None:
        headers = outward([(bytes(n), bytes(v)) for n, v in head.headers], self._request.way)
        is_chunked = any(name == b"transfer-encoding" for name, _ in head.headers)
        if is_chunked or head.status_code in _BODILESS:
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        self.is_started = True
        start = {"type": "http.response.start", "status": head.status_code, "headers": headers}
        await send(start)

    async def _tell(self, data: bytes, send: Send) -> None:
        for at in range(0, len(data), _CLIENT_PIECE_BYTES):
            piece = data[at : at + _CLIENT_PIECE_BYTES]
            message = {"type": "http.response.body", "body": piece, "more_body": True}
            try:
                await within(self._send_seconds, send(message))
            except TimeoutError as stuck:
                raise ClientGoneError from stuck


async def relay(
    link: PortLink, request: PortRequest, receive: Receive, send: Send, *, send_seconds: float
) -> bool:
    """Carry one request in and its answer out; False when it broke off half-way.

    Raises:
        BadGatewayError: what came is no answer.
        InvalidArgumentError: the request cannot be passed on.
    """
    carrier = HttpRelay(link, request, send_seconds=send_seconds)
    try:
        return await carrier.run(receive, send)
    except h11.LocalProtocolError as wrong:
        raise InvalidArgumentError("this request cannot be passed on") from wrong
    except DeadlineExceededError:
        if carrier.is_started:
            return False
        raise
