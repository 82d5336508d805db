"""A sandbox took over its agent, and the tar of its files says that a file is without end."""

import io
import tarfile
from collections.abc import AsyncGenerator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from faas.clock import FakeClock
from faas.errors import InvalidArgumentError
from faas.executor.files_state import capture
from faas.ids import new_sandbox_id
from faas.sandbox.fake import FakeHost
from faas.sandbox.protocols import RootFilesystem, SandboxSpec
from faas.snapshots import Tars
from faas.snapshots.chunks import ChunkIndex
from faas.snapshots.packer import Packer
from faas.snapshots.tree import from_tars


def endless() -> bytes:
    """A file of a thousand bytes that claims to be 4 EiB of holes."""
    member = tarfile.TarInfo("huge")
    member.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
        "GNU.sparse.name": "huge", "GNU.sparse.realsize": str(1 << 62),
    }  # fmt: skip
    blocks = b"1\n0\n1\n".ljust(512, b"\0") + b"x".ljust(512, b"\0")
    member.size, sink = len(blocks), io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as packed:
        packed.addfile(member, io.BytesIO(blocks))
    return sink.getvalue()


def test_it_does_not_keep_a_snapshot_for_ever() -> None:
    with ThreadPoolExecutor(1) as workers, pytest.raises(InvalidArgumentError, match="sparse"):
        from_tars(
            Tars((("tmp", io.BytesIO(endless())),)),
            Packer(ChunkIndex(), lambda _: Future(), workers),
        )


async def test_it_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = RootFilesystem(digest="host", path=None)
    sandbox = await FakeHost(FakeClock()).make(SandboxSpec(id=new_sandbox_id(), root=root))
    await sandbox.write_file("/tmp/f", b"x")

    async def hostile(path: str) -> AsyncGenerator[bytes]:
        del path
        yield endless()

    monkeypatch.setattr(sandbox, "get_archive", hostile)
    with pytest.raises(InvalidArgumentError, match="sparse"):
        await capture(sandbox, root, tmp_path / "s.tar")
