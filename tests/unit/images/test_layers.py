"""Unpacking: what layers mean, and that nothing in them can lead outside."""

import io
import os
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faas.errors import InvalidImageError, TooLargeError
from faas.images.layers import UnpackLimits
from faas.images.tar import TarStream

from .archives import Member, directory, file, hard_link, listing, special, symlink, tar, unpack


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the tree that no layer may touch."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_bytes(b"secret")
    return place


def test_files_directories_and_links_arrive_as_written(root: Path) -> None:
    unpack(root, tar([directory("etc"), file("etc/a", b"one", mode=0o640, mtime=7),
                      symlink("etc/b", "/etc/a"), hard_link("c", "etc/a")]))  # fmt: skip
    assert listing(root) == {"c": b"one", "etc": None, "etc/a": b"one", "etc/b": "-> /etc/a"}
    info = (root / "etc/a").stat()
    assert (info.st_mode & 0o7777, info.st_mtime, info.st_nlink) == (0o640, 7, 2)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_targets_survive_in_every_format(root: Path, form: int) -> None:
    deep, target = "/".join(["d" * 90] * 4), "t" * 180
    unpack(root, tar([file(f"{deep}/f", b"deep"), symlink("l", target)], form=form))
    assert (root / deep / "f").read_bytes() == b"deep"
    assert str((root / "l").readlink()) == target


def test_a_directory_mode_is_set_after_its_content_is_written(root: Path) -> None:
    unpack(root, tar([directory("d", mode=0o555, mtime=5), file("d/f")]))
    assert (root / "d").stat().st_mode & 0o777 == 0o555 | (0 if os.geteuid() == 0 else 0o700)
    assert (root / "d").stat().st_mtime == 5


def test_a_later_layer_replaces_what_is_below(root: Path) -> None:
    lower = tar([file("f", b"old"), directory("d"), file("d/x"), symlink("s", "d")])
    upper = tar([file("f", b"new"), file("d", b"file now"), directory("s")])
    unpack(root, lower, upper)
    assert listing(root) == {"f": b"new", "d": b"file now", "s": None}


def test_replacing_one_name_of_a_hard_linked_file_spares_the_other(root: Path) -> None:
    unpack(root, tar([file("a", b"old"), hard_link("b", "a")]), tar([file("a", b"new")]))
    assert listing(root) == {"a": b"new", "b": b"old"}


def test_a_white_out_removes_what_lower_layers_put_there(root: Path) -> None:
    unpack(root, tar([file("d/a"), file("d/b")]), tar([file("d/.wh.a", b"")]))
    assert listing(root) == {"d": None, "d/b": b"x"}


def test_a_white_out_of_nothing_is_no_matter(root: Path) -> None:
    unpack(root, tar([file("no/such/.wh.a", b""), file("f")]))
    assert listing(root) == {"f": b"x"}


@pytest.mark.parametrize("first", [True, False])
def test_an_opaque_directory_hides_lower_layers_but_not_its_own(root: Path, first: bool) -> None:
    lower = tar([file("d/old"), file("d/sub/old"), file("d/sub/kept")])
    members = [file("d/.wh..wh..opq", b""), file("d/new"), file("d/sub/own")]
    unpack(root, lower, tar(members if first else [*members[1:], members[0]]))
    assert listing(root) == {"d": None, "d/new": b"x", "d/sub": None, "d/sub/own": b"x"}


def test_an_entry_below_a_linked_directory_lands_where_the_link_leads(root: Path) -> None:
    lower = tar([directory("usr/lib"), symlink("lib", "usr/lib"), symlink("abs", "/usr/lib")])
    unpack(root, lower, tar([file("lib/one"), file("abs/two")]))
    assert names(root / "usr/lib") == ["one", "two"]


def test_device_nodes_and_pipes_are_left_out_and_counted(root: Path) -> None:
    writer = unpack(root, tar([special("null", tarfile.CHRTYPE), special("b", tarfile.BLKTYPE),
                               special("p", tarfile.FIFOTYPE), file("f")]))  # fmt: skip
    assert listing(root) == {"f": b"x"}
    assert writer.counts.skipped == 3


def test_setuid_and_setgid_bits_are_taken_off(root: Path) -> None:
    unpack(root, tar([file("su", mode=0o6755), directory("t", mode=0o3777)]))
    assert (root / "su").stat().st_mode & 0o7777 == 0o755
    assert (root / "t").stat().st_mode & 0o7777 == 0o1777


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


ATTACKS: dict[str, list[Member]] = {
    "dots in a name": [file("../outside/secret", b"owned")],
    "dots in the middle": [file("a/../../outside/secret", b"owned")],
    "a symlink up, then through it": [symlink("l", "../outside"), file("l/secret", b"owned")],
    "an absolute symlink": [symlink("l", "{outside}"), file("l/secret", b"owned")],
    "a symlink through a symlink": [
        symlink("a", "."), symlink("a/b", "../.."), file("b/outside/secret", b"owned")
    ],
    "a directory over a symlink": [
        symlink("l", "../outside"), directory("l"), file("l/secret", b"in")
    ],
    "a file over a symlink": [symlink("l", "../outside/secret"), file("l", b"owned")],
    "a hard link outside": [hard_link("h", "../outside/secret"), file("h", b"owned")],
    "an absolute hard link": [hard_link("h", "{outside}/secret")],
    "a hard link through a symlink": [symlink("l", "../outside"), hard_link("h", "l/secret")],
    "a hard link to a symlink": [
        symlink("l", "../outside/secret"), hard_link("h", "l"), file("h", b"owned")
    ],
    "a white-out through a symlink": [symlink("l", "../outside"), file("l/.wh.secret", b"")],
    "a white-out of the parent": [directory("d"), file("d/.wh...", b"")],
    "an opaque marker through a symlink": [symlink("l", "../outside"), file("l/.wh..wh..opq", b"")],
    "an absolute name": [file("{outside}/secret", b"owned")],
    "a device where a file was": [special("l", tarfile.CHRTYPE), file("l/../../outside/x")],
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("spread", [False, True], ids=["one layer", "a layer each"])
def test_no_layer_reaches_outside(
    root: Path, outside: Path, tmp_path: Path, attack: str, spread: bool
) -> None:
    members = [
        (path.format(outside=outside), content,
         {k: v.format(outside=outside) if isinstance(v, str) else v for k, v in fields.items()})
        for path, content, fields in ATTACKS[attack]
    ]  # fmt: skip
    layers = [tar([member]) for member in members] if spread else [tar(members)]
    with suppress(InvalidImageError):
        unpack(root, *layers)
    assert listing(outside) == {"secret": b"secret"}
    assert (outside / "secret").stat().st_nlink == 1
    assert names(tmp_path) == ["outside", "root"]


PARTS = st.sampled_from(["a", "b", "..", ".", "", "l", ".wh.a", ".wh..wh..opq", "outside"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
MEMBERS = st.lists(
    st.one_of(
        st.builds(file, PATHS),
        st.builds(directory, PATHS),
        st.builds(symlink, PATHS, PATHS.map(lambda path: path or ".")),
        st.builds(hard_link, PATHS, PATHS.map(lambda path: path or ".")),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(layers=st.lists(MEMBERS, min_size=1, max_size=3))
def test_no_combination_of_entries_reaches_outside(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[Member]]
) -> None:
    base = tmp_path_factory.mktemp("walk")
    (base / "outside").mkdir()
    (base / "outside" / "a").write_bytes(b"secret")
    with suppress(InvalidImageError):
        unpack(base / "root", *(tar(members) for members in layers))
    assert listing(base / "outside") == {"a": b"secret"}
    assert (base / "outside" / "a").stat().st_nlink == 1
    assert names(base) == ["outside", "root"]


@pytest.mark.parametrize(
    "members",
    [
        [file("n" * 256)],
        [file("d/" * 2100 + "f")],
        [file("f"), file("f/g")],
        [symlink("l", "l"), file("l/f")],
        [hard_link("h", "missing")],
        [hard_link("h", "d/missing")],
        [directory("d"), hard_link("h", "d")],
        [file("f", uid=2**40)],
        [file("/".join(["d"] * 300))],
    ],
    ids=["name too long", "path too long", "below a file", "link loop", "link to nothing",
         "link below nothing", "link to a directory", "owner too large", "too deep"],
)  # fmt: skip
def test_what_has_no_safe_meaning_is_refused(root: Path, members: list[Member]) -> None:
    with pytest.raises(InvalidImageError):
        unpack(root, tar(members))


def test_links_cannot_be_used_to_nest_deeper_than_allowed(root: Path) -> None:
    chain = "/".join(["d"] * 200)
    with pytest.raises(InvalidImageError, match="deep"):
        unpack(root, tar([directory(chain), symlink("l", chain), file("l/" + chain + "/f")]))


def test_more_content_than_allowed_is_refused_before_it_is_written(root: Path) -> None:
    with pytest.raises(TooLargeError):
        unpack(root, tar([file("f", b"x" * 2000)]), limits=UnpackLimits(bytes_max=1000))
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) == 0


def test_more_entries_than_allowed_are_refused(root: Path) -> None:
    many = tar([file(f"f{n}", b"") for n in range(11)])
    with pytest.raises(TooLargeError):
        unpack(root, many, limits=UnpackLimits(entries_max=10))


def test_a_claimed_size_of_petabytes_costs_nothing(root: Path) -> None:
    info = tarfile.TarInfo("f")
    info.size = 1 << 50
    with pytest.raises(TooLargeError):
        unpack(root, info.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_extension_header_of_gigabytes_is_refused_unread(root: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("f")
    info.size, info.type = 8 << 30, kind
    with pytest.raises(InvalidImageError, match="extension header"):
        unpack(root, info.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize(
    "records",
    [b"8 path=a\n", b"99999 path=x\n", b"x", b"0 a=b\n", b"7 path\n", b"-1 a=b\n",
     b"12 size=zzzz\n", b"27 size=99999999999999999999\n", b"17 GNU.sparse.a=1\n", b"9 path=\0x\n",
     b"12 path=a\0b\n"],
)  # fmt: skip
def test_a_malformed_pax_header_is_refused(root: Path, records: bytes) -> None:
    info = tarfile.TarInfo("pax")
    info.size, info.type = len(records), b"x"
    blob = info.tobuf() + records + bytes(-len(records) % 512) + tarfile.TarInfo("f").tobuf()
    with pytest.raises(InvalidImageError):
        unpack(root, blob)


def test_a_sparse_file_is_refused_by_name(root: Path) -> None:
    info = tarfile.TarInfo("f")
    info.type = b"S"
    with pytest.raises(InvalidImageError, match="sparse"):
        unpack(root, info.tobuf())


@pytest.mark.parametrize("cut", [100, 600, 1000])
def test_an_archive_that_is_cut_off_is_refused(root: Path, cut: int) -> None:
    with pytest.raises(InvalidImageError):
        unpack(root, tar([file("f", b"x" * 2000)])[:cut])


@given(noise=st.binary(min_size=512, max_size=2048), at=st.integers(0, 1500))
def test_any_bytes_are_entries_or_a_refusal(noise: bytes, at: int) -> None:
    good = tar([file("f", b"x" * 700), symlink("l", "t")])
    for blob in (noise, good[:at] + noise + good[at:]):
        stream = TarStream(io.BytesIO(blob))
        try:
            for _ in stream:
                for _ in stream.read_data():
                    pass
        except InvalidImageError:
            pass


def test_a_check_that_raises_stops_the_work(root: Path) -> None:
    def check() -> None:
        if (root / "a").exists():
            raise KeyError("stop")

    with pytest.raises(KeyError):
        unpack(root, tar([file("a"), file("b")]), check=check)
    assert listing(root) == {"a": b"x"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_owners_are_kept_as_root(root: Path) -> None:
    unpack(root, tar([file("f", uid=1234, gid=77), symlink("l", "f"), directory("d", uid=5)]))
    assert ((root / "f").stat().st_uid, (root / "f").stat().st_gid) == (1234, 77)
    assert (root / "d").stat().st_uid == 5
