"""Reads what is committed: manifests, of which the last few are kept, and the trees in them.

What is being read, or built upon, is held: it stays whatever is removed meanwhile.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from faas.blobs.digest import Digest
from faas.blobs.protocol import BlobStore
from faas.errors import DataLossError, NotFoundError, SnapshotNotFoundError
from faas.ids import SnapshotId
from faas.snapshots import manifest as manifests
from faas.snapshots.catalog import Catalog
from faas.snapshots.changes import as_tree
from faas.snapshots.chunks import Unpacker
from faas.snapshots.manifest import Entry, Manifest
from faas.snapshots.records import SnapshotRecord

_MANIFESTS_MAX = 16
_MANIFEST_ENTRIES_MAX = 200_000
"""Of manifests kept in memory, all together: some 100 MB at the most."""


class Reader:
    """Reads the snapshots of one store."""

    def __init__(self, blobs: BlobStore, catalog: Catalog) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._held: Counter[Digest] = Counter()
        self._stood_on: Counter[SnapshotId] = Counter()
        self._manifests: OrderedDict[Digest, Manifest] = OrderedDict()

    @property
    def held_manifests(self) -> tuple[Digest, ...]:
        """Of what is being read just now."""
        return tuple(self._held)

    def is_stood_on(self, snapshot_id: SnapshotId) -> bool:
        """Whether another is being made over it."""
        return self._stood_on[snapshot_id] > 0

    @asynccontextmanager
    async def held(self, reference: str | None) -> AsyncGenerator[Manifest | None]:
        """Keep the bytes of a snapshot while something is read from it or made over it, even when
        it is removed meanwhile; None when there is none of that name."""
        try:
            record = None if reference is None else await self._settled(reference)
        except SnapshotNotFoundError:
            record = None
        if record is None:
            yield None
            return
        self._held[record.manifest] += 1
        try:
            yield await self.manifest(record)
        finally:
            self._held[record.manifest] -= 1
            if not self._held[record.manifest]:
                del self._held[record.manifest]

    @asynccontextmanager
    async def stood_on(self, reference: str | None) -> AsyncGenerator[bool]:
        """Keep a snapshot from being removed while another is made over it; False: it is gone."""
        try:
            record = None if reference is None else await self._catalog.find(reference)
        except SnapshotNotFoundError:
            record = None
        if record is None:
            yield False
            return
        self._stood_on[record.id] += 1
        try:
            yield True
        finally:
            self._stood_on[record.id] -= 1
            if not self._stood_on[record.id]:
                del self._stood_on[record.id]

    async def manifest(self, record: SnapshotRecord) -> Manifest:
        """The manifest of a snapshot, which is brought in first if need be."""
        record = await self._catalog.settled(record)
        known = self._manifests.get(record.manifest)
        if known is None:
            data = await self.needed(record.manifest)
            known = self.remember(record.manifest, manifests.decode(data))
        self._manifests.move_to_end(record.manifest)
        return known

    async def manifest_of(self, reference: str | None) -> Manifest:
        """The same by name; an empty one where there is no name."""
        if reference is None:
            return Manifest(image_digest="")
        return await self.manifest(await self._catalog.find(reference))

    def remember(self, digest: Digest, manifest: Manifest) -> Manifest:
        """Keep the last few: they never change, and each child of a snapshot looks at its own."""
        self._manifests[digest] = manifest
        while len(self._manifests) > 1 and (
            len(self._manifests) > _MANIFESTS_MAX
            or sum(map(_count, self._manifests.values())) > _MANIFEST_ENTRIES_MAX
        ):
            self._manifests.popitem(last=False)
        return manifest

    async def section(self, reference: str | None, section: str) -> dict[str, Entry]:
        """A section's tree; an empty one where there is none."""
        manifest = await self.manifest_of(reference)
        return as_tree(manifest.sections.get(section, ()))

    async def opened(self, reference: str, section: str) -> tuple[tuple[Entry, ...], Unpacker]:
        """A section's entries, and what gives their content, which blocks.

        Raises:
            SnapshotNotFoundError: it has no such section.
        """
        manifest = await self.manifest_of(reference)
        if section not in manifest.sections:
            raise SnapshotNotFoundError(f"{reference[:64]} holds no {section}")
        loop = asyncio.get_running_loop()

        def get(digest: Digest) -> bytes:
            return asyncio.run_coroutine_threadsafe(self.needed(digest), loop).result()

        return manifest.sections[section], Unpacker(manifest.packs, get)

    async def needed(self, digest: Digest) -> bytes:
        """Read a blob that a snapshot names.

        Raises:
            DataLossError: it is damaged, or gone.
        """
        try:
            return await self._blobs.get(digest)
        except NotFoundError as cause:
            raise DataLossError(
                "bytes that this snapshot needs are gone",
                hint="restore them from a copy of the store",
                details={"blob": digest},
            ) from cause

    async def verify(self, reference: str) -> None:
        """Read every chunk of a snapshot and check it."""
        async with self.held(reference):
            for section in (await self.manifest_of(reference)).sections:
                entries, unpacker = await self.opened(reference, section)
                await asyncio.to_thread(_read_all, entries, unpacker)

    async def _settled(self, reference: str) -> SnapshotRecord:
        return await self._catalog.settled(await self._catalog.find(reference))


def _count(manifest: Manifest) -> int:
    return sum(map(len, manifest.sections.values()))


def _read_all(entries: tuple[Entry, ...], unpacker: Unpacker) -> None:
    for entry in entries:
        for _ in unpacker.read(entry.chunks):
            pass
