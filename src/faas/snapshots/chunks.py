"""Content as chunks in packs: each chunk is stored once, however many snapshots hold it.

New chunks are gathered into packs (`packer`); a pack is one blob. Which chunk lies where is known
from the manifests; the SQLite index beside them is a cache of that, and is made anew from them when
it is lost. All of this blocks, and is called from any thread.
"""

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

from faas.blobs.digest import Digest
from faas.errors import DigestMismatchError
from faas.snapshots.manifest import Chunk

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunk (
  digest BLOB PRIMARY KEY, pack TEXT NOT NULL, offset INTEGER NOT NULL,
  stored INTEGER NOT NULL, raw INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chunk_pack ON chunk (pack);
"""


class Place(NamedTuple):
    """Where a chunk lies."""

    pack: Digest
    offset: int
    stored_bytes: int
    raw_bytes: int


class ChunkIndex:
    """Which chunks are stored, and where. One thread at a time has the database."""

    def __init__(self, path: Path | None = None) -> None:
        self._turn = threading.Lock()
        self._db = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def find(self, digest: bytes) -> Place | None:
        """Where that chunk lies, if it is stored."""
        with self._turn:
            row = self._db.execute(
                "SELECT pack, offset, stored, raw FROM chunk WHERE digest = ?", (digest,)
            ).fetchone()
        return Place(*row) if row else None

    def add(self, places: dict[bytes, Place]) -> None:
        """Remember chunks that are stored now."""
        with self._turn, self._db:
            self._db.executemany(
                "INSERT OR IGNORE INTO chunk VALUES (?, ?, ?, ?, ?)",
                [(digest, *place) for digest, place in places.items()],
            )

    def forget_pack(self, pack: Digest) -> None:
        """Forget every chunk of a pack, before the pack itself goes."""
        with self._turn, self._db:
            self._db.execute("DELETE FROM chunk WHERE pack = ?", (pack,))

    def is_empty(self) -> bool:
        """Whether nothing is known: made anew then."""
        with self._turn:
            return self._db.execute("SELECT 1 FROM chunk LIMIT 1").fetchone() is None

    def close(self) -> None:
        """Close the database."""
        with self._turn:
            self._db.close()


class Unpacker:
    """Reads chunks back, one pack in memory at a time, each chunk checked."""

    def __init__(self, packs: tuple[Digest, ...], get: Callable[[Digest], bytes]) -> None:
        self._packs = packs
        self._get = get
        self._decompress = zstandard.ZstdDecompressor()
        self._held: dict[int, bytes] = {}

    def read(self, chunks: tuple[Chunk, ...]) -> Iterator[bytes]:
        """Yield the raw bytes of each chunk.

        Raises:
            DigestMismatchError: the pack holds something else there; it is never served.
        """
        for chunk in chunks:
            yield unpacked(self._pack(chunk.pack), chunk, self._decompress)

    def _pack(self, number: int) -> bytes:
        if number not in self._held:
            if len(self._held) >= 8:  # noqa: PLR2004  64 MiB of packs at the most
                self._held.pop(next(iter(self._held)))
            self._held[number] = self._get(self._packs[number])
        return self._held[number]


def unpacked(pack: bytes, chunk: Chunk, decompress: zstandard.ZstdDecompressor) -> bytes:
    """The raw bytes of one chunk of a pack.

    Raises:
        DigestMismatchError: something else lies there; it is never served.
    """
    stored = pack[chunk.offset : chunk.offset + chunk.stored_bytes]
    try:
        # A frame decides itself how much memory is taken for it: look before it is unpacked.
        if zstandard.frame_content_size(stored) != chunk.raw_bytes:
            raise DigestMismatchError("a stored chunk is not as long as it must be")
        data = decompress.decompress(stored)
    except zstandard.ZstdError as cause:
        raise DigestMismatchError("a stored chunk cannot be unpacked") from cause
    if hashlib.sha256(data).digest() != chunk.digest:
        raise DigestMismatchError("a stored chunk does not match its digest")
    return data
