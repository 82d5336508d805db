"""What a sandbox gives as its cache is hostile: new plain files under clean names are taken."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from faas.caches import KINDS, CacheBounds, CacheName, CacheStore
from faas.caches.layers import names_of
from faas.caches.store import LAYERS_MAX
from faas.errors import FaasError, InvalidImageError, TooLargeError
from faas.ids import TenantId

MINE, THEIRS = TenantId("mine"), TenantId("theirs")
PIP, NPM, CARGO = CacheName.PIP, CacheName.NPM, CacheName.CARGO


def entry(name: str, content: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    return member, content


def tar(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for member, content in entries:
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def store(tmp_path: Path) -> CacheStore:
    return CacheStore(tmp_path / "kept", bounds=CacheBounds(1 << 20, 3 << 20))


async def kept(
    store: CacheStore, tenant: TenantId = MINE, name: CacheName = PIP
) -> dict[str, bytes]:
    """What the next run finds."""
    found: dict[str, bytes] = {}
    for layer in await store.layers(tenant, name, bytes_max=1 << 30):
        with tarfile.open(layer) as archive:
            for member in filter(tarfile.TarInfo.isreg, archive):
                found[member.name] = archive.extractfile(member).read()
    return found


async def test_new_files_are_kept_and_found_by_the_next_run(store, tmp_path):
    given = tar(tmp_path / "t", entry("./a", b"one"), entry("d/b", b"two", mode=0o4755))
    found = await store.add(MINE, PIP, given)
    assert (found.added, found.added_bytes, found.refused) == (2, 6, 0)
    assert await kept(store) == {"a": b"one", "d/b": b"two"}
    (layer,) = await store.layers(MINE, PIP, bytes_max=1 << 30)
    with tarfile.open(layer) as archive:
        modes = {member.name: (member.mode, member.uid) for member in archive}
    expected = {"a": (0o666, 0), "d": (0o777, 0), "d/b": (0o777, 0)}
    assert modes == expected, "set-user-ID and owners are not kept"


async def test_what_is_there_is_never_changed(store, tmp_path):
    await store.add(MINE, PIP, tar(tmp_path / "t", entry("wheel", b"good")))
    found = await store.add(MINE, PIP, tar(tmp_path / "t", entry("wheel", b"evil"), entry("x")))
    assert found.added == 1
    assert await kept(store) == {"wheel": b"good", "x": b""}


async def test_other_tenants_and_tools_have_nothing_of_it(store, tmp_path):
    await store.add(MINE, PIP, tar(tmp_path / "t", entry("a", b"secret")))
    assert await kept(store, THEIRS) == {}
    assert await kept(store, MINE, CARGO) == {}


@pytest.mark.parametrize(
    "hostile",
    [
        entry("link", type=tarfile.SYMTYPE, linkname="/etc/shadow"),
        entry("hard", type=tarfile.LNKTYPE, linkname="good"),
        entry("device", type=tarfile.CHRTYPE, devmajor=1, devminor=8),
        entry("disk", type=tarfile.BLKTYPE, devmajor=8),
        entry("pipe", type=tarfile.FIFOTYPE),
        entry("../../outside", b"x"),
        entry("a/../../b", b"x"),
        entry("/etc/cron.d/job", b"x"),
        entry("good", b"twice"),
        entry("n" * 300, b"x"),
        entry("d/" * 800 + "x", b"x"),
        entry(".", b"x"),
    ],
    ids=lambda pair: pair[0].name[:12],
)
async def test_hostile_entries_are_refused_and_the_rest_is_kept(store, tmp_path, hostile):
    given = tar(tmp_path / "t", entry("good", b"kept"), hostile, entry("last", b"too"))
    found = await store.add(MINE, PIP, given)
    assert (found.added, found.refused) == (2, 1)
    assert await kept(store) == {"good": b"kept", "last": b"too"}
    places = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert len(places) == 1, "nothing but the layer was written"


async def test_a_tar_that_lies_is_refused_whole(store, tmp_path):
    path = tar(tmp_path / "t", entry("a", b"x" * 2000))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InvalidImageError):
        await store.add(MINE, PIP, path)
    bomb = tarfile.TarInfo("x")
    bomb.size, bomb.type = 1 << 40, tarfile.XHDTYPE
    (tmp_path / "bomb").write_bytes(bomb.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(InvalidImageError, match="claims"):
        await store.add(MINE, PIP, tmp_path / "bomb")
    (tmp_path / "noise").write_bytes(b"no tar at all" * 100)
    with pytest.raises(FaasError):
        await store.add(MINE, PIP, tmp_path / "noise")
    assert await kept(store) == {}


async def test_one_run_cannot_fill_the_store(store, tmp_path):
    with pytest.raises(TooLargeError):
        await store.add(MINE, PIP, tar(tmp_path / "t", entry("big", bytes(600 << 10))))
    assert await kept(store) == {}
    assert not list((tmp_path / "kept").rglob(".new-*"))


async def test_a_tenant_above_its_bound_gives_up_what_was_used_least_lately(store, tmp_path):
    for number in range(4):
        given = tar(tmp_path / "t", entry(f"f{number}", bytes(300 << 10)))
        await store.add(MINE, PIP, given)
        # Used in turn: the first one again each time.
        oldest = min((tmp_path / "kept").rglob("*.tar"))
        oldest.touch()
    assert sorted(await kept(store)) == ["f0", "f2", "f3"]
    assert sum(store.sizes(MINE).values()) <= 1 << 20


async def test_all_tenants_together_are_bounded(store, tmp_path):
    for number in range(8):
        given = tar(tmp_path / "t", entry("f", bytes(500 << 10)))
        await store.add(TenantId(f"t{number}"), PIP, given)
    total = sum(path.stat().st_size for path in (tmp_path / "kept").rglob("*.tar"))
    assert total <= 3 << 20
    assert await kept(store, TenantId("t7"))
    assert not await kept(store, TenantId("t0"))


async def test_many_small_layers_become_one(store, tmp_path):
    for number in range(LAYERS_MAX + 2):
        await store.add(MINE, PIP, tar(tmp_path / "t", entry(f"f{number}", b"%d" % number)))
    assert len(await store.layers(MINE, PIP, bytes_max=1 << 30)) <= LAYERS_MAX
    found = await kept(store)
    assert found == {f"f{number}": b"%d" % number for number in range(LAYERS_MAX + 2)}
    again = await store.add(MINE, PIP, tar(tmp_path / "t", entry("f3", b"evil")))
    assert again.added == 0


async def test_what_a_kill_left_half_written_is_removed_and_the_rest_read_again(store, tmp_path):
    await store.add(MINE, PIP, tar(tmp_path / "t", entry("a", b"x")))
    place = next((tmp_path / "kept").rglob("*.tar")).parent
    (place / ".new-00.tar").write_bytes(b"half")
    following = CacheStore(tmp_path / "kept")
    assert following.reclaim() == 1
    assert await kept(following) == {"a": b"x"}
    found = await following.add(MINE, PIP, tar(tmp_path / "t", entry("a", b"evil")))
    assert found.added == 0
    assert names_of(next(place.glob("*.tar"))) == {"a": 1}


async def test_npm_content_must_hash_to_its_name(store, tmp_path):
    def named(content: bytes, digest: str) -> str:
        return f"_cacache/content-v2/sha512/{digest[:2]}/{digest[2:4]}/{digest[4:]}"

    good, evil = b"tarball", b"backdoor"
    right = hashlib.sha512(good).hexdigest()
    claimed = hashlib.sha512(b"left-pad").hexdigest()
    given = tar(
        tmp_path / "t",
        entry(named(good, right), good),
        entry(named(evil, claimed), evil),
        entry("_cacache/content-v2/sha512/xx", evil),
        entry("_cacache/index-v5/aa", b"index"),
        entry("npmrc", b"registry=evil"),
    )
    found = await store.add(MINE, NPM, given)
    assert (found.added, found.refused) == (2, 2)
    assert sorted(await kept(store, MINE, NPM)) == [named(good, right), "_cacache/index-v5/aa"]


async def test_settings_and_programs_of_cargo_are_not_kept(store, tmp_path):
    given = tar(
        tmp_path / "t",
        entry("config.toml", b"[source.crates-io]"),
        entry("bin/cargo-evil", b"x", mode=0o755),
        entry("registry/cache/index/serde-1.crate", b"crate"),
    )
    await store.add(MINE, CARGO, given)
    assert list(await kept(store, MINE, CARGO)) == ["registry/cache/index/serde-1.crate"]


async def test_a_cache_can_be_forgotten(store, tmp_path):
    await store.add(MINE, PIP, tar(tmp_path / "t", entry("a", b"x")))
    assert await store.forget(MINE, PIP) > 0
    assert await kept(store) == {}


def test_every_tool_is_told_where_its_cache_is():
    for kind in KINDS.values():
        assert all(value.startswith(kind.path) for value in kind.env.values())


@pytest.mark.parametrize("hostile", ["wheel/evil", "wheel/a/b", "d"])
async def test_a_file_where_a_directory_is_kept_is_refused(store, tmp_path, hostile):
    """Else the next run's layers could not be unpacked: a way to take the cache away from all."""
    await store.add(MINE, PIP, tar(tmp_path / "t", entry("wheel", b"good"), entry("d/x")))
    found = await store.add(MINE, PIP, tar(tmp_path / "t", entry(hostile, b"evil"), entry("new")))
    assert (found.added, found.refused) == (1, 1)
    twice = tar(tmp_path / "t", entry("a/b"), entry("a", b"x"), entry("a/b/c"))
    found = await store.add(MINE, PIP, twice)
    assert (found.added, found.refused) == (1, 2)


async def test_a_damaged_layer_is_dropped_and_the_rest_serves_on(store, tmp_path):
    await store.add(MINE, PIP, tar(tmp_path / "t", entry("a", b"x")))
    await store.add(MINE, PIP, tar(tmp_path / "t", entry("b", b"y")))
    damaged = min((tmp_path / "kept").rglob("*.tar"))
    damaged.write_bytes(b"noise" * 1000)
    following = CacheStore(tmp_path / "kept")
    found = await following.add(MINE, PIP, tar(tmp_path / "t", entry("a", b"x"), entry("b")))
    assert found.added == 1
    assert await kept(following) == {"a": b"x", "b": b"y"}


async def test_go_outputs_are_checked_and_its_hashes_are_not_kept(store, tmp_path):
    right, wrong = hashlib.sha256(b"compiled").hexdigest(), "ab" * 32
    at = "mod/cache/download/example.test/demo/@v/v1.0.0"
    given = tar(
        tmp_path / "t",
        entry(f"build/{right[:2]}/{right}-d", b"compiled"),
        entry(f"build/ab/{wrong}-d", b"compiled"),
        entry(f"build/ab/{wrong}-a", b"v1 ..."),
        entry(f"{at}.zip", b"zip"),
        entry(f"{at}.ziphash", b"h1:forged"),
        entry(f"{at}.lock", b""),
    )
    found = await store.add(MINE, CacheName.GO, given)
    assert (found.added, found.refused) == (3, 1)
    assert set(await kept(store, name=CacheName.GO)) == {
        f"build/{right[:2]}/{right}-d",
        f"build/ab/{wrong}-a",
        f"{at}.zip",
    }
