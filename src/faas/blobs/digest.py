"""Names of blobs are hashes of their bytes: `sha256:` and 64 hex digits, checked both ways."""

import hashlib
import re
from typing import NewType

from faas.errors import DigestMismatchError, InvalidArgumentError

Digest = NewType("Digest", str)

_SHAPE = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """Name these bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def parse_digest(text: str) -> Digest:
    """Return `text` when it has the shape of a digest.

    Raises:
        InvalidArgumentError: it has another.
    """
    if _SHAPE.fullmatch(text):
        return Digest(text)
    raise InvalidArgumentError(
        f"{text[:80]!r} is not a digest", hint="digests look like sha256: and 64 hex digits"
    )


def check(data: bytes, digest: Digest) -> bytes:
    """Return the bytes when they are what their name says.

    Raises:
        DigestMismatchError: they are not; they must never be served.
    """
    found = digest_of(data)
    if found != digest:
        raise DigestMismatchError(
            "stored bytes do not match their digest and are not served",
            hint="restore this blob from another copy",
            details={"expected": digest, "found": found},
        )
    return data
