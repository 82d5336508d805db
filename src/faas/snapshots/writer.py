"""Takes snapshots in: packs, then the manifest, then the record that names it.

Several are taken in at once, and lean on each other's chunks from the moment these are stored.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import msgspec

from faas.blobs.digest import Digest
from faas.blobs.protocol import BlobStore
from faas.blobs.tiered import TieredBlobStore
from faas.clock import Clock
from faas.ids import SnapshotId, new_snapshot_id
from faas.snapshots import manifest as manifests
from faas.snapshots.catalog import Catalog
from faas.snapshots.changes import as_tree
from faas.snapshots.chunks import ChunkIndex, Place
from faas.snapshots.gate import Gate
from faas.snapshots.manifest import Entry, Manifest
from faas.snapshots.packer import Pace, Packer, in_haste
from faas.snapshots.packs import Packed, Trees, only_used, stack
from faas.snapshots.reader import Reader
from faas.snapshots.records import SnapshotInfo, SnapshotRecord
from faas.snapshots.sources import Source, read, rewind

T = TypeVar("T")

Settle = Callable[[Mapping[str, Entry]], dict[str, Entry]]
"""Bring a tree into the one form that all ways of reading a sandbox give."""

Judge = Callable[[Mapping[str, Entry]], tuple[str, ...]]

WORKERS = 2
"""Hash and compress for all writers; the rest of the machine is for what runs in sandboxes."""


class Writer:
    """Writes for one store. Each of its methods is one of the writers at the gate."""

    def __init__(
        self,
        blobs: BlobStore,
        *,
        catalog: Catalog,
        reader: Reader,
        index: ChunkIndex,
        gate: Gate,
        clock: Clock,
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._reader = reader
        self._index = index
        self._gate = gate
        self._clock = clock
        self._workers = ThreadPoolExecutor(WORKERS, "snapshot-packing")
        self._coming: Counter[Digest] = Counter()

    @property
    def coming(self) -> frozenset[Digest]:
        """Packs of snapshots that are being received: nothing names them yet."""
        return frozenset(self._coming)

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
        """Keep these trees under a new name.

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
        given_up = threading.Event()
        pack = self._packing(
            sources, shift=shift, over=over, settle=settle, pace=partial(_paced, pace, given_up)
        )
        async with self._gate.writing():
            (trees, packs), stored = await _to_its_end(pack, given_up)
            if await self._forget_lost(packs):
                rewind(sources)
                (trees, packs), stored = await _to_its_end(pack, given_up)
            if judge is not None:
                able = judge(as_tree(trees.get("files", ())))
                info = msgspec.structs.replace(info, runtimes=able)
            return await self._name(
                info, trees, packs, stored=stored, snapshot_id=snapshot_id, alias=alias
            )

    async def name(
        self,
        info: SnapshotInfo,
        sections: Trees,
        packs: tuple[Digest, ...],
        *,
        snapshot_id: SnapshotId | None,
    ) -> SnapshotRecord:
        """Name trees whose packs are held."""
        async with self._gate.writing():
            return await self._name(info, sections, packs, snapshot_id=snapshot_id)

    async def copy(self, record: SnapshotRecord) -> None:
        """Name what is held under one more record."""
        async with self._gate.writing():
            await self._catalog.write(record)

    @asynccontextmanager
    async def receiving(self) -> AsyncGenerator[Callable[[bytes], Awaitable[Digest]]]:
        """Give what stores packs of a snapshot that comes from elsewhere; none of them is garbage
        until it is adopted or given up."""
        taken: Counter[Digest] = Counter()

        async def keep(pack: bytes) -> Digest:
            async with self._gate.writing():  # a collection that looked already knows nothing of it
                digest = await self._blobs.put(pack)
                taken[digest] += 1
                self._coming[digest] += 1
                return digest

        try:
            yield keep
        finally:
            self._coming -= taken

    async def adopt(
        self, record: SnapshotRecord, data: bytes, manifest: Manifest
    ) -> SnapshotRecord:
        """Name a snapshot whose packs were kept by `receiving`, and whose chunks were checked."""
        async with self._gate.writing():
            digest = await self._blobs.put(data)
            kept = msgspec.structs.replace(record, manifest=digest, parent=None)
            self.learn(manifest)
            await self._catalog.write(kept)
        return kept

    def learn(self, manifest: Manifest) -> None:
        """Remember where its chunks lie."""
        places = {
            chunk.digest: Place(
                manifest.packs[chunk.pack], chunk.offset, chunk.stored_bytes, chunk.raw_bytes
            )
            for entries in manifest.sections.values()
            for entry in entries
            for chunk in entry.chunks
        }
        self._index.add(places)

    def close(self) -> None:
        """Let its threads end."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _packing(
        self,
        sources: Mapping[str, Source],
        *,
        shift: int,
        over: Manifest | None,
        settle: Settle | None,
        pace: Pace,
    ) -> Callable[[], tuple[Packed, int]]:
        """Make what reads the sources and stores what is new: it blocks, and returns the trees with
        their packs, and how many bytes were new."""
        loop = asyncio.get_running_loop()

        def put(data: bytes) -> Future[Digest]:
            return asyncio.run_coroutine_threadsafe(self._blobs.put(data), loop)

        def pack() -> tuple[Packed, int]:
            packer = Packer(self._index, put, self._workers, pace=pace)
            try:
                trees = {n: read(source, packer, shift=shift) for n, source in sources.items()}
                packs = packer.finish()
            finally:
                packer.give_up()
            if over is not None:
                trees, packs = stack(over, trees, packs)
            if settle is not None:
                settled = settle(as_tree(trees.get("files", ())))
                trees["files"] = tuple(settled[path] for path in sorted(settled))
            return only_used(trees, packs), packer.stored_bytes

        return pack

    async def _name(
        self,
        info: SnapshotInfo,
        sections: Trees,
        packs: tuple[Digest, ...],
        *,
        stored: int = 0,
        snapshot_id: SnapshotId | None = None,
        alias: str | None = None,
    ) -> SnapshotRecord:
        manifest = Manifest(
            image_digest=info.image_digest, image=info.image, runtimes=info.runtimes,
            config=info.config, packs=packs, sections=sections,
        )  # fmt: skip
        digest = await self._blobs.put(manifests.encode(manifest))
        self._reader.remember(digest, manifest)
        record = SnapshotRecord(
            id=snapshot_id or new_snapshot_id(), tenant=info.tenant, manifest=digest,
            created_at=self._clock.now(), name=info.name, description=info.description,
            tags=info.tags, parent=info.parent, source=alias or info.source, image=info.image,
            image_digest=info.image_digest, runtimes=info.runtimes,
            has_memory=manifest.has_memory, size_bytes=manifest.size_bytes, stored_bytes=stored,
        )  # fmt: skip
        if alias is not None:
            await self._catalog.write_alias(alias, record.id)
        await self._catalog.write(record)
        return record

    async def _forget_lost(self, packs: tuple[Digest, ...]) -> bool:
        """Whether packs that new content was to lie in are gone: a gateway that shares the bucket
        has collected them. They are not used again."""
        if not isinstance(self._blobs, TieredBlobStore):
            return False
        lost = await self._blobs.lost(packs)
        for digest in lost:
            self._index.forget_pack(digest)
        return bool(lost)


class _GivenUpError(Exception):
    """Whoever wanted it has gone."""


def _paced(pace: Pace, given_up: threading.Event) -> bool:
    if given_up.is_set():
        raise _GivenUpError
    return pace()


async def _to_its_end(work: Callable[[], T], given_up: threading.Event) -> T:
    """Do it in a thread. Who is cancelled waits until it has stopped: it must not go on when what
    clears away is alone."""
    doing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        given_up.set()
        await asyncio.wait({doing})
        if not doing.cancelled():
            doing.exception()
        raise
