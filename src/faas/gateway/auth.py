"""Who asks: from an API key to a `Principal`.

Keys are kept and compared as SHA-256 digests. Looking a digest up in a table tells an attacker
nothing about the key, and the final comparison takes constant time.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from faas.errors import UnauthenticatedError
from faas.tenancy import LOCAL_PRINCIPAL, Principal

_BEARER = b"bearer "


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One accepted key, and who it is."""

    digest: bytes
    principal: Principal

    @classmethod
    def of(cls, key: str, principal: Principal) -> Self:
        """Make one from the key's text, which is not kept."""
        return cls(hashlib.sha256(key.encode()).digest(), principal)


class Keyring:
    """All accepted keys. An empty ring lets everybody in as `LOCAL_PRINCIPAL`."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.digest: key for key in keys}

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return not self._keys

    def knows(self, authorization: bytes) -> bool:
        """Whether an Authorization header holds one of the keys."""
        presented = _presented({b"authorization": authorization}) or authorization
        return hashlib.sha256(presented).digest() in self._keys

    def identify(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Return who sent these headers.

        Raises:
            UnauthenticatedError: keys are asked for, and none that is accepted was sent.
        """
        if not self._keys:
            return LOCAL_PRINCIPAL
        presented = _presented(headers)
        if presented is None:
            raise UnauthenticatedError
        digest = hashlib.sha256(presented).digest()
        known = self._keys.get(digest)
        if known is None or not hmac.compare_digest(known.digest, digest):
            raise UnauthenticatedError("this API key is not accepted")
        return known.principal


def _presented(headers: Mapping[bytes, bytes]) -> bytes | None:
    authorization = headers.get(b"authorization", b"")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip() or None
    return headers.get(b"x-api-key", b"").strip() or None
