"""Blobs in an object store (AWS S3, MinIO, R2, Spaces), through obstore.

This is the only room that knows obstore.

Objects are named `<prefix>/blobs/ab/<62 hex digits>`. A single PUT of an object is atomic in S3, so
`put` needs no second step. Every answer is checked against its name.
"""

from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import obstore
from obstore.exceptions import BaseError

from faas.blobs.digest import Digest, check, digest_of, parse_digest
from faas.blobs.protocol import BlobStat
from faas.errors import DigestMismatchError, NotFoundError, StoreUnavailableError

T = TypeVar("T")
_LIST_PAGE = 1000
_READS_MAX = 3


class ObjectBlobStore:
    """A bucket, or a part of one."""

    def __init__(self, store: Any, *, name: str, prefix: str = "") -> None:
        self._store = store
        self._name = name
        self._prefix = f"{prefix.strip('/')}/blobs".lstrip("/")

    @property
    def name(self) -> str:
        return self._name

    async def put(self, data: bytes) -> Digest:
        digest = digest_of(data)
        known = await self.stat(digest)
        if known is None or known.size_bytes != len(data):
            await _try(self._name, "put", obstore.put_async(self._store, self._path(digest), data))
        return digest

    async def get(self, digest: Digest) -> bytes:
        for attempt in range(_READS_MAX):
            try:
                return check(await self._read(digest), digest)
            except (DigestMismatchError, StoreUnavailableError):
                # A line that falsifies or hangs up once may not the next time.
                if attempt == _READS_MAX - 1:
                    raise
        raise AssertionError("unreachable")

    async def get_range(self, digest: Digest, *, offset: int, length: int) -> bytes:
        path = self._path(digest)
        read = obstore.get_range_async(self._store, path, start=offset, length=length)
        data = bytes(await _try(self._name, "get range", read))
        if len(data) != length:
            raise StoreUnavailableError(f"{self._name} cut an answer short")
        return data

    async def _read(self, digest: Digest) -> bytes:
        answer = await _try(self._name, "get", obstore.get_async(self._store, self._path(digest)))
        return bytes(await _try(self._name, "read", answer.bytes_async()))

    async def stat(self, digest: Digest) -> BlobStat | None:
        try:
            meta = await _try(
                self._name, "stat", obstore.head_async(self._store, self._path(digest))
            )
        except NotFoundError:
            return None
        return BlobStat(digest, meta["size"], meta["last_modified"])

    async def list(self) -> AsyncIterator[BlobStat]:
        pages = obstore.list(  # pyright: ignore[reportUnknownMemberType]
            self._store, self._prefix, chunk_size=_LIST_PAGE
        )
        every = await _try(self._name, "list", pages.collect_async())
        found = [stat for meta in every if (stat := self._stat_of(meta))]
        for stat in sorted(found, key=lambda s: s.digest):
            yield stat

    async def delete(self, digest: Digest) -> None:
        try:
            await _try(self._name, "delete", obstore.delete_async(self._store, self._path(digest)))
        except NotFoundError:
            return

    async def aclose(self) -> None:
        """Connections go with the store object."""

    def _path(self, digest: Digest) -> str:
        digits = parse_digest(digest).removeprefix("sha256:")
        return f"{self._prefix}/{digits[:2]}/{digits[2:]}"

    def _stat_of(self, meta: Any) -> BlobStat | None:
        digits = str(meta["path"]).removeprefix(self._prefix + "/").replace("/", "")
        if len(digits) != 64:  # noqa: PLR2004  hex digits of a sha256; anything else is not ours
            return None
        return BlobStat(parse_digest(f"sha256:{digits}"), meta["size"], meta["last_modified"])


async def put_object(store: Any, path: str, data: bytes) -> None:
    """Put one named object, whole or not at all."""
    await _try("the object store", "put", obstore.put_async(store, path, data))


async def get_object(store: Any, path: str) -> bytes:
    """Read one named object."""
    answer = await _try("the object store", "get", obstore.get_async(store, path))
    return bytes(await _try("the object store", "read", answer.bytes_async()))


async def list_objects(store: Any, prefix: str) -> list[str]:
    """Paths of all objects below a prefix."""
    pages = obstore.list(  # pyright: ignore[reportUnknownMemberType]
        store, prefix, chunk_size=_LIST_PAGE
    )
    every = await _try("the object store", "list", pages.collect_async())
    return [str(meta["path"]) for meta in every]


async def delete_object(store: Any, path: str) -> None:
    """Delete one named object; harmless when it is not there."""
    try:
        await _try("the object store", "delete", obstore.delete_async(store, path))
    except NotFoundError:
        return


async def _try(name: str, what: str, pending: Awaitable[T]) -> T:
    try:
        return await pending
    except FileNotFoundError as cause:
        raise NotFoundError(f"{name} has no such blob") from cause
    except (BaseError, OSError, TimeoutError) as cause:
        raise StoreUnavailableError(
            f"{name} did not {what}: {type(cause).__name__}",
            hint="check the bucket's address and credentials with `faas doctor`",
        ) from cause
