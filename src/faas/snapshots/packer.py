"""Takes content in: chunks that are new are compressed and gathered into packs of about 8 MiB.

Reading, hashing and compressing, and storing go on at once. A long file is read ahead by a few
batches, which workers hash and compress while the next is read; a full pack is stored while the
next is filled. What is read, compressed and stored at once is bounded, so that a file of any length
takes the same memory. Chunks are numbered in the order they were read, whoever was quicker.

A pack is in the index only when it is stored: whoever finds a chunk there may name it.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import NamedTuple

import zstandard

from faas.blobs.digest import Digest
from faas.snapshots.chunks import ChunkIndex, Place
from faas.snapshots.manifest import CHUNK_BYTES, Chunk

PACK_BYTES = 8 << 20
"""Large enough that 5,000 small files are a handful of blobs, small enough to upload in one go."""
_LEVEL = 1
"""Measured: level 3 took 1.8 times as long for no smaller result on process memory."""
_BATCH_CHUNKS = 8
"""Half a MiB: handing work to a thread costs as much as hashing one chunk."""
_BATCHES_MAX = 6
"""Read ahead: two workers have one each, and the next ones lie ready."""
_STORING_MAX = 2
"""Packs on their way at once: one is hashed while the disk syncs the other."""


Pace = Callable[[], bool]
"""Asked before each half MiB, in the thread that packs, which it may hold up for a moment. False:
nobody waits for the snapshot, so take one thread only."""


def in_haste() -> bool:
    """Somebody waits for it."""
    return True


class _Read(NamedTuple):
    """One chunk that was read: where it is stored already, or its compressed bytes."""

    digest: bytes
    raw_bytes: int
    place: Place | None
    stored: bytes | None
    """None when it is known already."""


@dataclass(frozen=True, slots=True)
class _Storing:
    number: int
    places: dict[bytes, tuple[int, int, int]]
    name: Future[Digest]


class Packer:
    """Turns content into chunks, storing what is new.

    Args:
        index: what is stored already; told of what is new.
        put: begins to store a pack.
        workers: hash and compress. They must not wait for anything themselves.
        pace: asked before each piece of work.
    """

    def __init__(
        self,
        index: ChunkIndex,
        put: Callable[[bytes], Future[Digest]],
        workers: Executor,
        *,
        pace: Pace = in_haste,
    ) -> None:
        self._pace = pace
        self._haste = False
        self._since_asked = 0
        self._index = index
        self._put = put
        self._workers = workers
        self._idle: list[zstandard.ZstdCompressor] = []
        """For one thread at a time; making one costs more than compressing a small file."""
        self._packs: dict[Digest, int] = {}
        self._names: list[Digest | None] = []
        self._open: list[bytes] = []
        self._open_bytes = 0
        self._open_number = -1
        self._new: dict[bytes, tuple[int, int, int]] = {}
        self._found: dict[bytes, Chunk] = {}
        self._storing: deque[_Storing] = deque()
        self.stored_bytes = 0

    def add(self, read: Callable[[int], bytes]) -> tuple[int, tuple[Chunk, ...]]:
        """Read to the end; return the size and the chunks."""
        batch, is_end = _next_batch(read)
        if is_end:  # as most files are: not worth a thread
            self._is_hasty(len(batch))
            return sum(map(len, batch)), tuple(map(self._chunk, self._prepare(batch)))
        chunks: list[Chunk] = []
        size = 0
        ahead: deque[Future[list[_Read]]] = deque()
        while batch:
            size += sum(map(len, batch))
            if self._is_hasty(len(batch)):
                ahead.append(self._workers.submit(self._prepare, batch))
            else:
                ahead.append(_done(self._prepare(batch)))
            if len(ahead) >= _BATCHES_MAX:
                chunks += map(self._chunk, ahead.popleft().result())
            batch, is_end = ([], True) if is_end else _next_batch(read)
        for prepared in ahead:
            chunks += map(self._chunk, prepared.result())
        return size, tuple(chunks)

    def finish(self) -> tuple[Digest, ...]:
        """Store what is still open and return the packs that the chunks' numbers mean."""
        self._flush()
        while self._storing:
            self._stored()
        return tuple(name for name in self._names if name is not None)

    def give_up(self) -> None:
        """Wait for what is on its way; nothing is named. Harmless after `finish`."""
        wait([storing.name for storing in self._storing])

    def _is_hasty(self, chunks: int) -> bool:
        """Ask the pace, but not for each small file."""
        self._since_asked += chunks
        if self._since_asked >= _BATCH_CHUNKS:
            self._since_asked = 0
            self._haste = self._pace()
        return self._haste

    def _prepare(self, batch: Iterable[bytes]) -> list[_Read]:
        """Hash, and compress what is new; in any thread."""
        try:
            compressor = self._idle.pop()
        except IndexError:
            compressor = zstandard.ZstdCompressor(level=_LEVEL)
        prepared: list[_Read] = []
        for data in batch:
            digest = hashlib.sha256(data).digest()
            is_found = digest in self._found
            place = None if is_found else self._index.find(digest)
            is_new = not is_found and place is None
            stored = compressor.compress(data) if is_new else None
            prepared.append(_Read(digest, len(data), place, stored))
        self._idle.append(compressor)
        return prepared

    def _chunk(self, read: _Read) -> Chunk:
        known = self._found.get(read.digest)
        if known is None:
            known = self._reuse(read.digest, read.place) if read.place else self._store(read)
            self._found[read.digest] = known
        return known

    def _reuse(self, digest: bytes, place: Place) -> Chunk:
        number = self._packs.get(place.pack)
        if number is None:
            number = self._packs[place.pack] = len(self._names)
            self._names.append(place.pack)
        return Chunk(digest, number, place.offset, place.stored_bytes, place.raw_bytes)

    def _store(self, read: _Read) -> Chunk:
        assert read.stored is not None  # noqa: S101  what is neither found nor placed is compressed
        if self._open_number < 0:
            self._open_number = len(self._names)
            self._names.append(None)
        chunk = Chunk(
            read.digest, self._open_number, self._open_bytes, len(read.stored), read.raw_bytes
        )
        self._new[read.digest] = (chunk.offset, chunk.stored_bytes, chunk.raw_bytes)
        self._open.append(read.stored)
        self._open_bytes += len(read.stored)
        self.stored_bytes += len(read.stored)
        if self._open_bytes >= PACK_BYTES:
            self._flush()
        return chunk

    def _flush(self) -> None:
        if self._open_number < 0:
            return
        while len(self._storing) >= _STORING_MAX:
            self._stored()
        name = self._put(b"".join(self._open))
        self._storing.append(_Storing(self._open_number, self._new, name))
        self._open, self._open_bytes = [], 0
        self._new, self._open_number = {}, -1

    def _stored(self) -> None:
        """Wait for the oldest pack under way; from then on others may find what is in it."""
        pack = self._storing[0]
        name = pack.name.result()
        self._storing.popleft()
        self._names[pack.number] = name
        self._index.add({digest: Place(name, *place) for digest, place in pack.places.items()})


def _done(prepared: list[_Read]) -> Future[list[_Read]]:
    done: Future[list[_Read]] = Future()
    done.set_result(prepared)
    return done


def _next_batch(read: Callable[[int], bytes]) -> tuple[list[bytes], bool]:
    """Read some chunks; the flag says that they are the last."""
    batch: list[bytes] = []
    while len(batch) < _BATCH_CHUNKS:
        data = read(CHUNK_BYTES)
        if not data:
            return batch, True
        batch.append(data)
    return batch, False
