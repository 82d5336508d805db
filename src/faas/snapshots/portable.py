"""One snapshot as one file: a tar of a mark, its record, its manifest and its packs, in that order.

Both ways it passes in pieces: no more than the manifest and one pack is in memory. Everything in a
file is checked before it is named here: the manifest by its decoder, each pack by its digest, each
chunk of it by its hash. So a file that was cut, damaged or made up leaves nothing that can be used,
and nothing that another snapshot could come to lean on.
"""

import asyncio
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import msgspec
import zstandard

from faas.blobs.digest import Digest, check
from faas.errors import DataLossError, DigestMismatchError, InvalidArgumentError, ManifestError
from faas.ids import TenantId, new_snapshot_id
from faas.snapshots import manifest as manifests
from faas.snapshots.chunks import unpacked
from faas.snapshots.manifest import Chunk, Manifest
from faas.snapshots.packer import PACK_BYTES
from faas.snapshots.records import FORKED, SnapshotRecord
from faas.snapshots.store import SnapshotStore

_MARK, _RECORD, _MANIFEST, _PACKS = "faas-snapshot", "record.json", "manifest", "packs/"
_VERSION = b"1\n"
_BYTES_MAX = {_MARK: 16, _RECORD: 1 << 20, _MANIFEST: manifests.MANIFEST_BYTES_MAX}
_PACK_BYTES_MAX = 2 * PACK_BYTES
"""A pack is closed by the chunk that makes it long enough."""
_BLOCK = tarfile.BLOCKSIZE
_DAMAGED = "a pack in this file is damaged"
_NO_SNAPSHOT = "this is no exported snapshot, or it is damaged"


@dataclass(frozen=True, slots=True)
class Export:
    """A snapshot's file: how long it is, and its pieces, made when they are asked for."""

    size_bytes: int
    pieces: AsyncGenerator[bytes]


@asynccontextmanager
async def exported(store: SnapshotStore, reference: str) -> AsyncGenerator[Export]:
    """Hold a snapshot, and give its file.

    Raises:
        SnapshotNotFoundError: there is none of that name.
        DataLossError: some of it is gone; in the middle of the pieces: damaged.
    """
    async with store.held(reference) as manifest:
        record = await store.get(reference)
        assert manifest is not None  # noqa: S101  it is there, and held
        small = [
            (_MARK, _VERSION),
            (_RECORD, msgspec.json.encode(record)),
            (_MANIFEST, await store.needed(record.manifest)),
        ]
        sizes = {digest: await _size(store, digest) for digest in manifest.packs}
        lengths = [len(data) for _, data in small] + list(sizes.values())
        size = sum(_BLOCK + length + len(_padding(length)) for length in lengths) + len(_END)
        async with aclosing(_pieces(store, small, sizes)) as pieces:
            yield Export(size, pieces)


_END = bytes(2 * _BLOCK)


async def _size(store: SnapshotStore, digest: Digest) -> int:
    found = await store.blobs.stat(digest)
    if found is None:
        raise DataLossError("bytes that this snapshot needs are gone", details={"blob": digest})
    return found.size_bytes


async def _pieces(
    store: SnapshotStore, small: list[tuple[str, bytes]], sizes: dict[Digest, int]
) -> AsyncGenerator[bytes]:
    for name, data in small:
        yield _entry(name, data)
    for digest, size in sizes.items():
        data = await store.needed(digest)
        if len(data) != size:  # the damaged copy that was measured has been replaced meanwhile
            raise DataLossError("a blob changed while it was read", hint="export it again")
        yield _entry(_PACKS + digest.removeprefix("sha256:"), data)
    yield _END


def _entry(name: str, data: bytes) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return b"".join((member.tobuf(tarfile.PAX_FORMAT), data, _padding(len(data))))


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


class _Told(msgspec.Struct, frozen=True):
    """What is believed of the record in a file; the rest the manifest says, or we do."""

    manifest: Digest
    created_at: datetime
    name: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    description: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    tags: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=64)], ...], msgspec.Meta(max_length=32)
    ] = ()
    image: Annotated[str, msgspec.Meta(max_length=512)] = ""


async def import_snapshot(
    store: SnapshotStore, source: AsyncIterator[bytes], *, tenant: TenantId
) -> SnapshotRecord:
    """Take in a file that `exported` made, as it comes, under a new id.

    Raises:
        InvalidArgumentError: it is no such file, or something in it is damaged or lacks.
    """
    async with store.receiving() as keep, aclosing(_entries(source)) as entries:
        try:
            if await _next(entries, _MARK) != _VERSION:
                raise InvalidArgumentError(_NO_SNAPSHOT)
            told = msgspec.json.decode(await _next(entries, _RECORD), type=_Told)
            data = check(await _next(entries, _MANIFEST), told.manifest)
            manifest = await asyncio.to_thread(manifests.decode, data)
        except (msgspec.MsgspecError, DigestMismatchError) as cause:
            raise InvalidArgumentError(_NO_SNAPSHOT) from cause
        except ManifestError as cause:
            raise InvalidArgumentError("the manifest in this file cannot be read") from cause
        wanted, stored = _chunks_by_pack(manifest), 0
        async for name, pack in entries:
            digest = Digest("sha256:" + name.removeprefix(_PACKS))
            chunks = wanted.pop(digest, None)
            if chunks is None:
                raise InvalidArgumentError(f"unexpected entry {name[:80]!r} in this file")
            await asyncio.to_thread(_check_pack, pack, digest, chunks)
            await keep(pack)
            stored += len(pack)
        if wanted:
            raise InvalidArgumentError(f"this file lacks {len(wanted)} of its packs")
        record = SnapshotRecord(
            id=new_snapshot_id(), tenant=tenant, manifest=told.manifest,
            created_at=told.created_at, name=told.name, description=told.description,
            tags=tuple(tag for tag in told.tags if tag != FORKED), image=told.image,
            image_digest=manifest.image_digest, runtimes=manifest.runtimes,
            has_memory=manifest.has_memory, size_bytes=manifest.size_bytes, stored_bytes=stored,
        )  # fmt: skip
        return await store.adopt(record, data, manifest)


async def _next(entries: AsyncIterator[tuple[str, bytes]], wanted: str) -> bytes:
    found = await anext(entries, None)
    if found is None or found[0] != wanted:
        raise InvalidArgumentError(_NO_SNAPSHOT)
    return found[1]


def _chunks_by_pack(manifest: Manifest) -> dict[Digest, set[Chunk]]:
    found = {digest: set[Chunk]() for digest in manifest.packs}
    for entries in manifest.sections.values():
        for entry in entries:
            for chunk in entry.chunks:
                found[manifest.packs[chunk.pack]].add(chunk)
    return found


def _check_pack(pack: bytes, digest: Digest, chunks: Iterable[Chunk]) -> None:
    decompress = zstandard.ZstdDecompressor()
    try:
        check(pack, digest)
        for chunk in chunks:
            unpacked(pack, chunk, decompress)
    except DigestMismatchError as cause:
        raise InvalidArgumentError(_DAMAGED, hint="send the file again") from cause


async def _entries(source: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str, bytes]]:
    """Read a tar of plain files to its end, one of them in memory at a time."""
    reader = _Reader(source)
    while any(head := await reader.take(_BLOCK)):
        try:
            member = tarfile.TarInfo.frombuf(head, "utf-8", "strict")
        except (tarfile.TarError, UnicodeDecodeError) as cause:
            raise InvalidArgumentError(_NO_SNAPSHOT) from cause
        if not member.isreg() or member.size > _BYTES_MAX.get(member.name, _PACK_BYTES_MAX):
            raise InvalidArgumentError(f"unexpected entry {member.name[:80]!r} in this file")
        data = await reader.take(member.size)
        await reader.take(len(_padding(member.size)))
        yield member.name, data
    async for _ in source:  # what pads a tar to its last record
        pass


class _Reader:
    """Takes so many bytes at a time from what comes in pieces of any length."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self._rest = bytearray()

    async def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            InvalidArgumentError: it ended before.
        """
        while len(self._rest) < size:
            piece = await anext(self._source, None)
            if piece is None:
                raise InvalidArgumentError("this file is cut short", hint="send it again, whole")
            self._rest += piece
        taken = bytes(memoryview(self._rest)[:size])
        del self._rest[:size]
        return taken
