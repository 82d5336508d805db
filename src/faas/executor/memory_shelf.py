"""Memory checkpoints on the disk of this machine, and their way into the store of snapshots.

    <data>/memory/<snapshot>/images/      what the runtime wrote of the processes
                             files/       what the sandbox wrote over what it stood on, read from
                                          its layer while the processes stood still
                             files.tar    or all its files as a tar, where it has no layer
                             entry.json   what it is; its presence makes it a snapshot
                             settled      it is in the store too: the folder is a cache from now on

A checkpoint is written aside and renamed into place: it exists whole or not at all, and from then
on it can be restored, also by the next gateway. Hashing, packing and uploading follow (`settle`);
what was not done when a gateway died is done by the next. The processes are root's work when they
are restored, so images that come back from the store are believed only with a seal made with this
gateway's key: nobody may bring processes of his own making.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from faas.blobs.digest import Digest
from faas.clock import Clock
from faas.errors import (
    DataLossError,
    FaasError,
    NotFoundError,
    SnapshotNotFoundError,
    UnsupportedError,
)
from faas.executor.background import Background
from faas.executor.files_state import capture, capture_places
from faas.executor.layers import Delta
from faas.executor.memory_seal import SEAL, check, not_ours, own_key, seal
from faas.executor.written import folder_of, settled_by
from faas.ids import SnapshotId, new_snapshot_id
from faas.model import RuntimeChoice
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import RootFilesystem
from faas.snapshots import SnapshotInfo, SnapshotRecord, SnapshotStore
from faas.snapshots.plain import plain_opened, write_plain

KEPT_MAX = 16
"""Folders of snapshots that are in the store too: a fork of one is not unpacked again."""

_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down beside a checkpoint."""

    record: SnapshotRecord
    info: SnapshotInfo
    alias: str | None = None
    over: SnapshotId | None = None
    """The snapshot that `files/` is over, until it is in the store."""
    replaces: SnapshotId | None = None
    """A snapshot that is needed no more once this one is in the store."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One checkpoint, ready to be restored."""

    images: Path
    tar: Path | None
    """Its files, where they are not made from layers."""


@dataclass(slots=True, eq=False)
class _Place:
    users: int = 0
    work: asyncio.Lock = field(default_factory=asyncio.Lock)


class MemoryShelf:
    """All memory checkpoints of one gateway; `recover` first."""

    def __init__(
        self,
        directory: Path,
        *,
        store: SnapshotStore,
        background: Background,
        clock: Clock,
        image: Callable[[str], RootFilesystem],
        places: Callable[[str, RootFilesystem], tuple[str, ...] | None],
        key: bytes = b"",
        is_synced: bool = False,
    ) -> None:
        self._directory = directory
        self._store = store
        self._background = background
        self._clock = clock
        self._image = image
        self._places_of = places
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = key or own_key(directory.parent / "memory.key")
        self._is_synced = is_synced
        self._places: dict[SnapshotId, _Place] = {}

    async def keep(
        self,
        sandbox: GuardedSandbox,
        root: RootFilesystem,
        info: SnapshotInfo,
        *,
        disk_bytes: int,
        snapshot_id: SnapshotId | None = None,
        alias: str | None = None,
        replaces: SnapshotId | None = None,
        before_going_on: Callable[[SnapshotRecord], Awaitable[None]] | None = None,
    ) -> SnapshotRecord:
        """Keep processes and files of a sandbox as a snapshot.

        Args:
            sandbox: made to keep memory.
            root: what it was made from.
            info: what is known of it.
            disk_bytes: what it may write.
            snapshot_id: minted here when not given.
            alias: another name that finds it.
            replaces: a snapshot that is removed when this one is in the store.
            before_going_on: awaited when it is durable, while the processes still stand still.

        Raises:
            UnsupportedError: it cannot be kept, and why; the processes run on.
        """
        minted = snapshot_id or new_snapshot_id()
        staged = self._directory / f".new-{minted}"
        (staged / "images").mkdir(parents=True, mode=0o700)
        try:
            async with (
                self._store.stood_on(sandbox.base) as is_there,
                sandbox.processes_taken(staged / "images"),
            ):
                if is_there or sandbox.base is None:
                    over = await self._take_files(sandbox, root, staged, disk_bytes)
                else:
                    over = await self._take_all_files(sandbox, root, staged)
                record = await self._record(staged, minted, info, alias)
                entry = _Entry(record=record, info=info, alias=alias, over=over, replaces=replaces)
                final = self._directory / minted
                await asyncio.to_thread(_finish, staged, final, entry, is_synced=self._is_synced)
                self._announce(entry)
                if before_going_on is not None:
                    await before_going_on(record)
        except BaseException:
            await asyncio.to_thread(partial(shutil.rmtree, staged, ignore_errors=True))
            raise
        return record

    async def _take_files(
        self, sandbox: GuardedSandbox, root: RootFilesystem, staged: Path, disk_bytes: int
    ) -> SnapshotId | None:
        """Read the files of a sandbox that stands still; return the snapshot they are over."""
        try:
            async with sandbox.look() as written:
                folder = folder_of(written, root, disk_bytes=disk_bytes)
                await asyncio.to_thread(write_plain, folder, staged / "files")
                return None if written.base is None else SnapshotId(written.base)
        except UnsupportedError:
            return await self._take_all_files(sandbox, root, staged)

    async def _take_all_files(
        self, sandbox: GuardedSandbox, root: RootFilesystem, staged: Path
    ) -> None:
        places = self._places_of(sandbox.runtime, root)
        if places is None:
            await capture(sandbox, root, staged / "files.tar")
        else:
            await capture_places(sandbox, places, staged / "files.tar")

    async def _record(
        self, staged: Path, minted: SnapshotId, info: SnapshotInfo, alias: str | None
    ) -> SnapshotRecord:
        size = await asyncio.to_thread(_size, staged)
        return SnapshotRecord(
            id=minted, tenant=info.tenant, manifest=Digest(""), created_at=self._clock.now(),
            name=info.name, description=info.description, tags=info.tags, parent=info.parent,
            source=alias or info.source, image=info.image, image_digest=info.image_digest,
            runtimes=info.runtimes, has_memory=True, size_bytes=size,
        )  # fmt: skip

    def config(self, snapshot_id: str) -> dict[str, str] | None:
        """What a restore needs besides files, where that is known without the store."""
        entry = self._entry(self._directory / snapshot_id)
        return None if entry is None else entry.info.config

    def has_files(self, snapshot_id: SnapshotId) -> bool:
        """Whether what a sandbox wrote is here."""
        return self._entry_of_files(snapshot_id) is not None

    @contextmanager
    def files_opened(self, snapshot_id: SnapshotId) -> Generator[Delta | None]:
        """Lend what a sandbox wrote for reading; None when it is not here."""
        entry = self._entry_of_files(snapshot_id)
        with ExitStack() as opened:
            delta = None
            if entry is not None:
                with suppress(FileNotFoundError):
                    files = self._directory / snapshot_id / "files"
                    delta = Delta(opened.enter_context(plain_opened(files)), entry.over)
            yield delta

    def _entry_of_files(self, snapshot_id: SnapshotId) -> _Entry | None:
        folder = self._directory / snapshot_id
        entry = self._entry(folder)
        if entry is None or not (folder / "files").is_dir():
            return None
        # The store has all of it by then, and what it is over may be gone.
        is_partial = entry.over is not None and (folder / "settled").exists()
        return None if is_partial else entry

    @asynccontextmanager
    async def lent(self, record: SnapshotRecord) -> AsyncGenerator[Kept]:
        """Lend a checkpoint for restoring; it stays while it is used.

        Raises:
            PermissionDeniedError: its images were not sealed by this gateway.
        """
        place = self._places.setdefault(record.id, _Place())
        folder = self._directory / record.id
        place.users += 1
        try:
            if not folder.is_dir():
                async with place.work:
                    if not folder.is_dir():
                        await self._fetch(record, folder)
            tar = folder / "files.tar"
            yield Kept(folder / "images", tar if tar.is_file() else None)
        finally:
            place.users -= 1
            self._background.spawn(self._trim())

    async def settle(self, snapshot_id: SnapshotId) -> None:
        """Bring a checkpoint into the store. Harmless when it is there."""
        folder = self._directory / snapshot_id
        place = self._places.setdefault(snapshot_id, _Place())
        place.users += 1
        try:
            async with place.work:
                entry = self._entry(folder)
                if entry is None or (folder / "settled").exists():
                    return
                made = await asyncio.to_thread(seal, self._key, folder / "images")
                info = msgspec.structs.replace(entry.info, config={**entry.info.config, SEAL: made})
                await self._commit(folder, msgspec.structs.replace(entry, info=info))
                if entry.replaces is not None:
                    with suppress(FaasError):
                        await self._store.remove(entry.replaces)
                (folder / "settled").touch()
        finally:
            place.users -= 1

    async def _commit(self, folder: Path, entry: _Entry) -> None:
        commit = partial(
            self._store.commit, entry.info, snapshot_id=entry.record.id, alias=entry.alias
        )
        with self.files_opened(entry.record.id) as delta:
            if delta is None:
                with (folder / "files.tar").open("rb") as files:
                    await commit({"files": files, "memory": folder / "images"})
                return
            settle = settled_by(self._image(entry.info.image_digest))
            async with self._store.held(delta.over) as below:
                if below is None and delta.over is not None:
                    raise SnapshotNotFoundError(f"{delta.over}, which it was written over, is gone")
                sources = {"files": delta.tree, "memory": folder / "images"}
                await commit(sources, over=below, settle=settle)

    async def recover(self) -> int:
        """Take up what a former gateway left; return how many checkpoints are to be settled."""
        waiting = 0
        for folder in sorted(self._directory.iterdir()):
            entry = None if folder.name.startswith(".") else self._entry(folder)
            if entry is None or ((folder / "settled").exists() and not await self._has(folder)):
                await asyncio.to_thread(partial(shutil.rmtree, folder, ignore_errors=True))
                continue
            for left in folder.glob(".*"):  # of restores that a dead gateway had begun
                await asyncio.to_thread(_remove, left)
            if not (folder / "settled").exists():
                waiting += 1
                self._announce(entry)
        return waiting

    def _announce(self, entry: _Entry) -> None:
        settle = partial(self.settle, entry.record.id)
        self._store.announce(entry.record, alias=entry.alias, over=entry.over, settle=settle)
        self._background.spawn(self._settle_later(entry.record.id))

    async def _settle_later(self, snapshot_id: SnapshotId) -> None:
        try:
            await self.settle(snapshot_id)
        except (FaasError, OSError):
            # It can be restored from here, and whoever needs it in the store tries again.
            _log.exception("a memory checkpoint did not reach the store")

    async def _fetch(self, record: SnapshotRecord, folder: Path) -> None:
        staged = self._directory / f".new-{record.id}"
        manifest = await self._store.manifest(record.id)
        if SEAL not in manifest.config:
            raise not_ours()
        (staged / "images").mkdir(parents=True, mode=0o700)
        try:
            await self._store.check_out(record.id, "memory", staged / "images")
            made = await asyncio.to_thread(seal, self._key, staged / "images")
            check(made, manifest.config[SEAL])
            info = SnapshotInfo(
                tenant=record.tenant, image_digest=record.image_digest, image=record.image,
                config=manifest.config,
            )  # fmt: skip
            entry = _Entry(record=record, info=info)
            (staged / "entry.json").write_bytes(msgspec.json.encode(entry))
            (staged / "settled").touch()
            staged.rename(folder)
        except BaseException:
            await asyncio.to_thread(partial(shutil.rmtree, staged, ignore_errors=True))
            raise

    async def _trim(self) -> None:
        folders = sorted(
            (path for path in self._directory.iterdir() if (path / "settled").exists()),
            key=lambda path: path.stat().st_mtime,
        )
        for folder in folders[: max(0, len(folders) - KEPT_MAX)]:
            place = self._places.get(SnapshotId(folder.name))
            if place is None or not place.users:
                self._places.pop(SnapshotId(folder.name), None)
                await asyncio.to_thread(partial(shutil.rmtree, folder, ignore_errors=True))

    async def _has(self, folder: Path) -> bool:
        with suppress(SnapshotNotFoundError, NotFoundError):
            await self._store.get(folder.name)
            return True
        return False

    def _entry(self, folder: Path) -> _Entry | None:
        try:
            return msgspec.json.decode((folder / "entry.json").read_bytes(), type=_Entry)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as damage:
            raise DataLossError("what is known of a memory checkpoint cannot be read") from damage


def runtime_for(memory: SnapshotRecord, asked: RuntimeChoice) -> RuntimeChoice:
    """Return the runtime that a memory checkpoint goes on in.

    Raises:
        UnsupportedError: the one asked for cannot restore it.
    """
    able = [choice for choice in RuntimeChoice if choice.value in memory.runtimes]
    if not able or asked in able:
        return asked
    if asked is RuntimeChoice.AUTO:
        return able[0]
    raise UnsupportedError(
        f"this memory was taken by the runtime {able[0].value} and cannot go on in {asked.value}",
        hint="leave the runtime out, or use the files only (memory: false)",
        details={"supported": list(memory.runtimes)},
    )


def _remove(left: Path) -> None:
    if left.is_dir():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _finish(staged: Path, final: Path, entry: _Entry, *, is_synced: bool) -> None:
    (staged / "entry.json").write_bytes(msgspec.json.encode(entry))
    if is_synced:
        _sync(staged)
    staged.rename(final)


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
