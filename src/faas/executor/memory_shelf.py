"""Memory checkpoints on the disk of this machine, and their way into the store of snapshots.

    <data>/memory/<snapshot>/images/      what the runtime wrote of the processes
                             files.tar    the files, read while the processes stood still
                             entry.json   what it is; its presence makes it a snapshot
                             settled      it is in the store too: the folder is a cache from now on

A checkpoint is written aside and renamed into place: it exists whole or not at all, and from then
on it can be restored, also by the next gateway. Hashing, packing and uploading follow (`settle`);
what was not done when a gateway died is done by the next. The processes are root's work when they
are restored, so images that come back from the store are believed only with a seal made with this
gateway's key: nobody may bring processes of his own making.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
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
    PermissionDeniedError,
    SnapshotNotFoundError,
)
from faas.executor.background import Background
from faas.executor.files_state import capture
from faas.ids import SnapshotId, new_snapshot_id
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import RootFilesystem
from faas.snapshots import SnapshotInfo, SnapshotRecord, SnapshotStore

KEPT_MAX = 16
"""Folders of snapshots that are in the store too: a fork of one is not unpacked again."""
SEAL = "memory_seal"
_KEY_BYTES = 32

_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down beside a checkpoint."""

    record: SnapshotRecord
    info: SnapshotInfo
    alias: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """One checkpoint, ready to be restored."""

    images: Path
    files: Path


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
        key: bytes = b"",
        is_synced: bool = False,
    ) -> None:
        self._directory = directory
        self._store = store
        self._background = background
        self._clock = clock
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = key or _own_key(directory.parent / "memory.key")
        self._is_synced = is_synced
        self._places: dict[SnapshotId, _Place] = {}

    async def keep(
        self,
        sandbox: GuardedSandbox,
        root: RootFilesystem,
        info: SnapshotInfo,
        *,
        snapshot_id: SnapshotId | None = None,
        alias: str | None = None,
        before_going_on: Callable[[SnapshotRecord], Awaitable[None]] | None = None,
    ) -> SnapshotRecord:
        """Keep processes and files of a sandbox as a snapshot.

        Args:
            sandbox: made to keep memory.
            root: what it was made from.
            info: what is known of it.
            snapshot_id: minted here when not given.
            alias: another name that finds it.
            before_going_on: awaited when it is durable, while the processes still stand still.

        Raises:
            UnsupportedError: it cannot be kept, and why; the processes run on.
        """
        minted = snapshot_id or new_snapshot_id()
        staged = self._directory / f".new-{minted}"
        (staged / "images").mkdir(parents=True, mode=0o700)
        try:
            async with sandbox.processes_taken(staged / "images"):
                await capture(sandbox, root, staged / "files.tar")
                record = await self._put_in_place(staged, minted, info, alias)
                if before_going_on is not None:
                    await before_going_on(record)
        except BaseException:
            await asyncio.to_thread(partial(shutil.rmtree, staged, ignore_errors=True))
            raise
        return record

    async def _put_in_place(
        self, staged: Path, minted: SnapshotId, info: SnapshotInfo, alias: str | None
    ) -> SnapshotRecord:
        size = await asyncio.to_thread(_size, staged)
        record = SnapshotRecord(
            id=minted, tenant=info.tenant, manifest=Digest(""), created_at=self._clock.now(),
            name=info.name, description=info.description, tags=info.tags, parent=info.parent,
            source=alias or info.source, image=info.image, image_digest=info.image_digest,
            runtimes=info.runtimes, has_memory=True, size_bytes=size,
        )  # fmt: skip
        entry = _Entry(record=record, info=info, alias=alias)
        final = self._directory / minted
        await asyncio.to_thread(_finish, staged, final, entry, is_synced=self._is_synced)
        self._announce(entry)
        return record

    def config(self, snapshot_id: str) -> dict[str, str] | None:
        """What a restore needs besides files, where that is known without the store."""
        entry = self._entry(self._directory / snapshot_id)
        return None if entry is None else entry.info.config

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
            yield Kept(folder / "images", folder / "files.tar")
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
                seal = await asyncio.to_thread(_seal, self._key, folder / "images")
                info = msgspec.structs.replace(entry.info, config={**entry.info.config, SEAL: seal})
                with (folder / "files.tar").open("rb") as files:
                    sources = {"files": files, "memory": folder / "images"}
                    await self._store.commit(
                        info, sources, snapshot_id=snapshot_id, alias=entry.alias
                    )
                (folder / "settled").touch()
        finally:
            place.users -= 1

    async def recover(self) -> int:
        """Take up what a former gateway left; return how many checkpoints are to be settled."""
        waiting = 0
        for folder in sorted(self._directory.iterdir()):
            entry = None if folder.name.startswith(".") else self._entry(folder)
            if entry is None or ((folder / "settled").exists() and not await self._has(folder)):
                await asyncio.to_thread(partial(shutil.rmtree, folder, ignore_errors=True))
                continue
            for copy in folder.glob(".*"):  # of restores that a dead gateway had begun
                await asyncio.to_thread(partial(shutil.rmtree, copy, ignore_errors=True))
            if not (folder / "settled").exists():
                waiting += 1
                self._announce(entry)
        return waiting

    def _announce(self, entry: _Entry) -> None:
        settle = partial(self.settle, entry.record.id)
        self._store.announce(entry.record, alias=entry.alias, settle=settle)
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
            raise _not_ours()
        (staged / "images").mkdir(parents=True, mode=0o700)
        try:
            await self._store.check_out(record.id, "memory", staged / "images")
            with (staged / "files.tar").open("wb") as sink:
                await self._store.write_tar(record.id, "files", sink)
            seal = await asyncio.to_thread(_seal, self._key, staged / "images")
            _check(seal, manifest.config[SEAL])
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


def _not_ours() -> FaasError:
    return PermissionDeniedError(
        "the memory of this snapshot was not taken by this gateway",
        hint="restore its files only (memory: false), or give both gateways one memory_key",
    )


def _check(made: str, told: str) -> None:
    if not hmac.compare_digest(made, told):
        raise _not_ours()


def _own_key(path: Path) -> bytes:
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


def _seal(key: bytes, images: Path) -> str:
    """Sign every image by name and content."""
    names: list[tuple[str, str]] = []
    for path in sorted(images.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            names.append((str(path.relative_to(images)), digest))
    return hmac.new(key, json.dumps(names).encode(), "sha256").hexdigest()


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
