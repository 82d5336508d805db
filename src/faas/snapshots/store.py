"""Snapshots by name: commit, look up, diff, merge, check out, export, remove, collect garbage.

Commit writes packs, then the manifest, then the record that names it; the record is the moment it
exists. Whatever dies before leaves only blobs that nothing names, and garbage collection takes
those. Records and blobs live in the same store, so another gateway with the same bucket sees the
same snapshots. A snapshot is never changed; removing one is refused while a child of it lives.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO

import msgspec

from faas.blobs.digest import Digest
from faas.blobs.protocol import BlobStore
from faas.blobs.refs import RefStore
from faas.clock import Clock
from faas.errors import ConflictError, SnapshotNotFoundError
from faas.ids import SnapshotId, TenantId, new_snapshot_id
from faas.snapshots import manifest as manifests
from faas.snapshots.branches import merged
from faas.snapshots.catalog import Catalog
from faas.snapshots.changes import Change, Merged, MergeStrategy, diff
from faas.snapshots.chunks import ChunkIndex
from faas.snapshots.gate import Gate
from faas.snapshots.listed import Listed
from faas.snapshots.manifest import Manifest
from faas.snapshots.packer import Pace, in_haste
from faas.snapshots.reader import Reader
from faas.snapshots.records import SnapshotInfo, SnapshotRecord
from faas.snapshots.sources import Source
from faas.snapshots.tree import to_directory, to_tar
from faas.snapshots.writer import Judge, Settle, Writer

GRACE = timedelta(hours=1)
"""Blobs younger than this are never garbage: a commit may be about to name them."""


class SnapshotStore:
    """The one store of committed state."""

    def __init__(
        self, *, blobs: BlobStore, refs: RefStore, clock: Clock, index: Path | None = None
    ) -> None:
        self._blobs = blobs
        self._clock = clock
        self._index = ChunkIndex(index)
        self._gate = Gate()
        self._catalog = Catalog(refs)
        self._reader = Reader(blobs, self._catalog)
        self._writer = Writer(
            blobs,
            catalog=self._catalog,
            reader=self._reader,
            index=self._index,
            gate=self._gate,
            clock=clock,
        )

    async def start(self) -> None:
        """Make the chunk index anew from the manifests when it is empty."""
        if not self._index.is_empty():
            return
        for record in await self._catalog.all():
            self._writer.learn(await self._reader.manifest(record))

    async def commit(
        self,
        info: SnapshotInfo,
        sources: Mapping[str, Source],
        *,
        shift: int = 0,
        over: Manifest | None = None,
        settle: Settle | None = None,
        judge: Judge | None = None,
        snapshot_id: SnapshotId | None = None,
        alias: str | None = None,
        pace: Pace = in_haste,
    ) -> SnapshotRecord:
        """Keep these trees under a new name. Its parent is not removed meanwhile.

        Args:
            info: what is known of it.
            sources: a folder or an opened tar for each section.
            shift: taken from every owner in the folders.
            over: the `files` section is a layer over the files of this one, and is stacked on them.
            settle: done to the `files` section at the end.
            judge: says of the `files` section which runtimes can restore it.
            snapshot_id: its id, minted here when not given.
            alias: another name that finds it, such as the execution's id.
            pace: whether somebody waits for it, asked again and again.
        """
        async with self.stood_on(info.parent):
            return await self._writer.commit(
                info, sources, shift=shift, over=over, settle=settle, judge=judge,
                snapshot_id=snapshot_id, alias=alias, pace=pace,
            )  # fmt: skip

    def announce(
        self,
        record: SnapshotRecord,
        *,
        alias: str | None,
        over: SnapshotId | None,
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        """Show a snapshot that is durable elsewhere on this machine and on its way in here.

        Whoever needs its manifest has `settle` awaited first, which commits it under its id; so has
        whoever removes the one it is written over.
        """
        self._catalog.announce(record, alias=alias, over=over, settle=settle)

    def stood_on(self, reference: str | None) -> AbstractAsyncContextManager[bool]:
        """Keep a snapshot from being removed while another is made over it; False: it is gone."""
        return self._reader.stood_on(reference)

    async def get(self, reference: str, *, tenant: TenantId | None = None) -> SnapshotRecord:
        """Find a snapshot by its id, or by the id of the execution it was taken from.

        Raises:
            SnapshotNotFoundError: there is none, or it is another tenant's.
        """
        record = await self._catalog.find(reference)
        if tenant is not None and record.tenant != tenant:
            raise SnapshotNotFoundError(f"Snapshot not found: {reference[:64]}")
        return record

    async def page(
        self, *, tenant: TenantId | None = None, limit: int = 50, before: str | None = None
    ) -> list[SnapshotRecord]:
        """Newest first."""
        return await self._catalog.page(tenant=tenant, limit=limit, before=before)

    async def remove(self, reference: str, *, tenant: TenantId | None = None) -> None:
        """Forget a snapshot; its bytes go with the next garbage collection.

        Raises:
            ConflictError: a child of it lives, or is being made.
        """
        record = await self._catalog.settled(await self.get(reference, tenant=tenant))
        if self._reader.is_stood_on(record.id):
            raise _being_built_upon(record.id)
        await self._catalog.settle_over(record.id)
        children = [r.id for r in await self._catalog.all() if r.parent == record.id]
        if children:
            raise ConflictError(
                f"{record.id} has {len(children)} children",
                hint=f"remove them first, beginning with {children[0]}",
                details={"children": children},
            )
        if self._reader.is_stood_on(record.id):  # since a moment ago
            raise _being_built_upon(record.id)
        await self._catalog.forget(record)

    async def describe(
        self,
        reference: str,
        *,
        name: str | None,
        description: str | None,
        tags: tuple[str, ...],
        expires_at: datetime | None = None,
    ) -> SnapshotRecord:
        """Say by what it is to be known, and until when; its content never changes."""
        record = await self._catalog.settled(await self._catalog.find(reference))
        record = msgspec.structs.replace(
            record, name=name, description=description, tags=tags, expires_at=expires_at
        )
        await self._catalog.write(record)
        return record

    async def branch(
        self,
        reference: str,
        *,
        tenant: TenantId,
        name: str | None,
        description: str | None = None,
        snapshot_id: SnapshotId | None = None,
    ) -> SnapshotRecord:
        """Name the files of a snapshot anew, as a child of it; no byte is copied."""
        parent = await self.get(reference, tenant=tenant)
        child = msgspec.structs.replace(
            parent, id=snapshot_id or new_snapshot_id(), parent=parent.id, name=name,
            description=description, tags=(), source="", created_at=self._clock.now(),
            stored_bytes=0, expires_at=None,
        )  # fmt: skip
        async with self.held(parent.id):
            await self._writer.copy(child)
        return child

    async def manifest(self, reference: str) -> Manifest:
        """The whole manifest."""
        return await self._reader.manifest_of(reference)

    async def read(self, reference: str, section: str) -> Listed:
        """Return a section's tree; its content is read by and by, which blocks, in a thread of the
        caller's."""
        entries, unpacker = await self._reader.opened(reference, section)
        return Listed(entries, unpacker)

    async def check_out(self, reference: str, section: str, target: Path) -> None:
        """Write a section's tree into the empty folder `target`.

        Raises:
            DataLossError: stored bytes are damaged; nothing of them is served.
        """
        entries, unpacker = await self._reader.opened(reference, section)
        await asyncio.to_thread(to_directory, entries, target, unpacker)

    async def write_tar(self, reference: str, section: str, sink: IO[bytes]) -> None:
        """Write a section's tree as a tar."""
        entries, unpacker = await self._reader.opened(reference, section)
        await asyncio.to_thread(to_tar, entries, sink, unpacker)

    async def diff(self, before: str, after: str) -> list[Change]:
        """What differs between the files of two snapshots of one image."""
        section = self._reader.section
        return diff(await section(before, "files"), await section(after, "files"))

    async def merge(
        self,
        branches: Sequence[str],
        *,
        strategy: MergeStrategy,
        tenant: TenantId,
        name: str | None,
        snapshot_id: SnapshotId | None = None,
    ) -> tuple[SnapshotRecord, Merged]:
        """Merge branches against their nearest common parent into a new snapshot.

        Raises:
            InvalidArgumentError: fewer than two, or of different images.
            ConflictError: they have no common parent.
        """
        async with AsyncExitStack() as holding:
            for branch in branches:
                await holding.enter_async_context(self.held(branch))
            records = [await self.get(branch, tenant=tenant) for branch in branches]
            info, (sections, packs), result = await merged(
                records, strategy=strategy, name=name, catalog=self._catalog, reader=self._reader
            )
            record = await self._writer.name(info, sections, packs, snapshot_id=snapshot_id)
            return record, result

    def held(self, reference: str | None) -> AbstractAsyncContextManager[Manifest | None]:
        """Keep the bytes of a snapshot while something is read from it or made over it, even when
        it is removed meanwhile; None when there is none of that name."""
        return self._reader.held(reference)

    async def collect_garbage(self, *, grace: timedelta = GRACE) -> int:
        """Delete blobs that no manifest names and no commit may be about to name; count them."""
        async with self._gate.alone():
            live: set[Digest] = set(self._writer.coming)
            for record in await self._catalog.all():
                live.add(record.manifest)
                live.update((await self._reader.manifest(record)).packs)
            for digest in self._reader.held_manifests:
                live.add(digest)
                live.update(manifests.decode(await self.needed(digest)).packs)
            born_before = self._clock.now() - grace
            dead = [
                stat.digest
                async for stat in self._blobs.list()
                if stat.digest not in live and stat.modified_at <= born_before
            ]
            for digest in dead:
                self._index.forget_pack(digest)
                await self._blobs.delete(digest)
            await self._catalog.forget_lost_aliases()
            return len(dead)

    async def verify(self, reference: str) -> None:
        """Read every chunk of a snapshot and check it.

        Raises:
            DataLossError: something is damaged or gone.
        """
        await self._reader.verify(reference)

    async def aclose(self) -> None:
        """Close what is open."""
        self._writer.close()
        self._index.close()
        await self._blobs.aclose()

    async def needed(self, digest: Digest) -> bytes:
        """Read a blob that a snapshot names.

        Raises:
            DataLossError: it is damaged, or gone.
        """
        return await self._reader.needed(digest)

    def receiving(
        self,
    ) -> AbstractAsyncContextManager[Callable[[bytes], Awaitable[Digest]]]:
        """Give what stores packs of a snapshot that comes from elsewhere; none of them is garbage
        until it is adopted or given up."""
        return self._writer.receiving()

    async def adopt(
        self, record: SnapshotRecord, data: bytes, manifest: Manifest
    ) -> SnapshotRecord:
        """Name a snapshot whose packs were kept by `receiving`, and whose chunks were checked."""
        return await self._writer.adopt(record, data, manifest)

    @property
    def blobs(self) -> BlobStore:
        """Where the bytes are."""
        return self._blobs


def _being_built_upon(snapshot_id: SnapshotId) -> ConflictError:
    return ConflictError(f"{snapshot_id} is being built upon just now", hint="try again")
