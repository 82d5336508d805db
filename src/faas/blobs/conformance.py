"""The suite every blob store must pass; subclass it and give it a `store` fixture."""

import asyncio

import pytest

from faas.blobs.digest import Digest, digest_of
from faas.blobs.protocol import BlobStore
from faas.errors import InvalidArgumentError, NotFoundError


class BlobStoreConformance:
    """Rules of `faas.blobs.protocol`, each a test."""

    @pytest.fixture
    async def store(self) -> BlobStore:
        """Override: an empty store."""
        raise RuntimeError("override the store fixture")

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000], ids=["0", "1", "1M"])
    async def test_what_is_put_comes_back(self, store: BlobStore, data: bytes) -> None:
        digest = await store.put(data)

        assert digest_of(data) == digest
        assert await store.get(digest) == data

    async def test_a_blob_that_is_not_there_is_not_found(self, store: BlobStore) -> None:
        missing = digest_of(b"never put")

        with pytest.raises(NotFoundError):
            await store.get(missing)
        with pytest.raises(NotFoundError):
            await store.get_range(missing, offset=0, length=1)
        assert await store.stat(missing) is None

    async def test_a_range_is_that_part(self, store: BlobStore) -> None:
        digest = await store.put(bytes(range(200)))

        assert await store.get_range(digest, offset=10, length=5) == bytes(range(10, 15))

    async def test_putting_twice_keeps_one(self, store: BlobStore) -> None:
        first, second = await store.put(b"same"), await store.put(b"same")

        assert first == second
        assert [s.digest async for s in store.list()] == [first]

    async def test_many_may_put_the_same_at_once(self, store: BlobStore) -> None:
        data = b"raced" * 10_000

        digests = await asyncio.gather(*(store.put(data) for _ in range(8)))

        assert set(digests) == {digest_of(data)}
        assert await store.get(digests[0]) == data

    async def test_the_list_is_sorted_and_complete(self, store: BlobStore) -> None:
        put = {await store.put(str(n).encode()) for n in range(30)}

        listed = [s.digest async for s in store.list()]

        assert listed == sorted(put)

    async def test_stat_tells_the_size(self, store: BlobStore) -> None:
        digest = await store.put(b"12345")

        stat = await store.stat(digest)

        assert stat is not None
        assert stat.size_bytes == 5

    async def test_deleting_is_final_and_harmless_twice(self, store: BlobStore) -> None:
        digest = await store.put(b"gone")

        await store.delete(digest)
        await store.delete(digest)

        assert await store.stat(digest) is None

    @pytest.mark.parametrize("name", ["../../etc/passwd", "sha256:../../../x", "sha256:AB", ""])
    async def test_a_name_that_is_no_digest_is_refused(self, store: BlobStore, name: str) -> None:
        with pytest.raises(InvalidArgumentError):
            await store.get(Digest(name))
