"""The seal on memory images: what this gateway took itself, and nobody else.

Restoring is work of the host's root, so images that come back from a store or an import are
believed only with a seal made with this gateway's key.
"""

import hashlib
import hmac
import json
import secrets
from pathlib import Path

from faas.errors import FaasError, PermissionDeniedError

SEAL = "memory_seal"
"""Where a snapshot's configuration has it."""
_KEY_BYTES = 32


def not_ours() -> FaasError:
    """Say that it was taken by somebody else."""
    return PermissionDeniedError(
        "the memory of this snapshot was not taken by this gateway",
        hint="restore its files only (memory: false), or give both gateways one memory_key",
    )


def check(made: str, told: str) -> None:
    """Compare a seal made now with the one that came along.

    Raises:
        PermissionDeniedError: it was taken by somebody else.
    """
    if not hmac.compare_digest(made, told):
        raise not_ours()


def own_key(path: Path) -> bytes:
    """Read this gateway's key, made at its first start."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(_KEY_BYTES)
        staged = path.with_suffix(".tmp")
        staged.touch(mode=0o600)
        staged.write_bytes(key)
        staged.rename(path)
    return key


def seal(key: bytes, images: Path) -> str:
    """Sign every image by name and content."""
    names: list[tuple[str, str]] = []
    for path in sorted(images.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            names.append((str(path.relative_to(images)), digest))
    return hmac.new(key, json.dumps(names).encode(), "sha256").hexdigest()
