"""Blobs in a folder: `<root>/ab/<62 hex digits>`, written beside, synced, then moved into place.

A file under its final name is whole: it was synced before it was moved, and its folder after. What
a dead process left half-written is named `.new-…` and goes at the next `open`.

It has threads of its own: who waits for a blob may be a thread itself, and were they of one pool,
as many that wait as there are threads would wait for ever.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from faas.blobs.digest import Digest, check, digest_of, parse_digest
from faas.blobs.protocol import BlobStat
from faas.errors import NotFoundError, StoreUnavailableError

P = ParamSpec("P")
T = TypeVar("T")

_FANOUT = 2
_THREADS = 4
"""Two packs of one writer, and readers beside it; a disk is not quicker for more."""


class LocalBlobStore:
    """A folder on this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(_THREADS, "blobs")
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in root.glob("*/.new-*"):
            leftover.unlink(missing_ok=True)

    @property
    def name(self) -> str:
        return "local"

    async def put(self, data: bytes) -> Digest:
        return await self._off_loop(self._put, data)

    async def get(self, digest: Digest) -> bytes:
        return await self._off_loop(lambda: check(self._read(digest, 0, None), digest))

    async def get_range(self, digest: Digest, *, offset: int, length: int) -> bytes:
        return await self._off_loop(self._read, digest, offset, length)

    async def stat(self, digest: Digest) -> BlobStat | None:
        try:
            found = self._path(digest).stat()
        except FileNotFoundError:
            return None
        return BlobStat(digest, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    async def list(self) -> AsyncIterator[BlobStat]:
        for folder in sorted(self._root.iterdir()):
            for stat in await self._off_loop(_list_folder, folder):
                yield stat

    async def delete(self, digest: Digest) -> None:
        self._path(digest).unlink(missing_ok=True)

    async def aclose(self) -> None:
        """Let its threads end."""
        self._threads.shutdown(wait=False)

    async def _off_loop(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(work, *args, **kwargs))

    def _path(self, digest: Digest) -> Path:
        digits = parse_digest(digest).removeprefix("sha256:")
        return self._root / digits[:_FANOUT] / digits[_FANOUT:]

    def _read(self, digest: Digest, offset: int, length: int | None) -> bytes:
        try:
            with self._path(digest).open("rb") as blob:
                blob.seek(offset)
                return blob.read(-1 if length is None else length)
        except FileNotFoundError as cause:
            raise NotFoundError(f"no blob {digest}") from cause
        except OSError as cause:
            raise StoreUnavailableError(f"cannot read blob {digest}: {cause.strerror}") from cause

    def _put(self, data: bytes) -> Digest:
        digest = digest_of(data)
        path = self._path(digest)
        try:
            if path.exists():
                path.touch()  # a put renews what garbage collection looks at
                return digest
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True, mode=0o700)
                _sync_folder(self._root)
            staged = path.parent / f".new-{secrets.token_hex(8)}"
            try:
                _write_synced(staged, data)
                staged.rename(path)
            finally:
                staged.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as cause:
            raise StoreUnavailableError(
                f"cannot keep a blob of {len(data)} bytes: {cause.strerror}",
                hint="free some disk space, or set FAAS_DATA_DIR to a larger disk",
            ) from cause
        return digest


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as target:
        target.write(data)
        target.flush()
        os.fsync(target.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _list_folder(folder: Path) -> list[BlobStat]:
    stats: list[BlobStat] = []
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.name.startswith("."):
            continue
        found = entry.stat()
        digest = parse_digest(f"sha256:{folder.name}{entry.name}")
        stats.append(BlobStat(digest, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC)))
    return stats
