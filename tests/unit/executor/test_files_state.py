"""What is kept of a sandbox's files, and that it comes back the same."""

import tarfile
from pathlib import Path

import pytest

from faas.clock import FakeClock
from faas.executor.files_state import capture, restore
from faas.ids import new_sandbox_id
from faas.sandbox.fake import FakeHost, FakeSandbox
from faas.sandbox.protocols import RootFilesystem, SandboxSpec

HOST = RootFilesystem(digest="host", path=None)


async def _sandbox(root: RootFilesystem) -> FakeSandbox:
    return await FakeHost(FakeClock()).make(SandboxSpec(id=new_sandbox_id(), root=root))


def _names(tar: Path) -> list[str]:
    with tarfile.open(tar) as archive:
        return sorted(member.name for member in archive)


async def test_files_come_back_in_another_sandbox(tmp_path: Path) -> None:
    parent = await _sandbox(HOST)
    await parent.write_file("/tmp/a/state.txt", b"initial", mode=0o600)
    await parent.write_file("/top.txt", b"top")
    await capture(parent, HOST, tmp_path / "s.tar")
    child = await _sandbox(HOST)

    await restore(child, tmp_path / "s.tar")

    assert await child.read_file("/tmp/a/state.txt") == b"initial"
    assert (await child.stat("/tmp/a/state.txt")).mode == 0o600
    assert await child.read_file("/top.txt") == b"top"


async def test_the_machines_own_places_are_left_out(tmp_path: Path) -> None:
    sandbox = await _sandbox(HOST)
    for path in ("/proc/x", "/sys/x", "/dev/x", "/run/x", "/usr/x", "/etc/x"):
        await sandbox.write_file(path, b"x")

    await capture(sandbox, HOST, tmp_path / "s.tar")

    assert _names(tmp_path / "s.tar") == []


async def test_of_an_image_only_what_differs_is_kept(tmp_path: Path) -> None:
    tree = tmp_path / "rootfs"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/same").write_bytes(b"same")
    (tree / "usr/bin/changed").write_bytes(b"old")
    (tree / "usr/bin/gone").write_bytes(b"gone")
    root = RootFilesystem(digest="sha256:1", path=tree)
    sandbox = await _sandbox(root)
    await sandbox.write_file("/usr/bin/changed", b"new!")
    await sandbox.write_file("/usr/bin/added", b"added")

    await capture(sandbox, root, tmp_path / "s.tar")

    names = _names(tmp_path / "s.tar")
    assert {"usr/bin/changed", "usr/bin/added", "usr/bin/gone"} <= set(names)
    child = await _sandbox(root)
    await child.write_file("/usr/bin/gone", b"gone")
    await restore(child, tmp_path / "s.tar")
    assert [entry.name for entry in await child.list_dir("/usr/bin")] == ["added", "changed"]


@pytest.mark.parametrize("name", ["../x", "a/../../x"])
async def test_a_sandbox_cannot_name_what_lies_outside(tmp_path: Path, name: str) -> None:
    from faas.errors import InvalidArgumentError

    sandbox = await _sandbox(HOST)
    await sandbox.make_dir("/data")
    sandbox._box.files[f"/data/{name}"] = b"x"
    sandbox._box.modes[f"/data/{name}"] = 0o644

    class Hostile(FakeSandbox):
        async def get_archive(self, path):  # type: ignore[no-untyped-def]
            import io

            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as archive:
                archive.addfile(tarfile.TarInfo(name))
            yield stream.getvalue()

    hostile = Hostile(sandbox._host, sandbox._box)

    with pytest.raises(InvalidArgumentError):
        await capture(hostile, HOST, tmp_path / "s.tar")
