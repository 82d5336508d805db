"""One HTTP request as the handlers see it: what was sent, read within bounds, and by whom."""

import re
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from faas.clock import within
from faas.errors import DeadlineExceededError, InvalidArgumentError, TooLargeError
from faas.gateway.problems import UnsupportedMediaTypeError
from faas.gateway.settings import GatewaySettings
from faas.tenancy import Principal

_NUMBER = re.compile(r"\d{1,16}")
_QUERY_FIELDS_MAX = 32


class ClientGoneError(Exception):
    """The client went away before it was answered; nobody is left to tell."""


class Exchange:
    """The request, its principal, and its trace id."""

    __slots__ = ("headers", "principal", "receive", "scope", "settings", "trace_id")

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        *,
        headers: dict[bytes, bytes],
        principal: Principal,
        trace_id: str,
        settings: GatewaySettings,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.headers = headers
        self.principal = principal
        self.trace_id = trace_id
        self.settings = settings

    @property
    def method(self) -> str:
        """The HTTP method, upper case."""
        return self.scope["method"]

    def path_parameter(self, name: str) -> str:
        """One named piece of the path."""
        return self.scope["path_params"][name]

    def media_type(self) -> str:
        """The type of the body without its parameters, lower case; empty when not said."""
        value = self.headers.get(b"content-type", b"")
        return value.partition(b";")[0].strip().lower().decode("latin-1")

    def require_json(self) -> None:
        """Refuse a body that is not said to be JSON.

        Raises:
            UnsupportedMediaTypeError: it is not.
        """
        if self.headers.get(b"content-type") == b"application/json":
            return
        given = self.media_type()
        if given == "application/json" or (
            given.startswith("application/") and given.endswith("+json")
        ):
            return
        raise UnsupportedMediaTypeError(
            f"the body is {given or 'of no stated type'}, not application/json",
            hint="send the header Content-Type: application/json",
            details={"supported": ["application/json"]},
        )

    async def body(self) -> bytes:
        """Read the whole body.

        Raises:
            TooLargeError: it is longer than the setting; what follows is not read.
            DeadlineExceededError: it did not arrive in time.
            ClientGoneError: the client went away first.
        """
        most = self.settings.body_bytes_max
        announced = self.headers.get(b"content-length", b"0")
        if len(announced) > len(str(most)) or int(announced or b"0") > most:
            raise _too_large(most)
        try:
            return await within(self.settings.body_timeout_seconds, self._read(most))
        except TimeoutError as late:
            raise DeadlineExceededError("the body of the request did not arrive in time") from late

    async def _read(self, most: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > most:
                raise _too_large(most)
            if not message.get("more_body", False):
                return b"".join((*pieces, piece)) if pieces else piece
            pieces.append(piece)

    def query(self, *known: str) -> dict[str, str]:
        """The query's fields.

        Raises:
            InvalidArgumentError: a field that is not in `known`, or one given twice.
        """
        raw: bytes = self.scope["query_string"]
        if not raw:
            return {}
        try:
            pairs = parse_qsl(
                raw.decode("ascii"),
                keep_blank_values=True,
                max_num_fields=_QUERY_FIELDS_MAX,
                errors="strict",
            )
        except ValueError as error:
            raise InvalidArgumentError("the query string cannot be read") from error
        found: dict[str, str] = {}
        for name, value in pairs:
            if name not in known:
                raise InvalidArgumentError(
                    f"query: {name[:64]!r} is not a known parameter",
                    hint=f"known are: {', '.join(known) or 'none'}",
                )
            if name in found:
                raise InvalidArgumentError(f"query: {name!r} was given twice")
            found[name] = value
        return found


def number(
    query: dict[str, str], name: str, default: Any = None, *, least: int = 0, most: int = 2**53
) -> Any:
    """One number of a query.

    Raises:
        InvalidArgumentError: it is no number, or out of bounds.
    """
    text = query.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise InvalidArgumentError(
            f"query: {name} must be a whole number from {least} to {most}, not {text[:32]!r}"
        )
    return int(text)


def choice(query: dict[str, str], name: str, known: tuple[str, ...]) -> str | None:
    """One of several words of a query.

    Raises:
        InvalidArgumentError: it is none of them.
    """
    text = query.get(name)
    if text is not None and text not in known:
        raise InvalidArgumentError(
            f"query: {name} must be one of {', '.join(known)}, not {text[:32]!r}"
        )
    return text


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(
        f"the body of the request is larger than {most} bytes",
        hint="send less, or raise body_bytes_max on the gateway",
        details={"body_bytes_max": most},
    )
