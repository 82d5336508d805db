"""Packing with many hands gives what packing with one gives, in bounded room."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from faas.blobs.digest import Digest, digest_of
from faas.errors import StoreUnavailableError
from faas.snapshots.chunks import ChunkIndex, Unpacker
from faas.snapshots.manifest import CHUNK_BYTES
from faas.snapshots.packer import PACK_BYTES, Packer


@pytest.fixture
def workers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Blobs:
    """Takes packs; the newest is stored only when the next one comes, or is waited for."""

    def __init__(self) -> None:
        self.kept: dict[Digest, bytes] = {}
        self.coming: list[Late] = []
        self.most = 0

    def put(self, data: bytes) -> Future[Digest]:
        late = Late(self, data)
        self.coming.append(late)
        self.most = max(self.most, len(self.coming))
        return late


class Late(Future[Digest]):
    def __init__(self, blobs: Blobs, data: bytes) -> None:
        super().__init__()
        self._blobs, self._data = blobs, data

    def result(self, timeout: float | None = None) -> Digest:
        if not self.done():
            digest = digest_of(self._data)
            self._blobs.kept[digest] = self._data
            self._blobs.coming.remove(self)
            self.set_result(digest)
        return super().result(timeout)


def packed(
    content: list[bytes], workers: ThreadPoolExecutor, pace: Callable[[], bool]
) -> tuple[Blobs, list[bytes], tuple[Digest, ...]]:
    blobs, index = Blobs(), ChunkIndex()
    packer = Packer(index, blobs.put, workers, pace=pace)
    added = [packer.add(io.BytesIO(data).read) for data in content]
    packs = packer.finish()
    packer.give_up()
    unpacker = Unpacker(packs, blobs.kept.__getitem__)
    assert [size for size, _ in added] == [len(data) for data in content]
    return blobs, [b"".join(unpacker.read(chunks)) for _, chunks in added], packs


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES, 8 * CHUNK_BYTES, 8 * CHUNK_BYTES + 1, 100 * CHUNK_BYTES + 7]
)
def test_content_of_any_length_comes_back(workers: ThreadPoolExecutor, size: int) -> None:
    content = [os.urandom(size), b"x", os.urandom(size)]
    assert packed(content, workers, lambda: True)[1] == content


def test_haste_changes_nothing_but_time(workers: ThreadPoolExecutor) -> None:
    content = [os.urandom(3 * PACK_BYTES), b"small", bytes(40 * CHUNK_BYTES)]
    turns = iter(range(1_000))
    ways = [lambda: True, lambda: False, lambda: next(turns) % 3 == 0]
    one, *others = (packed(content, workers, way) for way in ways)
    assert one[1] == content
    assert all((other[0].kept, other[2]) == (one[0].kept, one[2]) for other in others)


def test_no_more_than_two_packs_are_on_their_way(workers: ThreadPoolExecutor) -> None:
    blobs, _, packs = packed([os.urandom(6 * PACK_BYTES)], workers, lambda: True)
    assert (blobs.most, len(packs)) == (2, 6)


def test_what_is_not_stored_is_not_in_the_index(workers: ThreadPoolExecutor) -> None:
    failed: Future[Digest] = Future()
    failed.set_exception(StoreUnavailableError("full"))
    index = ChunkIndex()
    packer = Packer(index, lambda _: failed, workers)
    data = os.urandom(CHUNK_BYTES)
    packer.add(io.BytesIO(data).read)
    with pytest.raises(StoreUnavailableError):
        packer.finish()
    packer.give_up()
    assert index.find(hashlib.sha256(data).digest()) is None
