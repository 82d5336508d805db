"""JSON-RPC over a WebSocket that comes back by itself, or over HTTP.

A dropped socket is opened anew and the question asked again: everything asked here may be asked
twice, also a signed transaction, which a node takes once. New heads only wake those who wait; what
is so is always read from the node, so a notice that was lost costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Dict, Optional, Set, Tuple, cast
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from faas_sdk._connection import is_loopback
from faas_sdk._errors import ChainUnavailableError, InvalidArgumentError

REQUEST_SECONDS = 20.0
"""Longest wait for one answer: a query over two thousand blocks on a public node, with room."""
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""A range of logs with results of up to 128 KiB each; nodes cap it earlier."""


class Bell:
    """Wakes those who wait for something new. A ring between look and wait is not lost."""

    def __init__(self) -> None:
        self.rings = 0
        self._waiting: Set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake everybody."""
        self.rings += 1
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def wait(self, heard: int, *, seconds: float) -> None:
        """Wait for a ring after the `heard`th, for at most that long."""
        if self.rings != heard:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait_for(waiter, seconds)
        except asyncio.TimeoutError:
            pass
        finally:
            self._waiting.discard(waiter)


class Transport:
    """Asks one node."""

    def __init__(self, url: str, *, patience_seconds: float) -> None:
        self.url = url
        self.heads = Bell()
        """Rings when there is a new block, or there may be one."""
        self.poll_seconds = 2.0
        """How often to look without a ring."""
        self.reconnects = 0
        self._patience_seconds = patience_seconds
        self._is_closed = False

    async def ask(self, method: str, params: Tuple[object, ...]) -> Dict[str, Any]:
        """Ask, again and again while the node does not answer.

        Raises:
            ChainUnavailableError: it did not answer for as long as our patience lasts.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_seconds
        pauses = iter(_RETRY_SECONDS)
        while True:
            try:
                return await self._ask_once(method, params)
            except (OSError, asyncio.TimeoutError, WebSocketException, httpx.HTTPError) as failure:
                pause = next(pauses, _RETRY_SECONDS[-1])
                if self._is_closed or loop.time() + pause > until:
                    raise ChainUnavailableError(
                        f"the chain node at {self.url} does not answer: {failure or 'no answer'}",
                        hint="is a node running there? `faas chain dev` starts one",
                    ) from failure
            await asyncio.sleep(pause)

    async def aclose(self) -> None:
        """Close the connection."""
        self._is_closed = True

    async def _ask_once(self, method: str, params: Tuple[object, ...]) -> Dict[str, Any]:
        raise NotImplementedError


class WebSocketTransport(Transport):
    """One socket for all questions, and the node's notices of new blocks."""

    def __init__(self, url: str, *, patience_seconds: float) -> None:
        super().__init__(url, patience_seconds=patience_seconds)
        self._opening = asyncio.Lock()
        self._socket: Optional[ClientConnection] = None
        self._reader: Optional[asyncio.Task[None]] = None
        self._waiting: Dict[int, asyncio.Future[Dict[str, Any]]] = {}
        self._asked = 0
        self._had_one = False

    async def aclose(self) -> None:
        """Close the connection; questions on the way fail."""
        await super().aclose()
        socket, reader = self._socket, self._reader
        if socket is not None:
            await socket.close()
        if reader is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _ask_once(self, method: str, params: Tuple[object, ...]) -> Dict[str, Any]:
        return await self._send(await self._open(), method, params)

    async def _open(self) -> ClientConnection:
        if self._is_closed:
            raise ConnectionError("the client is closed")
        async with self._opening:
            if self._socket is None:
                # A proxy from the environment cannot reach this machine's loopback.
                proxy = None if is_loopback(urlsplit(self.url).hostname or "") else True
                socket = await connect(
                    self.url, max_size=_MESSAGE_BYTES_MAX, open_timeout=REQUEST_SECONDS, proxy=proxy
                )
                self._socket = socket
                self._reader = asyncio.ensure_future(self._read(socket))
                self.reconnects += self._had_one
                self._had_one = True
                # A node that knows no subscriptions is polled.
                await self._send(socket, "eth_subscribe", ("newHeads",))
            return self._socket

    async def _send(
        self, socket: ClientConnection, method: str, params: Tuple[object, ...]
    ) -> Dict[str, Any]:
        self._asked += 1
        number = self._asked
        answer: asyncio.Future[Dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await socket.send(
                json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
            )
            return await asyncio.wait_for(answer, REQUEST_SECONDS)
        except asyncio.TimeoutError:
            # A socket that swallows questions is dead, though nobody said so.
            socket.transport.abort()
            raise
        finally:
            self._waiting.pop(number, None)

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                message = cast("Dict[str, Any]", json.loads(text))
                waiting = self._waiting.get(message.get("id", 0))
                if waiting is None:
                    self.heads.ring()
                elif not waiting.done():
                    waiting.set_result(message)
        except (OSError, WebSocketException, ValueError):
            pass
        finally:
            self._lost(socket)

    def _lost(self, socket: ClientConnection) -> None:
        if self._socket is socket:
            self._socket = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("the connection was lost"))
        # Whoever waits looks again, and so opens the next socket.
        self.heads.ring()


class HttpTransport(Transport):
    """A request a question; the node is polled for new blocks."""

    def __init__(self, url: str, *, patience_seconds: float) -> None:
        super().__init__(url, patience_seconds=patience_seconds)
        self.poll_seconds = 0.2
        self._client = httpx.AsyncClient(
            timeout=REQUEST_SECONDS, trust_env=not is_loopback(urlsplit(url).hostname or "")
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await super().aclose()
        await self._client.aclose()

    async def _ask_once(self, method: str, params: Tuple[object, ...]) -> Dict[str, Any]:
        if self._is_closed:
            raise ConnectionError("the client is closed")
        answer = await self._client.post(
            self.url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        )
        answer.raise_for_status()
        try:
            return cast("Dict[str, Any]", answer.json())
        except ValueError as failure:
            raise ConnectionError("the answer is no JSON") from failure


def open_transport(url: str, *, patience_seconds: float) -> Transport:
    """Choose by the address.

    Raises:
        InvalidArgumentError: it is no address of a node.
    """
    address = urlsplit(url)
    if address.hostname and address.scheme in ("ws", "wss"):
        return WebSocketTransport(url, patience_seconds=patience_seconds)
    if address.hostname and address.scheme in ("http", "https"):
        return HttpTransport(url, patience_seconds=patience_seconds)
    raise InvalidArgumentError(
        f"{url!r} is not the address of a chain node", hint="it looks like ws://localhost:9944"
    )
