"""What names a snapshot, and what its maker says of it."""

from datetime import datetime

import msgspec

from faas.blobs.digest import Digest
from faas.ids import SnapshotId, TenantId

FORKED = "forked"
"""The tag of a snapshot that nobody asked for by name: taken so that a child can start from it."""


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What names a snapshot."""

    id: SnapshotId
    tenant: TenantId
    manifest: Digest
    created_at: datetime
    name: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    parent: SnapshotId | None = None
    source: str = ""
    """The sandbox, instance or execution it was taken from."""
    image: str = ""
    image_digest: str
    runtimes: tuple[str, ...] = ()
    has_memory: bool = False
    size_bytes: int = 0
    stored_bytes: int = 0
    """Bytes this snapshot added to the store, compressed."""
    expires_at: datetime | None = None
    """When it is forgotten, unless a child of it lives; None: only when it is asked for."""


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller knows of a snapshot to be made."""

    tenant: TenantId
    image_digest: str
    image: str = ""
    runtimes: tuple[str, ...] = ()
    config: dict[str, str] = {}
    name: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    parent: SnapshotId | None = None
    source: str = ""
