"""Snapshots: what is committed comes back; forks share bytes; merges lose nothing."""

import io
import os
import stat
import tarfile
from datetime import timedelta
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas.blobs.fake import FakeBlobStore, Fault
from faas.blobs.local import LocalBlobStore
from faas.blobs.refs import LocalRefStore
from faas.blobs.tiered import TieredBlobStore
from faas.clock import FakeClock, SystemClock
from faas.errors import (
    ConflictError,
    DataLossError,
    InvalidArgumentError,
    ManifestError,
    SnapshotNotFoundError,
    StoreUnavailableError,
)
from faas.ids import TenantId
from faas.snapshots import (
    ChangeKind,
    MergeStrategy,
    SnapshotInfo,
    SnapshotStore,
)
from faas.snapshots import manifest as manifests
from faas.snapshots.changes import Tree, as_tree, diff, merge
from faas.snapshots.manifest import Entry, EntryKind, Manifest

TENANT = TenantId("t")
INFO = SnapshotInfo(tenant=TENANT, image_digest="host")


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return open_store(tmp_path / "store")


def open_store(root: Path, blobs: FakeBlobStore | None = None) -> SnapshotStore:
    return SnapshotStore(
        blobs=blobs or LocalBlobStore(root / "blobs"),
        refs=LocalRefStore(root / "refs"),
        clock=FakeClock(),
        index=None,
    )


def make_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


async def test_a_tree_comes_back_as_it_was(store: SnapshotStore, tmp_path: Path) -> None:
    files = {"a": b"1", "d/e/f": b"deep" * 50_000, "d/empty": b"", "ü": b"name"}
    source = make_tree(tmp_path / "in", files)
    (source / "link").symlink_to("d/e/f")
    (source / "a").chmod(0o751)

    record = await store.commit(INFO, {"files": source})
    await store.check_out(record.id, "files", tmp_path / "out")

    assert read_tree(tmp_path / "out") == {**files, "link": files["d/e/f"]}
    assert (tmp_path / "out/link").readlink() == Path("d/e/f")
    assert stat.S_IMODE((tmp_path / "out/a").stat().st_mode) == 0o751


async def test_setuid_bits_are_not_kept(store: SnapshotStore, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "in", {"su": b"x"})
    (source / "su").chmod(0o4755)

    record = await store.commit(INFO, {"files": source})

    assert (await store.manifest(record.id)).sections["files"][0].mode == 0o755


async def test_the_same_tree_has_the_same_manifest(store: SnapshotStore, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "in", {"x": b"1", "y": b"2"})

    first = await store.commit(INFO, {"files": source})
    second = await store.commit(INFO, {"files": source})

    assert first.manifest == second.manifest
    assert first.id != second.id
    assert second.stored_bytes == 0


async def test_forks_that_change_little_store_little(store: SnapshotStore, tmp_path: Path) -> None:
    """Ten forks that each change 1 MB of 20 MB add about 1 MB each, before compression."""
    content = bytearray(os.urandom(20 << 20))
    source = make_tree(tmp_path / "in", {"state": bytes(content)})
    base = await store.commit(INFO, {"files": source})
    added = 0
    for turn in range(10):
        changed = content.copy()
        changed[turn << 20 : (turn + 1) << 20] = os.urandom(1 << 20)
        (source / "state").write_bytes(changed)
        fork = SnapshotInfo(tenant=TENANT, image_digest="host", parent=base.id)
        added += (await store.commit(fork, {"files": source})).stored_bytes

    assert added <= 12 << 20


async def test_an_execution_id_finds_its_snapshot(store: SnapshotStore, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "in", {"x": b"1"})

    record = await store.commit(INFO, {"files": source}, alias="exec-abc")

    assert (await store.get("exec-abc")).id == record.id


async def test_another_tenants_snapshot_is_not_found(store: SnapshotStore, tmp_path: Path) -> None:
    record = await store.commit(INFO, {"files": make_tree(tmp_path / "in", {"x": b"1"})})

    with pytest.raises(SnapshotNotFoundError):
        await store.get(record.id, tenant=TenantId("other"))


@pytest.mark.parametrize("reference", ["snap-unknown", "exec-no", "../../x", "", "A B"])
async def test_an_unknown_reference_is_not_found(store: SnapshotStore, reference: str) -> None:
    with pytest.raises(SnapshotNotFoundError, match="Snapshot not found"):
        await store.get(reference)


async def test_a_parent_is_not_removed_while_a_child_lives(
    store: SnapshotStore, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "in", {"x": b"1"})
    parent = await store.commit(INFO, {"files": source})
    child = await store.commit(
        SnapshotInfo(tenant=TENANT, image_digest="host", parent=parent.id), {"files": source}
    )

    with pytest.raises(ConflictError, match="1 children"):
        await store.remove(parent.id)
    await store.remove(child.id)
    await store.remove(parent.id)

    assert await store.page() == []


async def test_garbage_goes_and_what_is_named_stays(store: SnapshotStore, tmp_path: Path) -> None:
    keep = await store.commit(INFO, {"files": make_tree(tmp_path / "a", {"x": b"keep" * 99})})
    drop = await store.commit(INFO, {"files": make_tree(tmp_path / "b", {"x": b"drop" * 99})})
    await store.remove(drop.id)

    gone = await store.collect_garbage(grace=timedelta(days=-40_0))

    assert gone == 2  # its pack and its manifest
    await store.check_out(keep.id, "files", tmp_path / "out")
    again = await store.commit(INFO, {"files": tmp_path / "b"})
    await store.verify(again.id)


async def test_young_blobs_are_never_garbage(store: SnapshotStore) -> None:
    await store.blobs.put(b"about to be named")

    assert await store.collect_garbage() == 0


async def test_damaged_content_is_never_served(store: SnapshotStore, tmp_path: Path) -> None:
    record = await store.commit(INFO, {"files": make_tree(tmp_path / "in", {"x": b"y" * 9000})})
    pack = (await store.manifest(record.id)).packs[0].removeprefix("sha256:")
    blob = tmp_path / "store/blobs" / pack[:2] / pack[2:]
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")

    with pytest.raises(DataLossError):
        await store.check_out(record.id, "files", tmp_path / "out")
    with pytest.raises(DataLossError):
        await store.verify(record.id)


@pytest.mark.parametrize("fail_at", range(2))
async def test_a_commit_that_fails_leaves_no_snapshot(tmp_path: Path, fail_at: int) -> None:
    """Whether the pack or the manifest could not be stored."""
    faults: list[Fault | None] = [None] * fail_at
    store = open_store(tmp_path, FakeBlobStore(faults=[*faults, Fault.UNREACHABLE]))

    with pytest.raises(StoreUnavailableError):
        await store.commit(INFO, {"files": make_tree(tmp_path / "in", {"x": b"1"})})

    assert await store.page() == []


async def test_a_new_index_is_made_from_the_manifests(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "in", {"x": os.urandom(300_000)})
    await open_store(tmp_path / "s").commit(INFO, {"files": source})

    reopened = open_store(tmp_path / "s")
    await reopened.start()

    assert (await reopened.commit(INFO, {"files": source})).stored_bytes == 0


async def test_a_tar_goes_in_and_comes_out(store: SnapshotStore, tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        member = tarfile.TarInfo("./d/file")
        member.size, member.uid = 5, 1000
        archive.addfile(member, io.BytesIO(b"hello"))
        link = tarfile.TarInfo("d/hard")
        link.type, link.linkname = tarfile.LNKTYPE, "d/file"
        archive.addfile(link)
        device = tarfile.TarInfo("dev")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    raw.seek(0)

    record = await store.commit(INFO, {"files": raw})
    with (tmp_path / "out.tar").open("wb") as sink:
        await store.write_tar(record.id, "files", sink)

    with tarfile.open(tmp_path / "out.tar") as archive:
        assert archive.getnames() == ["d/file", "d/hard"]
        assert archive.getmember("d/file").uid == 1000
        content = archive.extractfile("d/hard")
        assert content is not None
        assert content.read() == b"hello"


@pytest.mark.parametrize("name", ["../x", "a/../../x"])
async def test_a_tar_that_leads_outside_is_refused(store: SnapshotStore, name: str) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    raw.seek(0)

    with pytest.raises(InvalidArgumentError, match="outside"):
        await store.commit(INFO, {"files": raw})


async def test_a_layer_is_stacked_on_its_parent(store: SnapshotStore, tmp_path: Path) -> None:
    parent = await store.commit(
        INFO, {"files": make_tree(tmp_path / "p", {"keep": b"1", "gone": b"2", "d/x": b"3"})}
    )
    layer = make_tree(tmp_path / "l", {"new": b"4"})
    os.mknod(layer / "gone", stat.S_IFCHR | 0o600, 0)
    (layer / "d").mkdir()
    os.setxattr(layer / "d", "user.overlay.opaque", b"y")
    info = SnapshotInfo(tenant=TENANT, image_digest="host", parent=parent.id)

    below = await store.manifest(parent.id)
    child = await store.commit(info, {"files": layer}, over=below)

    entries = as_tree((await store.manifest(child.id)).sections["files"])
    assert sorted(entries) == ["d", "gone", "keep", "new"]
    assert entries["gone"].kind is EntryKind.WHITEOUT
    assert entries["d"].is_opaque
    await store.verify(child.id)


async def test_branches_merge_against_their_parent(store: SnapshotStore, tmp_path: Path) -> None:
    base = make_tree(tmp_path / "base", {"same": b"0", "left": b"0", "right": b"0", "both": b"0"})
    parent = await store.commit(INFO, {"files": base})
    child = SnapshotInfo(tenant=TENANT, image_digest="host", parent=parent.id)
    left = make_tree(tmp_path / "l", {"same": b"0", "left": b"L", "right": b"0", "both": b"L"})
    right = make_tree(tmp_path / "r", {"same": b"0", "left": b"0", "right": b"R", "both": b"R"})
    a = await store.commit(child, {"files": left})
    b = await store.commit(child, {"files": right})

    record, merged = await store.merge(
        [a.id, b.id], strategy=MergeStrategy.UNION, tenant=TENANT, name=None
    )

    await store.check_out(record.id, "files", tmp_path / "out")
    assert read_tree(tmp_path / "out") == {
        "same": b"0", "left": b"L", "right": b"R", "both": b"L", f"both.from-{b.id}": b"R",
    }  # fmt: skip
    assert [c.path for c in merged.conflicts] == ["both"]
    assert record.parent == parent.id


async def test_the_diff_names_what_changed(store: SnapshotStore, tmp_path: Path) -> None:
    before = await store.commit(INFO, {"files": make_tree(tmp_path / "a", {"x": b"1", "y": b"2"})})
    after = await store.commit(INFO, {"files": make_tree(tmp_path / "b", {"x": b"9", "z": b"3"})})

    changes = await store.diff(before.id, after.id)

    assert [(c.path, c.kind) for c in changes] == [
        ("x", ChangeKind.MODIFIED), ("y", ChangeKind.DELETED), ("z", ChangeKind.ADDED),
    ]  # fmt: skip


NAMES = st.sampled_from(["a", "b", "d/x", "d/y", "d", "e/f/g"])


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    tree: Tree = {}
    for path, content in draw(st.dictionaries(NAMES, st.integers(0, 3))).items():
        parts = path.split("/")
        if any("/".join(parts[:n]) in tree for n in range(1, len(parts))):
            continue
        if any(other.startswith(path + "/") for other in tree):
            continue
        tree[path] = Entry(path, EntryKind.SYMLINK, mtime_ns=content, target=str(content))
    for path in list(tree):
        for parent in PurePosixPath(path).parents[:-1]:
            tree[str(parent)] = Entry(str(parent), EntryKind.DIRECTORY, 0o755)
    return dict(sorted(tree.items()))


@given(trees(), trees(), trees(), st.sampled_from(MergeStrategy))
def test_a_merge_is_always_a_tree_and_hides_no_conflict(
    base: Tree, left: Tree, right: Tree, strategy: MergeStrategy
) -> None:
    merged = merge(base, {"l": left, "r": right}, strategy)

    for path in merged.tree:
        parent = path.rpartition("/")[0]
        assert not parent or merged.tree[parent].kind is EntryKind.DIRECTORY
    conflicted = {c.path for c in merged.conflicts}
    changed_left = {c.path: c.after for c in diff(base, left)}
    changed_right = {c.path: c.after for c in diff(base, right)}
    for path in changed_left.keys() & changed_right.keys():
        ours, theirs = changed_left[path], changed_right[path]
        agree = ours is theirs is None or (ours is not None and ours.same_content(theirs))
        assert agree or path in conflicted


@given(trees(), trees(), st.sampled_from(MergeStrategy))
def test_what_only_one_branch_changed_is_taken(
    base: Tree, left: Tree, strategy: MergeStrategy
) -> None:
    merged = merge(base, {"l": left, "r": base}, strategy)

    expected = base if strategy is MergeStrategy.INTERSECTION else left
    assert diff(expected, merged.tree) == []
    assert merged.conflicts == ()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_a_manifest_error(data: bytes) -> None:
    try:
        manifests.decode(data)
    except ManifestError:
        return


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/./b", "x\0y"])
def test_a_manifest_with_a_hostile_path_is_refused(path: str) -> None:
    entry = Entry(path, EntryKind.SYMLINK, target="t")
    data = manifests.encode(Manifest(image_digest="host", sections={"files": (entry,)}))

    with pytest.raises(ManifestError):
        manifests.decode(data)


async def test_packs_another_gateway_collected_are_not_built_upon(tmp_path: Path) -> None:
    far, refs = FakeBlobStore(), LocalRefStore(tmp_path / "refs")
    one, two = (
        SnapshotStore(blobs=TieredBlobStore(FakeBlobStore(), far), refs=refs, clock=SystemClock())
        for _ in "12"
    )
    tree = make_tree(tmp_path / "tree", {"a": b"x" * 100_000})
    first = await one.commit(INFO, {"files": tree})
    await two.remove(first.id)
    await two.collect_garbage(grace=timedelta(0))
    one._blobs.near._blobs.clear()

    again = await one.commit(INFO, {"files": tree})

    await two.verify(again.id)
    await one.aclose()
    await two.aclose()
