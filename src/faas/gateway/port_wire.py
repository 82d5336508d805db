"""What travels about exposed ports: requests and answers, as types."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from faas.executor.port_tokens import SUBDOMAIN

PortNumber = Annotated[int, Meta(ge=1, le=65_535)]
Subdomain = Annotated[str, Meta(pattern=f"^{SUBDOMAIN}$")]
Protocol = Literal["http", "https", "tcp"]


class ExposeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a port of an instance be reached."""

    port: PortNumber
    protocol: Protocol = "http"
    subdomain: Annotated[
        Subdomain | None, Meta(description="First label of its address; else port and instance.")
    ] = None
    token_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=31_536_000)] | None,
        Meta(description="How long the token opens it; a day unless said otherwise."),
    ] = None


class OperatorExposeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same in the operator API's shape."""

    instance_id: Annotated[str, Meta(min_length=1, max_length=64)]
    internal_port: PortNumber
    protocol: Protocol = "http"
    subdomain: Subdomain | None = None


class ExposedView(Struct, frozen=True):
    """An address was made."""

    public_url: str
    error: str | None = None


class PortView(Struct, frozen=True, kw_only=True):
    """One exposed port."""

    port: int
    url: str
    """Its own address; opens with the token, or with a key."""
    path: str
    """The same below the API, for whoever has a key."""
    exposed_at: datetime
    open_url: str | None = None
    """The address with the token in it, for a browser. Only in the answer to exposing."""
    token: str | None = None
    expires_at: datetime | None = None
