"""The way into ports of sandboxes: which port a request means, and whether it may pass.

A port has an address of its own, `http://NAME.DOMAIN/`, so that pages of two sandboxes, and pages
of a sandbox and the gateway's API, are strangers to a browser. It opens with a token (in the query
once, then as a cookie of that address; or in `X-Faas-Token`) or with a key of the instance's
tenant. Keys can also take the way below the API, `…/instances/ID/ports/PORT/proxy/`; pages that
come by it are given no origin, cookies or scripts of ours to play with (`port_headers`).

Where a request leads is decided by what was exposed and nothing else: no part of it names a host.
A gateway without keys lets nobody in at a port's own address without its token: any page in a
browser on this machine could ask.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from faas.errors import (
    FaasError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from faas.events import AuthenticationFailed
from faas.executor.instance_ports import PortAt
from faas.gateway import problems
from faas.gateway.door import Door
from faas.gateway.exchange import ClientGoneError
from faas.gateway.middleware import trace_id_of
from faas.gateway.origins import check_origin
from faas.gateway.port_headers import (
    COOKIE,
    Headers,
    Way,
    inward,
    tokens_in,
    without_token,
)
from faas.gateway.port_http import PortRequest, body_of, relay
from faas.gateway.port_link import PortLink
from faas.gateway.port_websocket import SocketRequest, WebSocketRelay
from faas.gateway.problems import MethodNotAllowedError
from faas.gateway.replies import TRACE_KEY, Reply
from faas.tenancy import Principal
from faas.tenancy import Scope as KeyScope

PROXY_PATH = "/api/v1/instances/{instance_id}/ports/{port}/proxy"
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

_BELOW = re.compile(
    rb"(?P<prefix>/api/v1/instances/(?P<instance>[^/]{1,192})/ports/(?P<port>[1-9][0-9]{0,4})/proxy)"
    rb"(?P<rest>/[\x21-\x7e]*)"
)
_PATH = re.compile(rb"/[\x21-\x7e]*")
_QUERY = re.compile(rb"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Pass:
    """A request that may pass, and until when."""

    at: PortAt
    way: Way
    until: datetime | None = None
    """When its token ends; an open connection ends with it."""


class PortDoor:
    """Takes requests for the addresses of ports; all others go on."""

    def __init__(self, app: ASGIApp, *, door: Door) -> None:
        self._app = app
        self._door = door
        self._mark: bytes | None = None
        """In every host of a port; looked for first, since every request is asked."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            for name, value in scope["headers"]:
                if name == b"host" and self._is_a_ports(value):
                    await _Visit(self._door, scope).serve(receive, send, _Visit.by_address)
                    return
        await self._app(scope, receive, send)

    def _is_a_ports(self, host: bytes) -> bool:
        if self._mark is None:
            self._mark = self._door.executor.instances.ports.urls.domain.encode()
        return self._mark in host.lower() and self._named(host)

    def _named(self, host: bytes) -> bool:
        return self._door.executor.instances.ports.urls.name_in(host.decode("latin-1")) is not None


class PortPath:
    """The same below the gateway's own address, for whoever has a key."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _Visit(self._door, scope).serve(receive, send, _Visit.by_path)


class _Visit:
    """One request."""

    def __init__(self, door: Door, scope: Scope) -> None:
        self._door = door
        self._scope = scope
        self._headers: Headers = list(scope["headers"])
        self._by_name: dict[bytes, bytes] = dict(self._headers)
        self._ports = door.executor.instances.ports
        self._is_websocket = scope["type"] == "websocket"

    async def serve(
        self, receive: Receive, send: Send, admit: "Callable[[_Visit], Pass | Reply]"
    ) -> None:
        """Answer it, whatever comes of it."""
        scope = self._scope
        trace_id = scope[TRACE_KEY] = trace_id_of(self._by_name)
        try:
            admitted = admit(self)
            if isinstance(admitted, Reply):
                await self._say(admitted, receive, send)
            else:
                async with self._time_of(admitted):
                    await self._pass(admitted, receive, send)
        except ClientGoneError:
            return
        except FaasError as failure:
            if isinstance(failure, UnauthenticatedError):
                self._door.events.publish(AuthenticationFailed("the address of a port"))
            if not scope.get("faas.started"):
                await self._say(problems.reply(failure, trace_id), receive, send)

    async def _say(self, answer: Reply, receive: Receive, send: Send) -> None:
        if not self._is_websocket:
            await answer(self._scope, receive, send)
            return
        headers = [(b"content-type", answer.media_type), *(answer.headers or ())]
        start = {"type": "websocket.http.response.start", "status": answer.status}
        await send({**start, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": answer.body})

    def by_address(self) -> Pass | Reply:
        """Admit a request to a port's own address, or send a browser on without its token."""
        hosts = [value for name, value in self._headers if name == b"host"]
        name = self._ports.urls.name_in(hosts[0].decode("latin-1"))
        if len(hosts) != 1 or name is None:
            raise InvalidArgumentError("the request has more than one Host")
        at = self._ports.at(name)
        query, given = without_token(self._scope["query_string"])
        until, is_new = self._by_token(at, given)
        scheme = self._ports.urls.scheme.encode()
        way = Way(hosts[0], self._target(self._raw_path(), query), scheme, is_by_token=bool(until))
        if until is None:
            self._require_key(at)
        elif is_new and self._is_browsing():
            return self._settle_in(way, given or "", until)
        return Pass(at, way, until)

    def by_path(self) -> Pass:
        """Admit a request that came below the API."""
        principal = self._door.keys.identify(self._by_name)
        principal.require(KeyScope.EXECUTE)
        if self._is_websocket:
            check_origin(self._by_name, self._door.settings)
        found = _BELOW.fullmatch(self._raw_path())
        if found is None:
            raise NotFoundError("there is no such port")
        # By what was sent, not by the router's decoded idea of it: the rest is passed on as sent.
        instance, port = unquote(found["instance"].decode("ascii")), int(found["port"])
        at = self._ports.of(instance, principal, port)
        host = b"localhost:%d" % at.exposed.port
        scheme = str(self._scope["scheme"]).replace("ws", "http").encode()
        target = self._target(found["rest"], self._scope["query_string"])
        return Pass(at, Way(host, target, scheme, prefix=found["prefix"]))

    def _raw_path(self) -> bytes:
        path: bytes = self._scope["raw_path"]
        if not _PATH.fullmatch(path):
            raise InvalidArgumentError("this is no path")
        return path

    def _target(self, path: bytes, query: bytes) -> bytes:
        if not _QUERY.fullmatch(query):
            raise InvalidArgumentError("this is no query")
        return path + b"?" + query if query else path

    def _by_token(self, at: PortAt, given: str | None) -> tuple[datetime | None, bool]:
        """Return until when a token of the request opens the port, and whether it is new here."""
        if given is not None:
            until = self._ports.opened_until(at, given)
            if until is None:
                raise UnauthenticatedError(
                    "this address has expired, or its port was closed",
                    hint="expose the port again for a new one",
                )
            return until, True
        for token in tokens_in(self._headers):
            if (until := self._ports.opened_until(at, token)) is not None:
                self._refuse_strangers()
                return until, False
        return None, False

    def _refuse_strangers(self) -> None:
        """A cookie opens the port to its own pages, not to those of others in the same browser."""
        said = self._by_name.get
        site, origin = said(b"sec-fetch-site"), said(b"origin", b"").lower()
        is_link = self._scope.get("method") == "GET" and said(b"sec-fetch-mode") == b"navigate"
        if site is not None and site not in (b"none", b"same-origin") and not is_link:
            raise PermissionDeniedError("pages from elsewhere may not use this port")
        # Where the browser says less. A page may hide its origin from itself: `null`.
        is_unsaid = site is None or self._is_websocket
        if is_unsaid and origin and origin.partition(b"://")[2] != said(b"host", b"").lower():
            raise PermissionDeniedError("pages from elsewhere may not use this port")

    def _require_key(self, at: PortAt) -> None:
        if self._door.keys.is_open:
            raise UnauthenticatedError(
                "this port opens with its token", hint="the address that has it came when exposing"
            )
        principal: Principal = self._door.keys.identify(self._by_name)
        if principal.tenant.id != at.record.tenant:
            raise NotFoundError("nothing is exposed at this address")
        principal.require(KeyScope.EXECUTE)

    def _is_browsing(self) -> bool:
        """Whether a person opens a page: only then a redirect is understood, and of use."""
        wants_page = b"text/html" in self._by_name.get(b"accept", b"")
        return not self._is_websocket and self._scope["method"] == "GET" and wants_page

    def _settle_in(self, way: Way, token: str, until: datetime) -> Reply:
        """Send the browser to the same page without the token, which it keeps as a cookie."""
        # Absolute, with the host that was recognised: a path such as //elsewhere stays a path.
        location = b"%s://%s%s" % (way.scheme, way.host, way.target)
        seconds = max(1, int((until - self._door.clock.now()).total_seconds()))
        cookie = b"%s=%s; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax" % (
            COOKIE,
            token.encode("latin-1"),
            seconds,
        )
        if way.scheme == b"https":
            cookie += b"; Secure"
        headers = [
            (b"location", location),
            (b"set-cookie", cookie),
            (b"cache-control", b"no-store"),
            (b"referrer-policy", b"no-referrer"),
        ]
        return Reply(b"", status=303, media_type=b"text/plain", headers=headers)

    @asynccontextmanager
    async def _time_of(self, admitted: Pass) -> AsyncGenerator[None]:
        """Cut it when its token ends, and when the gateway closes."""
        task = asyncio.current_task()
        assert task is not None, "a request is always served in a task"  # noqa: S101  an invariant
        if self._door.is_closing:
            raise UnavailableError("the gateway is shutting down", retry_after_seconds=1.0)
        left = None
        if admitted.until is not None:
            left = (admitted.until - self._door.clock.now()).total_seconds()
        self._door.tunnels.add(task)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    yield
        except asyncio.CancelledError:
            if not self._door.is_closing:
                raise
            task.uncancel()
            if not self._scope.get("faas.started"):
                raise UnavailableError(
                    "the gateway is shutting down", retry_after_seconds=1.0
                ) from None
        finally:
            self._door.tunnels.discard(task)

    async def _pass(self, admitted: Pass, receive: Receive, send: Send) -> None:
        at, way = admitted.at, admitted.way
        if not self._is_websocket and self._scope["method"] not in METHODS:
            raise MethodNotAllowedError(self._scope["method"], sorted(METHODS))
        has_body, length = (False, 0) if self._is_websocket else body_of(self._headers)
        headers = inward(self._headers, way, self._door.keys)
        seconds = self._door.settings.send_timeout_seconds
        async with self._ports.connect(at.record.id, at.exposed.port) as connection:
            link = PortLink(connection)
            if self._is_websocket:
                await self._pass_websocket(link, way, headers, receive, send)
                return
            method = self._scope["method"].encode("ascii")
            request = PortRequest(method, way, headers, length, has_body)
            # Unless it ends whole the server closes the client's connection: a cut is seen as one.
            await relay(link, request, receive, self._marking(send), send_seconds=seconds)

    async def _pass_websocket(
        self, link: PortLink, way: Way, headers: Headers, receive: Receive, send: Send
    ) -> None:
        message = await receive()
        if message["type"] != "websocket.connect":
            raise ClientGoneError
        request = SocketRequest(way, headers, tuple(self._scope.get("subprotocols", ())))
        seconds = self._door.settings.send_timeout_seconds
        await WebSocketRelay(link, request, send_seconds=seconds).run(receive, self._marking(send))

    def _marking(self, send: Send) -> Send:
        """Note that an answer has begun: a problem can be told no more."""

        async def marked(message: Message) -> None:
            self._scope["faas.started"] = True
            await send(message)

        return marked
