"""A tree written down as it is comes back as it was, and goes into the store from there."""

import os
import stat
from pathlib import Path

import pytest

from faas.blobs.local import LocalBlobStore
from faas.blobs.refs import LocalRefStore
from faas.clock import FakeClock
from faas.errors import ConflictError, DataLossError
from faas.ids import TenantId, new_snapshot_id
from faas.snapshots import SnapshotInfo, SnapshotRecord, SnapshotStore
from faas.snapshots.manifest import EntryKind
from faas.snapshots.plain import plain_opened, write_plain
from faas.snapshots.tree import Folder, to_directory

TENANT = TenantId("t")
INFO = SnapshotInfo(tenant=TENANT, image_digest="host")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    (made / "d").mkdir(parents=True)
    (made / "empty").write_bytes(b"")
    (made / "d/large").write_bytes(os.urandom(200_000))
    (made / "d/link").symlink_to("../empty")
    with (made / "holes").open("wb") as file:
        file.seek(300_000)
        file.write(b"end")
    (made / "d/large").chmod(0o640)
    return made


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(
        blobs=LocalBlobStore(tmp_path / "blobs"),
        refs=LocalRefStore(tmp_path / "refs"),
        clock=FakeClock(),
    )


def contents(root: Path) -> dict[str, object]:
    return {
        str(path.relative_to(root)): (
            str(path.readlink()) if path.is_symlink() else path.is_file() and path.read_bytes()
        )
        for path in root.rglob("*")
    }


def test_a_tree_comes_back_as_it_was(tree, tmp_path):
    write_plain(Folder(tree, shift=os.geteuid()), tmp_path / "plain")
    with plain_opened(tmp_path / "plain") as listed:
        to_directory(listed.entries, tmp_path / "again", listed.content)
    assert contents(tmp_path / "again") == contents(tree)
    assert stat.S_IMODE((tmp_path / "again/d/large").stat().st_mode) == 0o640


def test_what_is_only_zeros_takes_no_place(tree, tmp_path):
    write_plain(Folder(tree), tmp_path / "plain")
    found = (tmp_path / "plain/content").stat()
    assert found.st_size > 500_000
    assert found.st_blocks * 512 < 400_000


def test_what_was_opened_is_read_to_its_end_though_it_is_removed(tree, tmp_path):
    write_plain(Folder(tree), tmp_path / "plain")
    with plain_opened(tmp_path / "plain") as listed:
        (tmp_path / "plain/content").unlink()
        large = next(entry for entry in listed.entries if entry.path == "d/large")
        assert b"".join(listed.content.read(large.chunks)) == (tree / "d/large").read_bytes()


def test_what_is_gone_damaged_or_cut_off_is_never_served(tree, tmp_path):
    plain = tmp_path / "plain"
    with pytest.raises(FileNotFoundError), plain_opened(plain):
        pass
    write_plain(Folder(tree), plain)
    os.truncate(plain / "content", 1000)
    with plain_opened(plain) as listed, pytest.raises(DataLossError):
        to_directory(listed.entries, tmp_path / "again", listed.content)
    (plain / "entries").write_bytes(b"nonsense")
    with pytest.raises(DataLossError), plain_opened(plain):
        pass


async def test_it_is_committed_like_the_folder_it_was_read_from(tree, tmp_path, store):
    write_plain(Folder(tree, shift=os.geteuid()), tmp_path / "plain")
    with plain_opened(tmp_path / "plain") as listed:
        plain = await store.commit(INFO, {"files": listed})
    folder = await store.commit(INFO, {"files": Folder(tree, shift=os.geteuid())})
    assert await store.diff(plain.id, folder.id) == []
    entries = (await store.manifest(plain.id)).sections["files"]
    assert {entry.kind for entry in entries} >= {EntryKind.FILE, EntryKind.SYMLINK}
    await store.verify(plain.id)


async def test_what_is_stood_on_is_not_removed(tree, store):
    kept = await store.commit(INFO, {"files": tree})
    async with store.stood_on(kept.id) as is_there:
        assert is_there
        with pytest.raises(ConflictError):
            await store.remove(kept.id)
    await store.remove(kept.id)
    async with store.stood_on(kept.id) as is_there:
        assert not is_there


async def test_what_another_is_written_over_goes_only_when_that_is_in_the_store(tree, store):
    below = await store.commit(INFO, {"files": tree})
    over = new_snapshot_id()
    settled = []

    async def settle() -> None:
        assert (await store.get(below.id)).id == below.id
        settled.append(await store.commit(INFO, {"files": tree}, snapshot_id=over))

    record = SnapshotRecord(
        id=over, tenant=TENANT, manifest=below.manifest, created_at=below.created_at,
        image_digest="host",
    )  # fmt: skip
    store.announce(record, alias=None, over=below.id, settle=settle)
    await store.remove(below.id)
    assert [one.id for one in settled] == [over]
    await store.verify(over)
