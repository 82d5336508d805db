"""An answer as plain ASGI messages: made once, headers already encoded."""

from starlette.types import Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
"""Output of hostile code must never be taken for a page."""
TRACE_KEY = "faas.trace_id"


class NoContent:
    """Done, and nothing to tell."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"x-trace-id", scope[TRACE_KEY].encode())]
        scope["faas.started"] = True
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


class Reply:
    """One whole answer. It is an ASGI application."""

    __slots__ = ("body", "headers", "media_type", "status")

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        media_type: bytes = JSON,
        headers: Headers | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.media_type = media_type
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", self.media_type),
            (b"content-length", b"%d" % len(self.body)),
            (b"x-trace-id", scope[TRACE_KEY].encode()),
            _NO_SNIFF,
        ]
        if self.headers:
            headers += self.headers
        scope["faas.started"] = True
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})
