"""Which headers go through to a port of a sandbox, and which come back.

The gateway speaks HTTP to both sides itself: what describes one connection (`HOP_BY_HOP`) is never
passed on, framing is made anew on each side, and so no two parties can disagree about where a
message ends. What opens the gateway is taken out on the way in; what a sandbox could use against
the gateway's own address is taken out on the way back.
"""

import re
from dataclasses import dataclass

from faas.executor.port_tokens import TOKEN_PARAMETER
from faas.gateway.auth import Keyring

Headers = list[tuple[bytes, bytes]]

COOKIE = b"faas_port"
TOKEN_HEADER = b"x-faas-token"

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NEVER_IN = HOP_BY_HOP | {
    b"expect",
    b"forwarded",
    b"host",
    b"x-api-key",
    b"x-real-ip",
    TOKEN_HEADER,
}
_WEBSOCKET = frozenset(
    {
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
    }
)
_NEVER_OUT = HOP_BY_HOP | {b"alt-svc", b"date", b"public-key-pins"}
_NEVER_OUT_OF_A_PATH = frozenset(
    {b"clear-site-data", b"service-worker-allowed", b"set-cookie", b"strict-transport-security"}
)
_SANDBOXED = [
    (b"content-security-policy", b"sandbox allow-scripts allow-forms allow-downloads"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_DOMAIN = re.compile(rb";\s*domain\s*=[^;]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Way:
    """How a request reached a port."""

    host: bytes
    """What the server in the sandbox is told it is called."""
    target: bytes
    """Path and query as the server is to see them."""
    scheme: bytes
    prefix: bytes = b""
    """The path below which the server appears; empty when it has an address of its own."""
    is_by_token: bool = False
    """Let in by a token: a key in the request would be the server's own, or a mistake."""

    @property
    def shares_our_address(self) -> bool:
        """Whether it appears below the gateway's own address."""
        return bool(self.prefix)


def inward(headers: Headers, way: Way, keys: Keyring) -> Headers:
    """Return what the server in the sandbox is to see; Host first, framing left out."""
    named = _named_by_connection(headers)
    kept = [
        (name, value)
        for name, value in headers
        if name not in _NEVER_IN
        and name not in named
        and name not in (b"content-length", b"cookie")
        and not name.startswith((b"x-forwarded-", b":"))
        and not (name == b"authorization" and not _is_the_servers(value, way, keys))
    ]
    told = [(b"x-forwarded-host", way.host), (b"x-forwarded-proto", way.scheme)]
    if way.prefix:
        told.append((b"x-forwarded-prefix", way.prefix))
    return [(b"host", way.host), *kept, *_cookies(headers, way), *told]


def for_websocket(headers: Headers) -> Headers:
    """Leave out what the handshake on the other side makes anew."""
    return [(name, value) for name, value in headers if name not in _WEBSOCKET and name != b"host"]


def outward(headers: Headers, way: Way) -> Headers:
    """Return what the client is to see; framing is decided by who sends."""
    named = _named_by_connection(headers)
    hidden = _NEVER_OUT | _NEVER_OUT_OF_A_PATH if way.shares_our_address else _NEVER_OUT
    kept = [
        (name, _DOMAIN.sub(b"", value) if name == b"set-cookie" else value)
        for name, value in headers
        if name not in hidden
        and name not in named
        and not (name == b"set-cookie" and value.lstrip().startswith(COOKIE + b"="))
    ]
    return kept + _SANDBOXED if way.shares_our_address else kept


def tokens_in(headers: Headers) -> list[str]:
    """Return the tokens a request bears: in the header, or in cookies of ours."""
    found = [value for name, value in headers if name == TOKEN_HEADER]
    for one in _crumbs(headers):
        name, _, value = one.partition(b"=")
        if name == COOKIE:
            found.append(value)
    return [value.decode("latin-1") for value in found]


def without_token(query: bytes) -> tuple[bytes, str | None]:
    """Take the token out of a query, which is otherwise left byte for byte."""
    mark = TOKEN_PARAMETER.encode() + b"="
    pieces = query.split(b"&")
    tokens = [piece[len(mark) :] for piece in pieces if piece.startswith(mark)]
    rest = b"&".join(piece for piece in pieces if not piece.startswith(mark))
    return rest, tokens[0].decode("latin-1") if tokens else None


def _is_the_servers(value: bytes, way: Way, keys: Keyring) -> bool:
    """Whether credentials are meant for the server: never what opens the gateway."""
    return way.is_by_token and not keys.knows(value)


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    listed = [value for name, value in headers if name == b"connection"]
    return frozenset(token.strip().lower() for token in b",".join(listed).split(b","))


def _crumbs(headers: Headers) -> list[bytes]:
    cookies = [value for name, value in headers if name == b"cookie"]
    return [crumb.strip() for value in cookies for crumb in value.split(b";") if crumb.strip()]


def _cookies(headers: Headers, way: Way) -> Headers:
    """The server's own cookies; below our own address there are none of its own."""
    if way.shares_our_address:
        return []
    kept = [one for one in _crumbs(headers) if one.partition(b"=")[0] != COOKIE]
    return [(b"cookie", b"; ".join(kept))] if kept else []
