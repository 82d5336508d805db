"""Exposed ports as values: what signs their tokens, and the names they have in a URL.

A token is `expiry ‖ MAC`, signed with a secret of that one exposure: it opens one port of one
instance until then, can be checked without being kept, and ends with the exposure. The name of a
port is the first label of its host: `8000-<the instance's own part of its id>`, or one chosen.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

from faas.errors import InvalidArgumentError, InvalidConfigError
from faas.ids import InstanceId

TOKEN_PARAMETER = "faas_token"  # noqa: S105  the name of a field
SUBDOMAIN = r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?"

_MAC_BYTES = 24
_EXPIRY_BYTES = 8
_SUBDOMAIN = re.compile(SUBDOMAIN)
_OWN_NAME = re.compile(r"([1-9][0-9]{0,4})-([0-9a-hjkmnp-tv-z]{26})")


@dataclass(frozen=True, slots=True)
class ExposedPort:
    """One port that may be reached from outside."""

    port: int
    exposed_at: datetime
    subdomain: str | None = None
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Signs its tokens; another one is made when the port is exposed again after a close."""

    def token(self, instance_id: InstanceId, expires_at: datetime) -> str:
        """Make a token that opens it until then."""
        expiry = int(expires_at.timestamp()).to_bytes(_EXPIRY_BYTES, "big")
        signed = expiry + self._mac(instance_id, expiry)
        return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()

    def expiry(self, instance_id: InstanceId, token: str, now: datetime) -> datetime | None:
        """Return until when a token opens it; None when it does not, or no more."""
        try:
            signed = base64.urlsafe_b64decode(token.encode("ascii") + b"==")
        except (ValueError, binascii.Error):
            return None
        expiry = signed[:_EXPIRY_BYTES]
        genuine = expiry + self._mac(instance_id, expiry)
        if len(signed) != len(genuine) or not hmac.compare_digest(signed, genuine):
            return None
        until = datetime.fromtimestamp(int.from_bytes(expiry, "big"), UTC)
        return until if now < until else None

    def _mac(self, instance_id: InstanceId, expiry: bytes) -> bytes:
        said = b"faas port\0%s\0%d\0%s" % (instance_id.encode(), self.port, expiry)
        return hmac.digest(self.secret, said, hashlib.sha256)[:_MAC_BYTES]

    def name(self, instance_id: InstanceId) -> str:
        """Its name in a URL."""
        return self.subdomain or f"{self.port}-{instance_id.removeprefix('inst-')}"


def named_port(name: str) -> tuple[InstanceId, int] | None:
    """Take the name of a port without a subdomain of its own apart."""
    found = _OWN_NAME.fullmatch(name)
    return (InstanceId(f"inst-{found[2]}"), int(found[1])) if found else None


def check_subdomain(text: str) -> None:
    """Refuse what cannot be the first label of a host.

    Raises:
        InvalidArgumentError: it cannot.
    """
    if not _SUBDOMAIN.fullmatch(text):
        raise InvalidArgumentError(
            f"{text[:64]!r} is not a subdomain",
            hint="lower case letters, digits and `-`, at most 40, a letter first",
        )


@dataclass(frozen=True, slots=True)
class PortUrls:
    """Where exposed ports are: `scheme://*.domain[:port]`, `*` standing for a port's name."""

    scheme: str
    domain: str
    """Without the star: `.localhost`."""
    netloc_port: str
    """With its colon, or empty."""

    @classmethod
    def parse(cls, text: str) -> "PortUrls":
        """Read the setting.

        Raises:
            InvalidConfigError: it is no such URL.
        """
        parts = urlsplit(text)
        host, _, port = parts.netloc.lower().partition(":")
        if (
            parts.scheme not in ("http", "https")
            or not re.fullmatch(r"\*(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+", host)
            or (port and not port.isdigit())
            or parts.path.strip("/")
            or parts.query
        ):
            raise InvalidConfigError(
                f"ports_url {text[:80]!r} is not like https://*.sandboxes.example.com"
            )
        return cls(parts.scheme, host[1:], f":{port}" if port else "")

    def url(self, name: str) -> str:
        """The address of the port of that name."""
        return f"{self.scheme}://{name}{self.domain}{self.netloc_port}/"

    def name_in(self, host: str) -> str | None:
        """Return the name of the port a Host header means; None when it is no port's."""
        bare = host.partition(":")[0].lower()
        name = bare.removesuffix(self.domain)
        return name if name != bare and name and "." not in name else None
