"""Every blob store passes the same suite: memory, folder, two tiers, and a real S3 server."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from faas.blobs.conformance import BlobStoreConformance
from faas.blobs.digest import digest_of
from faas.blobs.fake import FakeBlobStore, Fault
from faas.blobs.local import LocalBlobStore
from faas.blobs.protocol import BlobStore
from faas.blobs.tiered import TieredBlobStore
from faas.blobs.urls import open_store
from faas.errors import DigestMismatchError, InvalidConfigError, StoreUnavailableError

AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = shutil.which("moto_server") or str(Path(sys.executable).parent / "moto_server")
    process = subprocess.Popen(
        [server, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(endpoint, timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield endpoint
    finally:
        process.terminate()
        process.wait(10)


class TestS3(BlobStoreConformance):
    @pytest.fixture
    async def store(self, s3_endpoint: str, tmp_path: Path) -> BlobStore:
        bucket = f"faas-{abs(hash(tmp_path)) % 10**9}"
        request = urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT")
        urllib.request.urlopen(request, timeout=5).close()
        url = f"s3://{bucket}/some/prefix?endpoint={s3_endpoint}"
        store = open_store(tmp_path, url=url, aws=AWS)
        assert isinstance(store, TieredBlobStore)
        return store.far

    async def test_another_gateway_with_the_same_bucket_reads_it(
        self, s3_endpoint: str, tmp_path: Path
    ) -> None:
        urllib.request.urlopen(
            urllib.request.Request(f"{s3_endpoint}/shared", method="PUT"), timeout=5
        ).close()
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


@pytest.mark.parametrize("url", ["ftp://x", "s3://", "s3://b?colour=red"])
def test_a_url_that_names_no_store_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError):
        open_store(tmp_path, url=url)
