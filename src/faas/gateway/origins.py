"""Which web pages may speak to the gateway. Cross-origin rules of browsers do not cover WebSockets,
so the Origin is looked at here."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from faas.errors import PermissionDeniedError
from faas.gateway.settings import GatewaySettings


def check_origin(headers: Mapping[bytes, bytes], settings: GatewaySettings) -> None:
    """Refuse a page from elsewhere.

    Raises:
        PermissionDeniedError: it is from elsewhere.
    """
    origin = headers.get(b"origin", b"").decode("latin-1")
    if not origin or origin in settings.cors_origins or "*" in settings.cors_origins:
        return
    host = headers.get(b"host", b"").decode("latin-1")
    if urlsplit(origin).netloc.lower() != host.lower():
        raise PermissionDeniedError(
            f"pages of {origin[:128]} may not connect",
            hint="name it in cors_origins on the gateway",
        )
