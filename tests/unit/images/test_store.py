"""The store: what a name stands for, whatever it was imported from and whenever we died."""

import asyncio
import gzip
import json
import lzma
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from faas.errors import (
    DigestMismatchError,
    FaasError,
    ImageNotFoundError,
    InvalidImageError,
    ManifestError,
    TooLargeError,
    WrongStateError,
)
from faas.images.layers import UnpackLimits
from faas.images.store import ImageStore

from .archives import directory, docker_save, file, listing, oci_layout, symlink, tar

TREE = [directory("bin"), file("bin/sh", b"#!", mode=0o755), symlink("sh", "bin/sh")]
CONTENT = {"bin": None, "bin/sh": b"#!", "sh": "-> bin/sh"}


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", {"alpine:latest": "host", "mine": "base:1"})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "root.tar"
    path.write_bytes(tar(TREE))
    return path


def content(store: ImageStore, reference: str) -> dict[str, bytes | str | None]:
    path = store.resolve(reference).path
    assert path is not None
    return listing(path)


def nothing_half_done(store: ImageStore) -> bool:
    return not any(store._tmp.iterdir())


async def test_an_imported_tree_is_found_by_every_spelling_of_its_name(
    store: ImageStore, source: Path
) -> None:
    record = await store.import_("base:1", source)
    assert content(store, "base:1") == CONTENT
    for spelling in ("docker.io/library/base:1", "base:1", record.digest):
        assert store.resolve(spelling).digest == record.digest
    assert nothing_half_done(store)


def test_host_is_always_there_and_an_alias_stands_in(store: ImageStore) -> None:
    assert store.resolve("host").path is None
    assert store.resolve("alpine").digest == "host"
    assert [image.reference for image in store.list()] == ["host"]


async def test_an_imported_image_wins_over_its_alias_until_it_is_removed(
    store: ImageStore, source: Path
) -> None:
    record = await store.import_("alpine", source)
    assert store.resolve("alpine:latest").digest == record.digest
    await store.remove("alpine")
    assert store.resolve("alpine:latest").digest == "host"


async def test_an_alias_may_name_an_imported_image(store: ImageStore, source: Path) -> None:
    with pytest.raises(ImageNotFoundError):
        store.resolve("mine")
    record = await store.import_("base:1", source)
    assert store.resolve("mine").digest == record.digest


@pytest.mark.parametrize("name", ["nope:1", "alpine@sha256:" + "0" * 64, "sha256:" + "0" * 64])
def test_an_unknown_image_is_refused_with_a_way_to_get_it(store: ImageStore, name: str) -> None:
    with pytest.raises(ImageNotFoundError) as refused:
        store.resolve(name)
    assert "import" in (refused.value.hint or "import")


@pytest.mark.parametrize("name", ["host", "sha256:" + "0" * 64, "Bad Name", ""])
async def test_a_name_no_image_can_have_is_refused(
    store: ImageStore, source: Path, name: str
) -> None:
    with pytest.raises(InvalidImageError):
        await store.import_(name, source)
    assert nothing_half_done(store)


def _as_directory(where: Path) -> Path:
    (where / "bin").mkdir(parents=True)
    where.chmod(0o755)
    (where / "bin").chmod(0o755)
    (where / "bin/sh").write_bytes(b"#!")
    (where / "bin/sh").chmod(0o755)
    (where / "sh").symlink_to("bin/sh")
    return where


def _as_file(data: bytes) -> Callable[[Path], Path]:
    def write(where: Path) -> Path:
        where.write_bytes(data)
        return where

    return write


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


LAYERS = [tar([file("junk"), *TREE]), tar([file(".wh.junk", b"")])]
SOURCES: dict[str, Callable[[Path], Path]] = {
    "tar": _as_file(tar(TREE)),
    "tar.gz": _as_file(gzip.compress(tar(TREE))),
    "tar.xz": _as_file(lzma.compress(tar(TREE))),
    "tar.zst": _as_file(_zstd(tar(TREE))),
    "directory": _as_directory,
    "oci layout": lambda where: oci_layout(where, LAYERS),
    "oci layout, plain layers": lambda where: oci_layout(where, LAYERS, pack=bytes),
    "oci layout, zstd layers": lambda where: oci_layout(where, LAYERS, pack=_zstd),
    "docker save": _as_file(docker_save(LAYERS)),
    "docker save, a layer twice": _as_file(docker_save([LAYERS[0], LAYERS[0], LAYERS[1]])),
    "docker save, compressed": _as_file(gzip.compress(docker_save(LAYERS))),
}


@pytest.mark.parametrize("kind", SOURCES)
async def test_the_same_content_has_the_same_digest_from_any_source(
    store: ImageStore, source: Path, tmp_path: Path, kind: str
) -> None:
    reference = await store.import_("base:1", source)
    record = await store.import_("other:1", SOURCES[kind](tmp_path / "other"))
    assert content(store, "other:1") == CONTENT
    assert record.digest == reference.digest
    assert len(list(store._trees.iterdir())) == 1


@pytest.mark.parametrize(
    "other",
    [
        [file("bin/sh", b"#?", mode=0o755), symlink("sh", "bin/sh")],
        [file("bin/sh", b"#!", mode=0o700), symlink("sh", "bin/sh")],
        [file("bin/sh", b"#!", mode=0o755), symlink("sh", "bin/s")],
        [file("bin/sh", b"#!", mode=0o755), symlink("sj", "bin/sh")],
        [file("bin/sh", b"#!", mode=0o755), symlink("sh", "bin/sh"), directory("e")],
    ],
    ids=["content", "mode", "target", "name", "directory"],
)
async def test_other_content_has_another_digest(
    store: ImageStore, source: Path, tmp_path: Path, other: list[object]
) -> None:
    reference = await store.import_("base:1", source)
    changed = tmp_path / "changed.tar"
    changed.write_bytes(tar([directory("bin"), *other]))  # type: ignore[list-item]
    assert (await store.import_("other:1", changed)).digest != reference.digest


async def test_the_configuration_comes_along_and_counts_for_the_digest(
    store: ImageStore, tmp_path: Path
) -> None:
    accounts = tar([file("etc/passwd", "root:x:0:0::/:\nnode:x:1000:1001::/:\n"),
                    file("etc/group", "wheel:x:10:\n")])  # fmt: skip
    config = {"Env": ["PATH=/bin", "A=b=c"], "WorkingDir": "/srv", "Entrypoint": ["/run"],
              "Cmd": None}  # fmt: skip
    roots: list[str | None] = []
    for number, user in enumerate(["node", "node:wheel", "7", "0:0", ""]):
        layout = oci_layout(tmp_path / str(number), [accounts], config={**config, "User": user})
        await store.import_(f"app:{number}", layout)
        root = store.resolve(f"app:{number}")
        assert (root.env, root.working_dir) == ((("PATH", "/bin"), ("A", "b=c")), "/srv")
        assert root.entrypoint == ("/run",)
        roots.append(root.user)
    assert roots == ["1000:1001", "1000:10", "7:0", "0:0", None]
    assert len({image.digest for image in store.list()}) == 6


async def test_an_image_that_runs_as_nobody_it_knows_is_refused(
    store: ImageStore, tmp_path: Path
) -> None:
    layout = oci_layout(tmp_path / "l", [tar(TREE)], config={"User": "ghost"})
    with pytest.raises(InvalidImageError, match="ghost"):
        await store.import_("app", layout)
    assert nothing_half_done(store)


async def test_a_password_file_that_is_a_link_to_the_hosts_is_not_read(
    store: ImageStore, tmp_path: Path
) -> None:
    layer = tar([directory("etc"), symlink("etc/passwd", "/etc/passwd")])
    layout = oci_layout(tmp_path / "l", [layer], config={"User": "daemon"})
    with pytest.raises(InvalidImageError, match="daemon"):
        await store.import_("app", layout)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_blob_with_other_bytes_than_its_name_says_is_refused(
    store: ImageStore, tmp_path: Path, number: int
) -> None:
    layout = oci_layout(tmp_path / "l", [tar(TREE)])
    _flip(sorted((layout / "blobs/sha256").iterdir())[number])
    with pytest.raises(DigestMismatchError):
        await store.import_("app", layout)
    assert store.list()[1:] == []
    assert nothing_half_done(store)


BROKEN: dict[str, Callable[[Path], Path]] = {
    "nothing there": lambda where: where,
    "an empty file": _as_file(b""),
    "no archive": _as_file(b"hello" * 500),
    "damaged gzip": _as_file(gzip.compress(tar(TREE))[:-20]),
    "damaged zstd": _as_file(_zstd(tar(TREE))[:-8]),
    "an empty tar": _as_file(tar([])),
    "a layer that unpacks to something else": lambda where: oci_layout(
        where, [tar(TREE)], diff_ids=["sha256:" + "0" * 64]
    ),
    "fewer layers than the configuration says": lambda where: oci_layout(
        where, [tar(TREE)], diff_ids=[]
    ),
    "an index without images": lambda where: oci_layout(where, [tar(TREE)], index=[]),
    "an image for another machine": lambda where: oci_layout(
        where,
        [tar(TREE)],
        index=[{"digest": "sha256:" + "0" * 64, "platform": {"os": "plan9"}}],
    ),
    "a digest that leads outside": lambda where: oci_layout(
        where, [tar(TREE)], index=[{"digest": "sha256:../../../etc/passwd"}]
    ),
    "docker save of two images": _as_file(
        tar([file("manifest.json", json.dumps([{"Config": "c", "Layers": []}] * 2))])
    ),
    "docker save that names an outside file": _as_file(
        tar([file("manifest.json", json.dumps([{"Config": "../x", "Layers": []}]))])
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_what_cannot_be_imported_is_refused_and_leaves_nothing(
    store: ImageStore, tmp_path: Path, kind: str
) -> None:
    with pytest.raises((InvalidImageError, DigestMismatchError)):
        await store.import_("app", BROKEN[kind](tmp_path / "source"))
    assert store.list()[1:] == []
    assert list(store._trees.iterdir()) == []
    assert nothing_half_done(store)


async def test_a_pipe_is_refused_and_not_waited_for(store: ImageStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidImageError):
        await store.import_("app", tmp_path / "pipe")


@pytest.mark.parametrize("pack", [gzip.compress, _zstd])
async def test_a_decompression_bomb_is_stopped_at_the_limit(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    limits = UnpackLimits(bytes_max=1 << 20, archive_bytes_max=4 << 20)
    store = ImageStore(tmp_path / "images", limits=limits)
    after_the_end = tar(TREE) + bytes(32 << 20)
    layout = oci_layout(tmp_path / "l", [after_the_end], pack=pack)
    with pytest.raises(TooLargeError):
        await store.import_("app", layout)
    bomb = tmp_path / "bomb"
    bomb.write_bytes(pack(tar([file("f", bytes(32 << 20))])))
    with pytest.raises(TooLargeError):
        await store.import_("app", bomb)
    assert nothing_half_done(store)


async def test_an_image_in_use_is_not_removed_until_the_last_hold_ends(
    store: ImageStore, source: Path
) -> None:
    record = await store.import_("base:1", source)
    first, second = store.hold(record.digest), store.hold(record.digest)
    first()
    first()
    with pytest.raises(WrongStateError):
        await store.remove("base:1")
    assert content(store, "base:1") == CONTENT
    second()
    await store.remove("base:1")
    with pytest.raises(ImageNotFoundError):
        store.resolve("base:1")
    assert list(store._trees.iterdir()) == []
    assert nothing_half_done(store)


async def test_one_of_two_names_of_a_tree_in_use_may_go(store: ImageStore, source: Path) -> None:
    record = await store.import_("base:1", source)
    await store.import_("base:2", source)
    release = store.hold(record.digest)
    await store.remove("base:1")
    assert content(store, "base:2") == CONTENT
    release()


async def test_a_hold_counts_for_other_stores_on_the_same_directory(
    store: ImageStore, source: Path, tmp_path: Path
) -> None:
    record = await store.import_("base:1", source)
    other = ImageStore(tmp_path / "images")
    release = store.hold(record.digest)
    with pytest.raises(WrongStateError):
        await other.remove("base:1")
    release()
    await other.remove("base:1")
    with pytest.raises(ImageNotFoundError):
        store.hold(record.digest)


async def test_another_stores_import_and_removal_are_seen_at_once(
    store: ImageStore, source: Path, tmp_path: Path
) -> None:
    other = ImageStore(tmp_path / "images")
    assert store.resolve("alpine").digest == "host"
    record = await other.import_("alpine", source)
    assert store.resolve("alpine").digest == record.digest
    await other.remove("alpine")
    assert store.resolve("alpine").digest == "host"


async def test_removing_what_was_never_imported_says_so(store: ImageStore) -> None:
    with pytest.raises(ImageNotFoundError):
        await store.remove("alpine")


async def test_a_new_import_of_a_name_leaves_the_old_tree_to_who_holds_it(
    store: ImageStore, source: Path, tmp_path: Path
) -> None:
    old = await store.import_("base:1", source)
    release = store.hold(old.digest)
    (tmp_path / "new.tar").write_bytes(tar([file("new")]))
    await store.import_("base:1", tmp_path / "new.tar")
    store.reclaim()
    assert store.resolve(old.digest).digest == old.digest
    release()
    assert store.reclaim().trees == 1
    with pytest.raises(ImageNotFoundError):
        store.resolve(old.digest)


def test_a_damaged_record_is_not_served(store: ImageStore) -> None:
    (store._refs / "docker.io%2Flibrary%2Fapp%3Alatest.json").write_text("{")
    with pytest.raises(ManifestError):
        store.resolve("app")


async def test_a_pinned_digest_must_be_the_one_that_was_imported(
    store: ImageStore, tmp_path: Path
) -> None:
    layout = oci_layout(tmp_path / "l", [tar(TREE)])
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    with pytest.raises(DigestMismatchError):
        await store.import_("app@sha256:" + "0" * 64, layout)
    await store.import_(f"app@{manifest}", layout)
    assert store.resolve(f"app@{manifest}").path == store.resolve("app").path


async def test_a_cancelled_import_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "many.tar").write_bytes(tar([file(f"f{n}") for n in range(3000)]))
    task = asyncio.create_task(store.import_("app", tmp_path / "many.tar"))
    while nothing_half_done(store):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.list()[1:] == []
    assert nothing_half_done(store)


async def test_twenty_imports_at_once_make_one_tree(store: ImageStore, source: Path) -> None:
    await asyncio.gather(*(store.import_(f"base:{n % 4}", source) for n in range(20)))
    assert len(store.list()) == 5
    assert len(list(store._trees.iterdir())) == 1


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from faas.images.store import ImageStore
calls = int(sys.argv[3])
def hook(event, _):
    global calls
    if event in {"os.rename", "os.mkdir", "open", "os.link", "os.remove", "os.chmod", "os.utime"}:
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
store = ImageStore(Path(sys.argv[1]))
sys.addaudithook(hook)
asyncio.run(store.import_("base:1", Path(sys.argv[2])))
"""


@pytest.mark.parametrize("replaces", [False, True], ids=["first import", "replacing one"])
async def test_a_kill_at_any_step_leaves_the_old_image_or_the_new(
    tmp_path: Path, source: Path, replaces: bool
) -> None:
    store = ImageStore(tmp_path / "images")
    (tmp_path / "old.tar").write_bytes(tar([file("old")]))
    expected = [{"old": b"x"}, CONTENT] if replaces else [None, CONTENT]
    seen: list[object] = []
    for step in range(8, 60, 3):
        if replaces:
            await store.import_("base:1", tmp_path / "old.tar")
        argv = [sys.executable, "-c", KILLED, str(tmp_path / "images"), str(source), str(step)]
        ended = await (await asyncio.create_subprocess_exec(*argv)).wait()
        store.reclaim()
        try:
            seen.append(content(store, "base:1"))
        except ImageNotFoundError:
            seen.append(None)
        assert seen[-1] in expected
        assert nothing_half_done(store)
        assert len(list(store._trees.iterdir())) == len(store.list()) - 1
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        if seen[-1] == CONTENT:
            await store.remove("base:1")
    assert seen[-1] == CONTENT
    assert seen[0] == expected[0]


def _hold_until_told(directory: str, digest: str, pipe: object) -> None:
    ImageStore(Path(directory)).hold(digest)
    pipe.send(None)  # type: ignore[attr-defined]
    pipe.recv()  # type: ignore[attr-defined]


async def test_a_holder_that_is_killed_holds_nothing(
    store: ImageStore, source: Path, tmp_path: Path
) -> None:
    record = await store.import_("base:1", source)
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    holder = context.Process(
        target=_hold_until_told, args=(str(tmp_path / "images"), record.digest, there)
    )
    holder.start()
    await asyncio.to_thread(here.recv)
    with pytest.raises(WrongStateError):
        await store.remove("base:1")
    holder.kill()
    await asyncio.to_thread(holder.join)
    holder.close()
    await store.remove("base:1")


async def test_every_refusal_is_an_error_of_ours(store: ImageStore, tmp_path: Path) -> None:
    for number, blob in enumerate([b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"]):
        path = tmp_path / str(number)
        path.write_bytes(blob + os.urandom(64))
        with pytest.raises(FaasError):
            await store.import_("app", path)
