"""A snapshot as a file: whole both ways in bounded memory, and nothing of a bad one is believed."""

import hashlib
import io
import os
import tarfile
import tracemalloc
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import zstandard

from faas.blobs.digest import digest_of
from faas.blobs.local import LocalBlobStore
from faas.blobs.refs import LocalRefStore
from faas.clock import FakeClock
from faas.errors import DataLossError, InvalidArgumentError, SnapshotNotFoundError
from faas.ids import SnapshotId, TenantId
from faas.snapshots import FORKED, SnapshotInfo, SnapshotStore, exported, import_snapshot
from faas.snapshots import manifest as manifests
from faas.snapshots.manifest import Chunk, Entry, EntryKind, Manifest
from faas.snapshots.packer import PACK_BYTES

TENANT = TenantId("t")
INFO = SnapshotInfo(tenant=TENANT, image_digest="host")
MIB = 1 << 20
ALL = timedelta(days=-40_000)
"""A grace that spares nothing: files have the real time, the clock here has not."""


def open_store(root: Path) -> SnapshotStore:
    blobs, refs = LocalBlobStore(root / "blobs"), LocalRefStore(root / "refs")
    return SnapshotStore(blobs=blobs, refs=refs, clock=FakeClock(), index=None)


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return open_store(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> SnapshotStore:
    return open_store(tmp_path / "other")


def folder(root: Path, **files: bytes) -> Path:
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


async def kept(store: SnapshotStore, root: Path, **files: bytes) -> SnapshotId:
    return (await store.commit(INFO, {"files": folder(root, **files)})).id


async def file_of(store: SnapshotStore, reference: str) -> bytes:
    async with exported(store, reference) as file:
        data = b"".join([piece async for piece in file.pieces])
        assert len(data) == file.size_bytes
    return data


async def pieces_of(data: bytes, length: int = 100_000) -> AsyncGenerator[bytes]:
    for at in range(0, len(data), length):
        yield data[at : at + length]


def tar_of(*members: tuple[str, bytes]) -> bytes:
    """As the files of earlier versions are, padded to whole records."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def members_of(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]


async def test_exported_and_imported_it_is_the_same(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path
) -> None:
    made = await kept(store, tmp_path / "in", x=os.urandom(200_000), empty=b"")

    taken = await import_snapshot(other, pieces_of(await file_of(store, made)), tenant=TENANT)

    assert taken.manifest == (await store.get(made)).manifest
    assert taken.id != made
    await other.check_out(taken.id, "files", tmp_path / "out")
    assert (tmp_path / "out/x").read_bytes() == (tmp_path / "in/x").read_bytes()


@pytest.mark.parametrize("length", [1, 511, 512, 10_000_000])
async def test_the_pieces_may_be_of_any_length(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path, length: int
) -> None:
    data = await file_of(store, await kept(store, tmp_path / "in", x=b"small"))
    taken = await import_snapshot(other, pieces_of(data, length), tenant=TENANT)
    await other.verify(taken.id)


async def test_a_file_of_an_earlier_version_is_taken_in(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path
) -> None:
    data = await file_of(store, await kept(store, tmp_path / "in", x=b"small"))
    taken = await import_snapshot(other, pieces_of(tar_of(*members_of(data))), tenant=TENANT)
    await other.verify(taken.id)


async def test_it_passes_in_bounded_memory_both_ways(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path
) -> None:
    size = 12 * PACK_BYTES
    made = await kept(store, tmp_path / "in", x=os.urandom(size))
    tracemalloc.start()
    try:
        async with exported(store, made) as file:
            taken = await import_snapshot(other, file.pieces, tenant=TENANT)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert taken.size_bytes == size
    assert most < size / 2
    await other.verify(taken.id)


@pytest.mark.parametrize("cut", [0, 100, 512, 3000, 60_000, -1025, -1024])
async def test_a_cut_file_is_not_taken_in(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path, cut: int
) -> None:
    data = await file_of(store, await kept(store, tmp_path / "in", x=os.urandom(90_000)))

    with pytest.raises(InvalidArgumentError):
        await import_snapshot(other, pieces_of(data[:cut]), tenant=TENANT)

    assert await other.page() == []


async def test_a_damaged_byte_anywhere_is_found(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path
) -> None:
    data = await file_of(store, await kept(store, tmp_path / "in", x=os.urandom(5_000)))
    places = members_of(data)
    for number, (name, content) in enumerate(places):
        if name == "record.json":  # what it says and we believe has no digest: name, tags
            continue
        spoiled = bytes([content[0] ^ 1]) + content[1:]
        bad = [*places[:number], (name, spoiled), *places[number + 1 :]]
        with pytest.raises(InvalidArgumentError):
            await import_snapshot(other, pieces_of(tar_of(*bad)), tenant=TENANT)
    assert await other.page() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members[1:],
        lambda members: members[:-1],
        lambda members: [*members, members[-1]],
        lambda members: [*members, ("etc/passwd", b"x")],
        lambda members: [*members, (members[-1][0][:-1] + "x", b"x")],
        lambda members: [members[0], members[2], members[1], *members[3:]],
        lambda members: [("faas-snapshot", b"9\n"), *members[1:]],
        lambda members: [*members[:1], ("record.json", b"{}"), *members[2:]],
        lambda members: [*members[:3], (members[3][0], bytes(3 * PACK_BYTES))],
        lambda _: [],
    ],
)
async def test_a_file_of_another_make_is_refused(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path, change: object
) -> None:
    data = await file_of(store, await kept(store, tmp_path / "in", x=b"content"))
    bad = tar_of(*change(members_of(data)))  # type: ignore[operator]

    with pytest.raises(InvalidArgumentError):
        await import_snapshot(other, pieces_of(bad), tenant=TENANT)

    assert await other.page() == []


def made_up(pack: bytes, chunk: Chunk) -> bytes:
    """A file whose manifest says that this chunk lies in that pack."""
    entry = Entry("x", EntryKind.FILE, 0o644, size_bytes=chunk.raw_bytes, chunks=(chunk,))
    manifest = Manifest(image_digest="host", packs=(digest_of(pack),), sections={"files": (entry,)})
    data = manifests.encode(manifest)
    record = {"manifest": digest_of(data), "created_at": datetime.now(UTC)}
    return tar_of(
        ("faas-snapshot", b"1\n"),
        ("record.json", msgspec.json.encode(record)),
        ("manifest", data),
        ("packs/" + digest_of(pack).removeprefix("sha256:"), pack),
    )


async def test_a_lie_about_a_chunk_does_not_reach_what_others_keep(
    store: SnapshotStore, tmp_path: Path
) -> None:
    """Chunks are shared between tenants: who claims to have one could break their snapshots."""
    theirs = b"what somebody else will write"
    pack = zstandard.compress(b"not that, but of the same size"[: len(theirs)])
    lie = Chunk(hashlib.sha256(theirs).digest(), 0, 0, len(pack), len(theirs))

    with pytest.raises(InvalidArgumentError):
        await import_snapshot(store, pieces_of(made_up(pack, lie)), tenant=TENANT)

    await store.verify(await kept(store, tmp_path / "in", x=theirs))


async def test_what_unpacks_to_more_than_it_says_takes_no_memory(store: SnapshotStore) -> None:
    pack = zstandard.compress(bytes(256 * MIB))
    bomb = Chunk(hashlib.sha256(b"x").digest(), 0, 0, len(pack), 1)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgumentError):
            await import_snapshot(store, pieces_of(made_up(pack, bomb)), tenant=TENANT)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 * MIB


async def test_a_chunk_longer_than_any_is_refused(store: SnapshotStore) -> None:
    data = bytes(MIB)
    pack = zstandard.compress(data)
    chunk = Chunk(hashlib.sha256(data).digest(), 0, 0, len(pack), len(data))
    with pytest.raises(InvalidArgumentError):
        await import_snapshot(store, pieces_of(made_up(pack, chunk)), tenant=TENANT)


async def test_a_snapshot_that_is_removed_meanwhile_is_exported_to_its_end(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path
) -> None:
    made = await kept(store, tmp_path / "in", x=os.urandom(2 * PACK_BYTES))
    async with exported(store, made) as file:
        first = await anext(file.pieces)
        await store.remove(made)
        assert await store.collect_garbage(grace=ALL) == 0
        data = first + b"".join([piece async for piece in file.pieces])
    assert await store.collect_garbage(grace=ALL) > 0
    await other.verify((await import_snapshot(other, pieces_of(data), tenant=TENANT)).id)


async def test_packs_that_are_coming_in_are_no_garbage(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path
) -> None:
    data = await file_of(store, await kept(store, tmp_path / "in", x=os.urandom(2 * PACK_BYTES)))

    async def watched() -> AsyncGenerator[bytes]:
        async for piece in pieces_of(data):
            assert await other.collect_garbage(grace=ALL) == 0
            yield piece

    taken = await import_snapshot(other, watched(), tenant=TENANT)

    await other.verify(taken.id)


async def test_what_a_client_that_left_had_sent_is_garbage(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path
) -> None:
    data = await file_of(store, await kept(store, tmp_path / "in", x=os.urandom(2 * PACK_BYTES)))

    async def leaving() -> AsyncGenerator[bytes]:
        yield data[: len(data) - PACK_BYTES // 2]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await import_snapshot(other, leaving(), tenant=TENANT)

    assert await other.collect_garbage(grace=ALL) > 0
    assert [blob async for blob in other.blobs.list()] == []


async def test_what_nobody_asked_to_keep_is_kept_when_it_is_taken_in(
    store: SnapshotStore, other: SnapshotStore, tmp_path: Path
) -> None:
    """A fork's beginning is forgotten after a while; who imports it asked for it by name."""
    info = msgspec.structs.replace(INFO, tags=(FORKED, "mine"))
    made = await store.commit(info, {"files": folder(tmp_path / "in", x=b"x")})
    taken = await import_snapshot(other, pieces_of(await file_of(store, made.id)), tenant=TENANT)
    assert taken.tags == ("mine",)


async def test_a_lost_pack_is_told_before_anything_is_sent(
    store: SnapshotStore, tmp_path: Path
) -> None:
    made = await kept(store, tmp_path / "in", x=b"content")
    [pack] = (await store.manifest(made)).packs
    await store.blobs.delete(pack)
    with pytest.raises(DataLossError):
        async with exported(store, made):
            pass


async def test_what_is_not_there_is_not_exported(store: SnapshotStore) -> None:
    with pytest.raises(SnapshotNotFoundError):
        async with exported(store, "snap-none"):
            pass
