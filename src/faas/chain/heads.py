"""New blocks by WebSocket, only to wake the feed: what it says is not believed and may be missed.

A dropped socket costs nothing but time: the feed polls as well, and the socket is opened again.
"""

import asyncio
import json
from typing import Final

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from faas import logs
from faas.clock import Clock

_SUBSCRIBE: Final = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]}
)
_BACK_OFF_SECONDS_MAX: Final = 30.0
_MESSAGE_BYTES_MAX: Final = 1 << 20
_OPEN_SECONDS: Final = 10.0

_log = logs.bind(__name__)


class NewHeads:
    """Rings a bell at each new block."""

    def __init__(self, url: str, *, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self.bell = asyncio.Event()
        self.is_connected = False
        self.drops = 0

    async def run(self) -> None:
        """Stay connected until cancelled."""
        wait = 1.0
        while True:
            try:
                await self._listen()
            except (OSError, TimeoutError, WebSocketException) as failure:
                _log.warning("no news of blocks", why=str(failure) or type(failure).__name__)
            if self.is_connected:
                wait = 1.0
            self.drops += 1
            self.is_connected = False
            self.bell.set()
            await self._clock.sleep(wait)
            wait = min(2 * wait, _BACK_OFF_SECONDS_MAX)

    async def _listen(self) -> None:
        async with connect(
            self._url, max_size=_MESSAGE_BYTES_MAX, open_timeout=_OPEN_SECONDS
        ) as socket:
            await socket.send(_SUBSCRIBE)
            async for _ in socket:
                self.is_connected = True
                self.bell.set()
