"""Every blob store passes the same suite: memory, folder, two tiers, and a real S3 server."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.plugins.s3 import AWS, FaultyProxy, make_bucket, s3_server
from tests.plugins.s3 import Fault as S3Fault

from faas.blobs.conformance import BlobStoreConformance
from faas.blobs.digest import digest_of
from faas.blobs.fake import FakeBlobStore, Fault
from faas.blobs.local import LocalBlobStore
from faas.blobs.protocol import BlobStore
from faas.blobs.tiered import TieredBlobStore
from faas.blobs.urls import open_store
from faas.errors import (
    DataLossError,
    DigestMismatchError,
    InvalidConfigError,
    StoreUnavailableError,
)


class TestFake(BlobStoreConformance):
    @pytest.fixture
    async def store(self) -> BlobStore:
        return FakeBlobStore()


class TestLocal(BlobStoreConformance):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> BlobStore:
        return LocalBlobStore(tmp_path / "blobs")

    async def test_a_damaged_blob_is_never_served(self, tmp_path: Path) -> None:
        store = LocalBlobStore(tmp_path)
        digest = await store.put(b"precious")
        next(p for p in tmp_path.rglob("*") if p.is_file()).write_bytes(b"spoiled!")

        with pytest.raises(DigestMismatchError):
            await store.get(digest)

    async def test_what_a_dead_process_left_half_written_goes(self, tmp_path: Path) -> None:
        (tmp_path / "ab").mkdir()
        (tmp_path / "ab" / ".new-0011").write_bytes(b"half")

        store = LocalBlobStore(tmp_path)

        assert [s async for s in store.list()] == []
        assert not (tmp_path / "ab" / ".new-0011").exists()

    async def test_a_full_disk_is_a_clear_error_and_leaves_nothing(self, tmp_path: Path) -> None:
        full = tmp_path / "full"
        full.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full], check=True)
        try:
            store = LocalBlobStore(full / "blobs")
            with pytest.raises(StoreUnavailableError):
                await store.put(b"x" * 200_000)
            assert [s async for s in store.list()] == []
            await store.put(b"small")
        finally:
            subprocess.run(["umount", full], check=True)


class TestTiered(BlobStoreConformance):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> BlobStore:
        return TieredBlobStore(LocalBlobStore(tmp_path), FakeBlobStore())

    async def test_a_blob_only_far_away_is_fetched_once_and_kept(self) -> None:
        near, far = FakeBlobStore(), FakeBlobStore()
        digest = await far.put(b"far")
        store = TieredBlobStore(near, far)

        assert await store.get(digest) == b"far"
        assert await store.get(digest) == b"far"

        assert far.calls.count("get") == 1
        assert await near.stat(digest) is not None

    async def test_put_is_acknowledged_only_when_it_is_far_too(self) -> None:
        far = FakeBlobStore(faults=[Fault.UNREACHABLE, Fault.LOST_ANSWER, None])
        store = TieredBlobStore(FakeBlobStore(), far)

        digest = await store.put(b"x")

        assert await far.stat(digest) is not None
        assert store.pending() == frozenset()

    async def test_wrong_bytes_from_afar_are_never_served_nor_kept(self) -> None:
        near, far = FakeBlobStore(), FakeBlobStore()
        digest = await far.put(b"right")
        far.faults = [Fault.WRONG_BYTES]
        store = TieredBlobStore(near, far)

        with pytest.raises(DigestMismatchError):
            await store.get(digest)

        assert await near.stat(digest) is None


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server on loopback."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(s3_endpoint)
    yield proxy
    proxy.close()


def bucket_url(server: str, tmp_path: Path, *, through: str | None = None) -> str:
    """The address of a bucket nobody else uses."""
    bucket = f"faas-{abs(hash(tmp_path)) % 10**9}"
    make_bucket(server, bucket)
    return f"s3://{bucket}/some/prefix?endpoint={through or server}"


def far_of(store: BlobStore) -> BlobStore:
    assert isinstance(store, TieredBlobStore)
    return store.far


class TestS3(BlobStoreConformance):
    @pytest.fixture
    async def store(self, s3_endpoint: str, tmp_path: Path) -> BlobStore:
        return far_of(open_store(tmp_path, url=bucket_url(s3_endpoint, tmp_path), aws=AWS))

    async def test_another_gateway_with_the_same_bucket_reads_it(
        self, s3_endpoint: str, tmp_path: Path
    ) -> None:
        make_bucket(s3_endpoint, "shared")
        url = f"s3://shared?endpoint={s3_endpoint}"
        first = open_store(tmp_path / "a", url=url, aws=AWS)
        second = open_store(tmp_path / "b", url=url, aws=AWS)

        digest = await first.put(b"travels")

        assert await second.get(digest) == b"travels"
        assert digest == digest_of(b"travels")

    async def test_a_server_that_is_not_there_is_unavailable(self, tmp_path: Path) -> None:
        url = "s3://bucket?endpoint=http://127.0.0.1:9"
        store = open_store(tmp_path, url=url, aws=AWS)
        assert isinstance(store, TieredBlobStore)

        with pytest.raises(StoreUnavailableError):
            await store.far.put(b"x")


class TestS3WithFaults(BlobStoreConformance):
    """The same suite while one request in three is slow, refused, lost, cut or falsified."""

    @pytest.fixture
    async def store(
        self, s3_endpoint: str, proxy: FaultyProxy, tmp_path: Path, request: pytest.FixtureRequest
    ) -> BlobStore:
        proxy.dice = random.Random(request.node.name)
        url = bucket_url(s3_endpoint, tmp_path, through=proxy.endpoint)
        return far_of(open_store(tmp_path, url=url, aws=AWS))


class TestS3Faults:
    @pytest.fixture
    async def store(self, s3_endpoint: str, proxy: FaultyProxy, tmp_path: Path) -> TieredBlobStore:
        url = bucket_url(s3_endpoint, tmp_path, through=proxy.endpoint)
        store = open_store(tmp_path / "near", url=url, aws=AWS)
        assert isinstance(store, TieredBlobStore)
        return store

    async def test_wrong_bytes_are_never_served_nor_kept(
        self, store: TieredBlobStore, proxy: FaultyProxy
    ) -> None:
        digest = await store.far.put(b"right" * 1000)
        proxy.always = S3Fault.WRONG

        with pytest.raises(DataLossError):
            await store.get(digest)

        assert await store.near.stat(digest) is None
        proxy.always = None
        assert await store.get(digest) == b"right" * 1000

    async def test_one_wrong_answer_is_asked_again(
        self, store: TieredBlobStore, proxy: FaultyProxy
    ) -> None:
        digest = await store.far.put(b"right" * 1000)
        proxy.faults.append(S3Fault.WRONG)

        assert await store.get(digest) == b"right" * 1000
        assert proxy.seen[S3Fault.WRONG] == 1

    @pytest.mark.parametrize("fault", [S3Fault.CUT, S3Fault.REFUSED])
    async def test_what_cannot_be_read_is_unavailable_and_comes_back(
        self, store: TieredBlobStore, proxy: FaultyProxy, fault: S3Fault
    ) -> None:
        digest = await store.far.put(b"x" * 100_000)
        proxy.always = fault

        with pytest.raises(StoreUnavailableError):
            await store.get(digest)

        proxy.always = None
        assert await store.get(digest) == b"x" * 100_000

    async def test_an_upload_is_acknowledged_after_its_answer_was_lost(
        self, store: TieredBlobStore, proxy: FaultyProxy
    ) -> None:
        proxy.faults.extend([S3Fault.LOST] * 3)

        digest = await store.put(b"kept")

        proxy.faults.clear()
        assert await store.far.get(digest) == b"kept"

    async def test_an_upload_that_cannot_be_made_is_not_acknowledged(
        self, store: TieredBlobStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("faas.blobs.tiered._FIRST_PAUSE_SECONDS", 0.001)
        monkeypatch.setattr("faas.blobs.tiered._TRIES_MAX", 2)
        proxy.always = S3Fault.REFUSED

        with pytest.raises(StoreUnavailableError):
            await store.put(b"not yet")

        proxy.always = None
        digest = await store.put(b"not yet")
        assert await store.far.get(digest) == b"not yet"

    async def test_a_damaged_near_copy_is_healed_from_afar(
        self, store: TieredBlobStore, tmp_path: Path
    ) -> None:
        digest = await store.put(b"precious")
        [blob] = [path for path in (tmp_path / "near").rglob("*") if path.is_file()]
        blob.write_bytes(b"spoiled!")

        assert await store.get(digest) == b"precious"
        assert await store.near.get(digest) == b"precious"

    async def test_uploads_that_a_dead_gateway_left_are_made_up_for(
        self, store: TieredBlobStore, proxy: FaultyProxy
    ) -> None:
        digest = await store.near.put(b"only here")

        await store.catch_up()

        assert await store.far.get(digest) == b"only here"


async def test_a_damaged_only_copy_is_data_loss(tmp_path: Path) -> None:
    store = TieredBlobStore(LocalBlobStore(tmp_path), FakeBlobStore())
    digest = await store.near.put(b"precious")
    [blob] = [path for path in tmp_path.rglob("*") if path.is_file()]
    blob.write_bytes(b"spoiled!")

    with pytest.raises(DataLossError):
        await store.get(digest)


@pytest.mark.parametrize("url", ["ftp://x", "s3://", "s3://b?colour=red"])
def test_a_url_that_names_no_store_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError):
        open_store(tmp_path, url=url)
