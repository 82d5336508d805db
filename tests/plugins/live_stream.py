"""One client of a sandbox's WebSocket at a live gateway."""

import json
from collections.abc import Callable
from typing import Any, Self

from tests.plugins.live_gateway import LiveGateway
from websockets.sync.client import ClientConnection, connect

Event = dict[str, Any]


class Stream:
    """One connection; remembers all it heard."""

    def __init__(self, live: LiveGateway, reference: str, query: str = "") -> None:
        url = f"{live.url.replace('http', 'ws')}/api/v1/containers/{reference}/stream{query}"
        self._opening = connect(url, proxy=None, max_size=None)
        self.socket: ClientConnection = self._opening
        self.heard: list[Event] = []

    def __enter__(self) -> Self:
        self.socket = self._opening.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._opening.__exit__(None, None, None)

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        while True:
            event = json.loads(self.socket.recv(timeout=60))
            self.heard.append(event)
            if wanted(event):
                return event

    def custom(self, name: str) -> Event:
        return self.until(is_a("custom", name=name))["data"]

    def text(self, kind: str = "stdout") -> str:
        return "".join(event["data"] for event in self.heard if event["type"] == kind)


def is_a(kind: str, **fields: Any) -> Callable[[Event], bool]:
    return lambda e: e["type"] == kind and all(e.get(k) == v for k, v in fields.items())
