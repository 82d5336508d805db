"""What a blob store must do.

A blob is bytes under the hash of those bytes. `put` is all or nothing: a reader sees no blob or a
whole one, whatever dies meanwhile, and `put` returns only when the blob survives what the store
promises to survive (a local store: loss of power; S3: what the provider promises). The same blob
may be put any number of times, at once, by many. `get` and `get_range` of a blob that is not
there raise `NotFoundError`; `get` checks the hash and raises `DigestMismatchError` rather than
serve wrong bytes; a range cannot be checked alone, so who reads ranges checks what is inside them
(packs carry a digest for every chunk). `list` is sorted and complete at some moment during the
call. `delete` of what is not there is harmless. A store that cannot be reached raises
`StoreUnavailableError`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from faas.blobs.digest import Digest


@dataclass(frozen=True, slots=True)
class BlobStat:
    """What is known of a blob without reading it."""

    digest: Digest
    size_bytes: int
    modified_at: datetime
    """When it was last put; garbage collection spares young blobs."""


class BlobStore(Protocol):
    """Keeps blobs."""

    @property
    def name(self) -> str:
        """Where they are kept, for people: no secret in it."""
        ...

    async def put(self, data: bytes) -> Digest: ...

    async def get(self, digest: Digest) -> bytes: ...

    async def get_range(self, digest: Digest, *, offset: int, length: int) -> bytes: ...

    async def stat(self, digest: Digest) -> BlobStat | None: ...

    def list(self) -> AsyncIterator[BlobStat]: ...

    async def delete(self, digest: Digest) -> None: ...

    async def aclose(self) -> None: ...
