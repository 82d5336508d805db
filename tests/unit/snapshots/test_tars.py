"""The places of a sandbox, read from one tar each: they are hostile."""

import io
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from faas.errors import InvalidArgumentError
from faas.snapshots import Tars
from faas.snapshots.chunks import ChunkIndex
from faas.snapshots.manifest import Entry, EntryKind
from faas.snapshots.packer import Packer
from faas.snapshots.tree import GONE, from_tars


def tar(*members: tarfile.TarInfo | str) -> io.BytesIO:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as packed:
        for one in members:
            member = tarfile.TarInfo(one) if isinstance(one, str) else one
            if member.isreg() and not member.pax_headers:
                member.size = 1
            packed.addfile(member, io.BytesIO(b"x") if member.isreg() else None)
    sink.seek(0)
    return sink


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def read(*parts: tuple[str, io.BytesIO]) -> dict[str, Entry]:
    with ThreadPoolExecutor(1) as workers:
        packer = Packer(ChunkIndex(None), lambda _: Future(), workers)
        return {entry.path: entry for entry in from_tars(Tars(parts), packer)}


def test_each_lies_in_its_place() -> None:
    top = member(".", tarfile.DIRTYPE)
    top.mode = 0o1777
    found = read(("tmp", tar(top, "./a")), ("var/tmp", tar(top, "./b")))
    assert list(found) == ["tmp", "tmp/a", "var/tmp", "var/tmp/b"]
    assert found["tmp"].kind is EntryKind.DIRECTORY
    assert found["tmp"].mode == 0o1777


def test_a_hard_link_is_followed_in_its_place_only() -> None:
    linked = member("b", tarfile.LNKTYPE, "./a")
    found = read(("tmp", tar("a", linked)), ("root", tar(linked)))
    assert found["tmp/b"].chunks == found["tmp/a"].chunks
    assert "root/b" not in found


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/../a"])
def test_a_name_that_leads_out_of_its_place_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="outside"):
        read(("tmp", tar(name)))
    with pytest.raises(InvalidArgumentError, match="outside"):
        read(("tmp", tar(member("b", tarfile.LNKTYPE, name))))


def test_marks_and_devices_are_not_believed() -> None:
    mark = tarfile.TarInfo("etc")
    mark.pax_headers = {GONE: "1"}
    found = read(("tmp", tar(mark, member("null", tarfile.CHRTYPE), member("p", tarfile.FIFOTYPE))))
    assert {path: entry.kind for path, entry in found.items()} == {"tmp/etc": EntryKind.FILE}


def test_what_is_no_tar_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="not a tar"):
        read(("tmp", io.BytesIO(b"x" * 2048)))


def test_a_tar_that_is_cut_off_is_refused() -> None:
    whole = tar("a", "b").getvalue()
    with pytest.raises(InvalidArgumentError, match="not a tar"):
        read(("tmp", io.BytesIO(whole[:1024] + whole[1024:1540])))
