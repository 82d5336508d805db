"""One WebSocket to a port of a sandbox: messages go through whole, closes with their code.

The gateway is a server to the client and a client to the server inside; compression and pings are
between neighbours. One message at a time is on its way in each direction, so the slower side sets
the pace.
"""

import asyncio
from dataclasses import dataclass

from starlette.types import Message, Receive, Send
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Event, State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from faas.clock import within
from faas.errors import DeadlineExceededError
from faas.gateway.exchange import ClientGoneError
from faas.gateway.port_headers import Headers, Way, for_websocket, outward
from faas.gateway.port_link import LinkLostError, PortLink
from faas.gateway.problems import BadGatewayError

MESSAGE_BYTES_MAX = 16 << 20
"""Of one from inside, held whole for a moment; from outside the server's own limit holds."""

_HANDSHAKE_SECONDS = 30.0
_GONE, _TROUBLE, _TOO_LARGE, _NOT_TEXT = 1001, 1011, 1009, 1007
_UNSENDABLE = frozenset({1004, 1005, 1006, 1015})


@dataclass(frozen=True, slots=True)
class SocketRequest:
    """A handshake, its headers already as the server is to see them."""

    way: Way
    headers: Headers
    subprotocols: tuple[str, ...]


class WebSocketRelay:
    """Carries messages both ways until either side closes."""

    def __init__(self, link: PortLink, request: SocketRequest, *, send_seconds: float) -> None:
        self._link = link
        self._request = request
        self._send_seconds = send_seconds
        path, _, query = request.way.target.decode("ascii").partition("?")
        wanted = [Subprotocol(one) for one in request.subprotocols]
        uri = WebSocketURI(secure=False, host="localhost", port=80, path=path, query=query)
        self._peer = ClientProtocol(uri, subprotocols=wanted or None, max_size=MESSAGE_BYTES_MAX)
        self._sending = asyncio.Lock()
        self._early: list[Event] = []
        """What came right behind the handshake."""
        self._pieces: list[bytes] = []
        self._is_text = False
        self.is_accepted = False

    async def run(self, receive: Receive, send: Send) -> None:
        """Serve to the end.

        Raises:
            BadGatewayError: the server does not speak WebSocket there; nothing was accepted.
        """
        try:
            accepted = await within(_HANDSHAKE_SECONDS, self._shake_hands())
        except TimeoutError as late:
            raise BadGatewayError("the server in the sandbox does not answer") from late
        except (LinkLostError, InvalidHandshake, ProtocolError, EOFError) as wrong:
            raise BadGatewayError("the server in the sandbox speaks no WebSocket") from wrong
        self.is_accepted = True
        await send(accepted)
        await self._carry(receive, send)

    async def _shake_hands(self) -> Message:
        peer = self._peer
        request = peer.connect()
        del request.headers["Host"]
        for name, value in [
            (b"host", self._request.way.host),
            *for_websocket(self._request.headers),
        ]:
            request.headers[name.decode("latin-1")] = value.decode("latin-1")
        peer.send_request(request)
        await self._flush()
        while peer.state is State.CONNECTING and peer.handshake_exc is None:
            await self._hear()
        events = peer.events_received()
        response = next((e for e in events if isinstance(e, Response)), None)
        self._early = [e for e in events if not isinstance(e, Response)]
        if peer.handshake_exc is not None or response is None:
            raise BadGatewayError(
                "the server in the sandbox refused the WebSocket",
                details={} if response is None else {"status": response.status_code},
            )
        raw = [(n.lower().encode(), v.encode("latin-1")) for n, v in response.headers.raw_items()]
        return {
            "type": "websocket.accept",
            "subprotocol": peer.subprotocol,
            "headers": for_websocket(outward(raw, self._request.way)),
        }

    async def _carry(self, receive: Receive, send: Send) -> None:
        inward = asyncio.ensure_future(self._inward(receive))
        outwards = asyncio.ensure_future(self._outward(send))
        try:
            await asyncio.wait({inward, outwards}, return_when=asyncio.FIRST_COMPLETED)
            if outwards.done():
                await send({"type": "websocket.close", "code": outwards.result()})
            else:
                await self._close_peer(inward.result())
        except (LinkLostError, ClientGoneError, DeadlineExceededError, OSError, RuntimeError):
            return  # one of the two is gone, and the other hears it by the close
        finally:
            for task in (inward, outwards):
                task.cancel()
            await asyncio.wait({inward, outwards})
            for task in (inward, outwards):
                _ = task.cancelled() or task.exception()

    async def _inward(self, receive: Receive) -> int:
        """Carry what the client says; return the code with which it closed."""
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return int(message.get("code") or _GONE)
            text = message.get("text")
            if self._peer.state is not State.OPEN:
                continue
            if text is not None:
                self._peer.send_text(text.encode())
            else:
                self._peer.send_binary(message.get("bytes") or b"")
            await self._flush()

    async def _outward(self, send: Send) -> int:
        """Carry what the server says; return the code with which it closed, or broke off."""
        while True:
            try:
                early, self._early = self._early, []
                for event in (*early, *self._peer.events_received()):
                    if isinstance(event, Frame) and event.opcode is not Opcode.CLOSE:
                        await self._tell(event, send)
                if self._peer.state is not State.OPEN:
                    break
                await self._hear()
            except (LinkLostError, EOFError):
                break
            except UnicodeDecodeError:
                return _NOT_TEXT
        await self._flush_quietly()
        if isinstance(self._peer.parser_exc, ProtocolError):
            return _TROUBLE
        received = self._peer.close_rcvd or self._peer.close_sent
        return _TROUBLE if received is None else _sendable(received.code)

    async def _tell(self, frame: Frame, send: Send) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        if frame.opcode is not Opcode.CONT:
            self._pieces, self._is_text = [], frame.opcode is Opcode.TEXT
        self._pieces.append(bytes(frame.data))
        if not frame.fin:
            return
        whole, self._pieces = b"".join(self._pieces), []
        content = {"text": whole.decode()} if self._is_text else {"bytes": whole}
        try:
            await within(self._send_seconds, send({"type": "websocket.send", **content}))
        except (TimeoutError, OSError) as stuck:
            raise ClientGoneError from stuck

    async def _hear(self) -> None:
        await asyncio.sleep(0)
        data = await self._link.read()
        if data:
            self._peer.receive_data(data)
        else:
            self._peer.receive_eof()
        await self._flush()
        if not data:
            raise EOFError

    async def _flush(self) -> None:
        async with self._sending:
            for piece in self._peer.data_to_send():
                if piece:  # an empty one asks to close, which whoever gave the link does
                    await self._link.write(piece)

    async def _flush_quietly(self) -> None:
        try:
            await self._flush()
        except LinkLostError:
            return

    async def _close_peer(self, code: int) -> None:
        if self._peer.state is State.OPEN:
            self._peer.send_close(_sendable(code))
            await self._flush_quietly()


def _sendable(code: int) -> int:
    return 1000 if code == 1005 else _TROUBLE if code in _UNSENDABLE else code  # noqa: PLR2004
