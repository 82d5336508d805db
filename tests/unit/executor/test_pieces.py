"""The places of a sandbox as tars: taken, given to children, kept for a few of them."""

from pathlib import Path

import pytest

from faas.clock import FakeClock
from faas.errors import SandboxBrokenError
from faas.executor.background import Background
from faas.executor.pieces import KEPT_MAX, KeptPieces, Pieces, take
from faas.ids import new_sandbox_id, new_snapshot_id
from faas.sandbox.fake import FakeHost, FakeSandbox
from faas.sandbox.protocols import RootFilesystem, SandboxSpec


async def make(digest: str = "host") -> FakeSandbox:
    root = RootFilesystem(digest=digest, path=None)
    return await FakeHost(FakeClock()).make(SandboxSpec(id=new_sandbox_id(), root=root))


async def taken(folder: Path) -> Pieces:
    return await take(await make(), ("/tmp",), folder)


async def test_what_was_taken_is_given(tmp_path: Path) -> None:
    parent, child = await make(), await make()
    await parent.write_file("/tmp/a/f", b"one", mode=0o600)
    await parent.write_file("/workspace/g", b"two")
    await parent.write_file("/etc/h", b"elsewhere")
    pieces = await take(parent, ("/tmp", "/workspace", "/not/there"), tmp_path / "p")

    await pieces.give(child)

    assert await child.read_file("/tmp/a/f") == b"one"
    assert (await child.stat("/tmp/a/f")).mode == 0o600
    assert await child.read_file("/workspace/g") == b"two"
    assert [place for place, _ in pieces.tars] == ["/tmp", "/workspace"]


async def test_a_sandbox_that_breaks_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await make()

    async def broken(_path: str):
        yield b"half"
        raise SandboxBrokenError

    monkeypatch.setattr(sandbox, "get_archive", broken)
    with pytest.raises(SandboxBrokenError):
        await take(sandbox, ("/tmp",), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


async def test_the_last_few_are_kept_and_what_is_lent_stays(tmp_path: Path) -> None:
    background = Background()
    kept, ids = KeptPieces(background.spawn), [new_snapshot_id() for _ in range(KEPT_MAX + 2)]
    child = await make()
    kept.keep(ids[0], await taken(tmp_path / "0"))
    with kept.lent(ids[0], child) as first:
        assert first is not None
        for number, snapshot_id in enumerate(ids[1:], 1):
            kept.keep(snapshot_id, await taken(tmp_path / str(number)))
        await background.join()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "3", "4", "5"]
        await first.give(child)
    with kept.lent(ids[1], child) as gone:
        assert gone is None
    kept.forget(ids[0])
    assert not (tmp_path / "0").exists()
    await background.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "5"]


async def test_only_a_sandbox_of_the_same_image_is_given_them(tmp_path: Path) -> None:
    kept, snapshot_id = KeptPieces(Background().spawn), new_snapshot_id()
    kept.keep(snapshot_id, await taken(tmp_path / "p"))
    with kept.lent(snapshot_id, await make("sha256:other")) as pieces:
        assert pieces is None
