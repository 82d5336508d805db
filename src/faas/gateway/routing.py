"""The route table's rows, and what a row does with a request: method, key's scope, handler."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import GenericAlias

import msgspec
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from faas.gateway.door import Door
from faas.gateway.exchange import Exchange
from faas.gateway.problems import MethodNotAllowedError
from faas.tenancy import Scope

Handler = Callable[[Door, Exchange], Awaitable[ASGIApp]]
EXCHANGE_KEY = "faas.exchange"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a route, for the document."""

    name: str
    where: str
    """`path`, `query` or `header`."""
    description: str
    schema: Mapping[str, object]
    is_required: bool = False
    """Those of a path always are."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One success of a route, for the document."""

    status: int
    description: str
    body: type[msgspec.Struct] | GenericAlias | None = None
    """A type of the wire, or a list of one."""
    media_type: str = "application/json"
    headers: tuple[str, ...] = ()
    events: Mapping[str, type[msgspec.Struct]] = field(
        default_factory=dict[str, type[msgspec.Struct]]
    )
    """Of a stream, what each event's data is."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row: a method of a path."""

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    answers: tuple[Answer, ...] = ()
    scope: Scope | None = None
    """What the key must allow; None: anybody may ask."""
    parameters: tuple[Parameter, ...] = ()
    body: type[msgspec.Struct] | None = None
    body_media_types: tuple[str, ...] = ("application/json",)
    failures: tuple[int, ...] = ()
    """Statuses of failures beyond those of every route."""
    is_documented: bool = True


class Resource:
    """All rows of one path, as an ASGI application."""

    def __init__(self, door: Door, endpoints: list[Endpoint]) -> None:
        self._door = door
        self._by_method = {endpoint.method: endpoint for endpoint in endpoints}
        if "GET" in self._by_method:
            self._by_method.setdefault("HEAD", self._by_method["GET"])
        self.allowed = sorted(self._by_method)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[EXCHANGE_KEY]
        endpoint = self._by_method.get(scope["method"])
        if endpoint is None:
            raise MethodNotAllowedError(scope["method"], self.allowed)
        if endpoint.scope is not None:
            exchange.principal.require(endpoint.scope)
        answer = await endpoint.handler(self._door, exchange)
        await answer(scope, receive, send)
