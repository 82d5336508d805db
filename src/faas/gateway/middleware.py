"""What happens to every request before its handler: trace id, who asks; and after it failed: the
problem.

Plain ASGI in one layer, because each layer costs every request.
"""

import os
import re

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from faas.errors import UnauthenticatedError
from faas.events import AuthenticationFailed
from faas.gateway import problems
from faas.gateway.door import Door
from faas.gateway.exchange import ClientGoneError, Exchange
from faas.gateway.origins import check_origin
from faas.gateway.problems import RouteNotFoundError
from faas.gateway.replies import TRACE_KEY
from faas.gateway.routing import EXCHANGE_KEY
from faas.tenancy import LOCAL_PRINCIPAL, Principal

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
_SHOWN_PATH = 128


class Front:
    """The outermost layer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        door: Door,
        public_paths: frozenset[str],
    ) -> None:
        self._app = app
        self._settings = door.settings
        self._events = door.events
        self._keys = door.keys
        self._public = public_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        trace_id = trace_id_of(headers)
        scope[TRACE_KEY] = trace_id
        try:
            if self._keys.is_open and b"origin" in headers:
                # No key is asked for: then at least no page from elsewhere may ask.
                check_origin(headers, self._settings)
            scope[EXCHANGE_KEY] = Exchange(
                scope,
                receive,
                headers=headers,
                principal=self._principal(scope["path"], headers),
                trace_id=trace_id,
                settings=self._settings,
            )
            await self._app(scope, receive, send)
        except ClientGoneError:
            return
        except Exception as failure:
            if scope.get("faas.started"):
                raise
            await problems.reply(_ours(failure), trace_id)(scope, receive, send)

    def _principal(self, path: str, headers: dict[bytes, bytes]) -> Principal:
        if self._keys.is_open or path in self._public:
            return LOCAL_PRINCIPAL
        try:
            return self._keys.identify(headers)
        except UnauthenticatedError:
            self._events.publish(AuthenticationFailed(path[:_SHOWN_PATH]))
            raise


def trace_id_of(headers: dict[bytes, bytes]) -> str:
    """The trace that the caller named, or a new one."""
    parent = headers.get(b"traceparent")
    if parent is not None:
        found = _TRACEPARENT.fullmatch(parent)
        if found:
            return found[1].decode("ascii")
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return os.urandom(16).hex()


def _ours(failure: Exception) -> Exception:
    """The router's own refusals as ours; it knows only that nothing has this path."""
    return RouteNotFoundError() if isinstance(failure, HTTPException) else failure
