"""Snapshots by name: commit, look up, diff, merge, check out, export, remove, collect garbage.

Commit writes packs, then the manifest, then the record that names it; the record is the moment it
exists. Whatever dies before leaves only blobs that nothing names, and garbage collection takes
those. Records and blobs live in the same store, so another gateway with the same bucket sees the
same snapshots. A snapshot is never changed; removing one is refused while a child of it lives.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from faas.blobs.digest import Digest
from faas.blobs.protocol import BlobStore
from faas.blobs.refs import RefStore
from faas.blobs.tiered import TieredBlobStore
from faas.clock import Clock
from faas.errors import (
    ConflictError,
    DataLossError,
    InvalidArgumentError,
    ManifestError,
    NotFoundError,
    SnapshotNotFoundError,
)
from faas.ids import SnapshotId, TenantId, new_snapshot_id
from faas.snapshots import manifest as manifests
from faas.snapshots.changes import Change, Merged, MergeStrategy, as_tree, diff, merge
from faas.snapshots.chunks import ChunkIndex, Place, Unpacker
from faas.snapshots.gate import Gate
from faas.snapshots.listed import Listed
from faas.snapshots.manifest import Entry, Manifest
from faas.snapshots.packer import Pace, Packer, in_haste
from faas.snapshots.packs import PackNumbers, Trees, only_used, stack
from faas.snapshots.records import SnapshotInfo, SnapshotRecord
from faas.snapshots.tree import (
    Folder,
    Tars,
    from_directory,
    from_listed,
    from_tar,
    from_tars,
    to_directory,
    to_tar,
)

T = TypeVar("T")
_KIND = "snapshots"
_ALIAS = "aliases"
GRACE = timedelta(hours=1)
"""Blobs younger than this are never garbage: a commit may be about to name them."""

Source = Path | Folder | Listed | Tars | IO[bytes]
"""A folder, a tree that was read already, an opened tar, or one for each place."""

Settle = Callable[[Mapping[str, Entry]], dict[str, Entry]]
"""Bring a tree into the one form that all ways of reading a sandbox give."""

Judge = Callable[[Mapping[str, Entry]], tuple[str, ...]]

WORKERS = 2
"""Hash and compress for all writers; the rest of the machine is for what runs in sandboxes."""

_MANIFESTS_MAX = 16
_MANIFEST_ENTRIES_MAX = 200_000
"""Of manifests kept in memory, all together: some 100 MB at the most."""


class SnapshotStore:
    """The one store of committed state."""

    def __init__(
        self, *, blobs: BlobStore, refs: RefStore, clock: Clock, index: Path | None = None
    ) -> None:
        self._blobs = blobs
        self._refs = refs
        self._clock = clock
        self._index = ChunkIndex(index)
        self._gate = Gate()
        self._workers = ThreadPoolExecutor(WORKERS, "snapshot-packing")
        self._records: dict[SnapshotId, SnapshotRecord] = {}
        self._held: Counter[Digest] = Counter()
        self._coming: Counter[Digest] = Counter()
        """Packs of snapshots that are being taken in."""
        self._manifests: OrderedDict[Digest, Manifest] = OrderedDict()
        self._unsettled: dict[SnapshotId, Callable[[], Awaitable[None]]] = {}
        self._needs: dict[SnapshotId, SnapshotId] = {}
        """Which other snapshot those are written over."""
        self._stood_on: Counter[SnapshotId] = Counter()
        self._announced: dict[str, SnapshotId] = {}
        """Other names of those."""

    async def start(self) -> None:
        """Make the chunk index anew from the manifests when it is empty."""
        if not self._index.is_empty():
            return
        for record in await self._all_records():
            self._learn(await self._read_manifest(record))

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
        loop = asyncio.get_running_loop()

        def put(data: bytes) -> Future[Digest]:
            return asyncio.run_coroutine_threadsafe(self._blobs.put(data), loop)

        def pack() -> tuple[Trees, tuple[Digest, ...], int]:
            packer = Packer(self._index, put, self._workers, pace=pace)
            try:
                trees = {name: _read(source, packer, shift) for name, source in sources.items()}
                packs = packer.finish()
            finally:
                packer.give_up()
            if over is not None:
                trees, packs = stack(over, trees, packs)
            if settle is not None:
                settled = settle(as_tree(trees.get("files", ())))
                trees["files"] = tuple(settled[path] for path in sorted(settled))
            return *only_used(trees, packs), packer.stored_bytes

        async with self._gate.writing():
            trees, packs, stored = await asyncio.to_thread(pack)
            if await self._forget_lost(packs):
                _rewind(sources)
                trees, packs, stored = await asyncio.to_thread(pack)
            if judge is not None:
                able = judge(as_tree(trees.get("files", ())))
                info = msgspec.structs.replace(info, runtimes=able)
            return await self._name(
                info, trees, packs, stored=stored, snapshot_id=snapshot_id, alias=alias
            )

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
        self._records[record.id] = record
        self._unsettled[record.id] = settle
        if over is not None:
            self._needs[record.id] = over
        if alias is not None:
            self._announced[alias] = record.id

    @asynccontextmanager
    async def stood_on(self, reference: str | None) -> AsyncGenerator[bool]:
        """Keep a snapshot from being removed while another is made over it; False: it is gone."""
        try:
            record = None if reference is None else await self._find(reference)
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

    async def _settled(self, record: SnapshotRecord) -> SnapshotRecord:
        settle = self._unsettled.get(record.id)
        if settle is not None:
            await settle()
        return self._records.get(record.id, record)

    async def get(self, reference: str, *, tenant: TenantId | None = None) -> SnapshotRecord:
        """Find a snapshot by its id, or by the id of the execution it was taken from.

        Raises:
            SnapshotNotFoundError: there is none, or it is another tenant's.
        """
        record = await self._find(reference)
        if tenant is not None and record.tenant != tenant:
            raise SnapshotNotFoundError(f"Snapshot not found: {reference[:64]}")
        return record

    async def page(
        self, *, tenant: TenantId | None = None, limit: int = 50, before: str | None = None
    ) -> list[SnapshotRecord]:
        """Newest first."""
        names = {n.removeprefix(f"{_KIND}/") for n in await self._refs.list(_KIND)}
        names |= self._unsettled.keys()
        found: list[SnapshotRecord] = []
        for name in sorted(names, reverse=True):
            if before is not None and name >= before:
                continue
            with suppress(SnapshotNotFoundError):
                record = await self._find(name)
                if tenant is None or record.tenant == tenant:
                    found.append(record)
            if len(found) >= limit:
                break
        return found

    async def remove(self, reference: str, *, tenant: TenantId | None = None) -> None:
        """Forget a snapshot; its bytes go with the next garbage collection.

        Raises:
            ConflictError: a child of it lives, or is being made.
        """
        record = await self._settled(await self.get(reference, tenant=tenant))
        if self._stood_on[record.id]:
            raise ConflictError(f"{record.id} is being built upon just now", hint="try again")
        for over in [child for child, below in self._needs.items() if below == record.id]:
            await self._unsettled[over]()
        children = [r.id for r in await self._all_records() if r.parent == record.id]
        if children:
            raise ConflictError(
                f"{record.id} has {len(children)} children",
                hint=f"remove them first, beginning with {children[0]}",
                details={"children": children},
            )
        await self._refs.delete(f"{_KIND}/{record.id}")
        self._records.pop(record.id, None)
        if record.source:
            with suppress(NotFoundError, InvalidArgumentError):
                if (await self._refs.get(f"{_ALIAS}/{record.source}")).decode() == record.id:
                    await self._refs.delete(f"{_ALIAS}/{record.source}")
        self._announced = {name: at for name, at in self._announced.items() if at != record.id}

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
        record = await self._settled(await self._find(reference))
        record = msgspec.structs.replace(
            record, name=name, description=description, tags=tags, expires_at=expires_at
        )
        await self._write_record(record)
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
        async with self.held(parent.id), self._gate.writing():
            await self._write_record(child)
        return child

    async def manifest(self, reference: str) -> Manifest:
        """The whole manifest."""
        return await self._read_manifest(await self._find(reference))

    async def read(self, reference: str, section: str) -> Listed:
        """Return a section's tree; its content is read by and by, which blocks, in a thread of the
        caller's."""
        entries, unpacker = await self._open_section(reference, section)
        return Listed(entries, unpacker)

    async def check_out(self, reference: str, section: str, target: Path) -> None:
        """Write a section's tree into the empty folder `target`.

        Raises:
            DataLossError: stored bytes are damaged; nothing of them is served.
        """
        entries, unpacker = await self._open_section(reference, section)
        await asyncio.to_thread(to_directory, entries, target, unpacker)

    async def write_tar(self, reference: str, section: str, sink: IO[bytes]) -> None:
        """Write a section's tree as a tar."""
        entries, unpacker = await self._open_section(reference, section)
        await asyncio.to_thread(to_tar, entries, sink, unpacker)

    async def diff(self, before: str, after: str) -> list[Change]:
        """What differs between the files of two snapshots of one image."""
        return diff(await self._section(before, "files"), await self._section(after, "files"))

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
            return await self._merged(
                records, strategy=strategy, name=name, snapshot_id=snapshot_id
            )

    async def _merged(
        self,
        records: list[SnapshotRecord],
        *,
        strategy: MergeStrategy,
        name: str | None,
        snapshot_id: SnapshotId | None,
    ) -> tuple[SnapshotRecord, Merged]:
        if len({r.id for r in records}) < 2:  # noqa: PLR2004  a merge of one is a copy
            raise InvalidArgumentError("a merge needs at least two different branches")
        if len({r.image_digest for r in records}) != 1:
            raise InvalidArgumentError("branches of different images cannot be merged")
        base_id = await self._common_parent(records)
        every = [await self._read_manifest(r) for r in records]
        base = await self._manifest_of(base_id)
        packs = PackNumbers()
        base_tree = packs.renumber(base, "files")
        trees = {
            str(record.id): packs.renumber(manifest, "files")
            for record, manifest in zip(records, every, strict=True)
        }
        merged = merge(base_tree, trees, strategy)
        info = SnapshotInfo(
            tenant=records[0].tenant, image_digest=records[0].image_digest,
            image=records[0].image, runtimes=records[0].runtimes, config=every[0].config,
            name=name, parent=base_id,
        )  # fmt: skip
        sections, named = only_used({"files": tuple(merged.tree.values())}, packs.names())
        async with self._gate.writing():
            return await self._name(info, sections, named, snapshot_id=snapshot_id), merged

    @asynccontextmanager
    async def held(self, reference: str | None) -> AsyncGenerator[Manifest | None]:
        """Keep the bytes of a snapshot while something is read from it or made over it, even when
        it is removed meanwhile; None when there is none of that name."""
        try:
            record = None if reference is None else await self._settled(await self._find(reference))
        except SnapshotNotFoundError:
            record = None
        if record is None:
            yield None
            return
        self._held[record.manifest] += 1
        try:
            yield await self._read_manifest(record)
        finally:
            self._held[record.manifest] -= 1
            if not self._held[record.manifest]:
                del self._held[record.manifest]

    async def collect_garbage(self, *, grace: timedelta = GRACE) -> int:
        """Delete blobs that no manifest names and no commit may be about to name; count them."""
        async with self._gate.alone():
            live: set[Digest] = set(self._coming)
            for record in await self._all_records():
                live.add(record.manifest)
                live.update((await self._read_manifest(record)).packs)
            for digest in list(self._held):
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
            await self._forget_lost_aliases()
            return len(dead)

    async def _forget_lost_aliases(self) -> None:
        """Other names of what is no more, left by a crash between the two."""
        known = {name.removeprefix(f"{_KIND}/") for name in await self._refs.list(_KIND)}
        for name in await self._refs.list(_ALIAS):
            with suppress(NotFoundError):
                if (await self._refs.get(name)).decode() not in known:
                    await self._refs.delete(name)

    async def verify(self, reference: str) -> None:
        """Read every chunk of a snapshot and check it.

        Raises:
            DataLossError: something is damaged or gone.
        """
        async with self.held(reference):
            for section in (await self.manifest(reference)).sections:
                entries, unpacker = await self._open_section(reference, section)
                await asyncio.to_thread(_read_all, entries, unpacker)

    async def aclose(self) -> None:
        """Close what is open."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._index.close()
        await self._blobs.aclose()

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

    @asynccontextmanager
    async def receiving(self) -> AsyncGenerator[Callable[[bytes], Awaitable[Digest]]]:
        """Give what stores packs of a snapshot that comes from elsewhere; none of them is garbage
        until it is adopted or given up."""
        taken: Counter[Digest] = Counter()

        async def keep(pack: bytes) -> Digest:
            async with (
                self._gate.writing()
            ):  # a collection that looked already would not know of it
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
            self._learn(manifest)
            await self._write_record(kept)
        return kept

    @property
    def blobs(self) -> BlobStore:
        """Where the bytes are."""
        return self._blobs

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
        self._remember(digest, manifest)
        record = SnapshotRecord(
            id=snapshot_id or new_snapshot_id(), tenant=info.tenant, manifest=digest,
            created_at=self._clock.now(), name=info.name, description=info.description,
            tags=info.tags, parent=info.parent, source=alias or info.source, image=info.image,
            image_digest=info.image_digest, runtimes=info.runtimes,
            has_memory=manifest.has_memory, size_bytes=manifest.size_bytes, stored_bytes=stored,
        )  # fmt: skip
        # The record last: who is asked for the alias again after a crash must find all or nothing.
        if alias is not None:
            await self._refs.put(f"{_ALIAS}/{alias}", record.id.encode())
        await self._write_record(record)
        return record

    async def _write_record(self, record: SnapshotRecord) -> None:
        await self._refs.put(f"{_KIND}/{record.id}", msgspec.json.encode(record))
        self._records[record.id] = record
        self._unsettled.pop(record.id, None)
        self._needs.pop(record.id, None)

    async def _find(self, reference: str) -> SnapshotRecord:
        reference = self._announced.get(reference, reference)
        known = self._records.get(SnapshotId(reference))
        if known is not None:
            return known
        try:
            if not reference.startswith("snap-"):
                reference = (await self._refs.get(f"{_ALIAS}/{reference}")).decode()
            raw = await self._refs.get(f"{_KIND}/{reference}")
        except (NotFoundError, InvalidArgumentError) as cause:
            raise SnapshotNotFoundError(f"Snapshot not found: {reference[:64]}") from cause
        try:
            record = msgspec.json.decode(raw, type=SnapshotRecord)
        except msgspec.MsgspecError as cause:
            raise ManifestError(f"the record of {reference[:64]} cannot be read") from cause
        self._records[record.id] = record
        return record

    async def _all_records(self) -> list[SnapshotRecord]:
        names = [n.removeprefix(f"{_KIND}/") for n in await self._refs.list(_KIND)]
        return [await self._find(name) for name in names]

    async def _read_manifest(self, record: SnapshotRecord) -> Manifest:
        record = await self._settled(record)
        known = self._manifests.get(record.manifest)
        if known is None:
            data = await self.needed(record.manifest)
            known = self._remember(record.manifest, manifests.decode(data))
        self._manifests.move_to_end(record.manifest)
        return known

    async def _forget_lost(self, packs: tuple[Digest, ...]) -> bool:
        """Whether packs that new content was to lie in are gone: a gateway that shares the bucket
        has collected them. They are not used again."""
        if not isinstance(self._blobs, TieredBlobStore):
            return False
        lost = await self._blobs.lost(packs)
        for digest in lost:
            self._index.forget_pack(digest)
        return bool(lost)

    def _remember(self, digest: Digest, manifest: Manifest) -> Manifest:
        """Keep the last few: they never change, and each child of a snapshot looks at its own."""
        self._manifests[digest] = manifest
        while len(self._manifests) > 1 and (
            len(self._manifests) > _MANIFESTS_MAX
            or sum(map(_count, self._manifests.values())) > _MANIFEST_ENTRIES_MAX
        ):
            self._manifests.popitem(last=False)
        return manifest

    async def _manifest_of(self, reference: str | None) -> Manifest:
        if reference is None:
            return Manifest(image_digest="")
        return await self._read_manifest(await self._find(reference))

    async def _section(self, reference: str | None, section: str) -> dict[str, Entry]:
        manifest = await self._manifest_of(reference)
        return as_tree(manifest.sections.get(section, ()))

    async def _open_section(
        self, reference: str, section: str
    ) -> tuple[tuple[Entry, ...], Unpacker]:
        manifest = await self.manifest(reference)
        if section not in manifest.sections:
            raise SnapshotNotFoundError(f"{reference[:64]} holds no {section}")
        loop = asyncio.get_running_loop()

        def get(digest: Digest) -> bytes:
            return asyncio.run_coroutine_threadsafe(self.needed(digest), loop).result()

        return manifest.sections[section], Unpacker(manifest.packs, get)

    def _learn(self, manifest: Manifest) -> None:
        places = {
            chunk.digest: Place(
                manifest.packs[chunk.pack], chunk.offset, chunk.stored_bytes, chunk.raw_bytes
            )
            for entries in manifest.sections.values()
            for entry in entries
            for chunk in entry.chunks
        }
        self._index.add(places)

    async def _common_parent(self, records: list[SnapshotRecord]) -> SnapshotId | None:
        lines: list[list[SnapshotId]] = []
        for record in records:
            line, at = [record.id], record.parent
            while at is not None:
                line.append(at)
                at = (await self._find(at)).parent
            lines.append(line)
        for candidate in lines[0]:
            if all(candidate in line for line in lines[1:]):
                return candidate
        if all(record.parent is None for record in records):
            return None  # the image itself is what they share
        raise ConflictError(
            "these branches have no common parent", hint="merge only forks of one snapshot"
        )


def _rewind(sources: Mapping[str, Source]) -> None:
    for source in sources.values():
        if isinstance(source, (Path, Folder, Listed)):
            continue
        for tar in (part for _, part in source.parts) if isinstance(source, Tars) else (source,):
            tar.seek(0)


def _read(source: Source, packer: Packer, shift: int) -> tuple[Entry, ...]:
    if isinstance(source, Path):
        return from_directory(Folder(source, shift), packer)
    if isinstance(source, Folder):
        return from_directory(source, packer)
    if isinstance(source, Listed):
        return from_listed(source, packer)
    if isinstance(source, Tars):
        return from_tars(source, packer)
    return from_tar(source, packer)


def _count(manifest: Manifest) -> int:
    return sum(map(len, manifest.sections.values()))


def _read_all(entries: tuple[Entry, ...], unpacker: Unpacker) -> None:
    for entry in entries:
        for _ in unpacker.read(entry.chunks):
            pass
