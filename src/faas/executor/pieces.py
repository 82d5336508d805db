"""What a container wrote, place by place, as the tars its agent packed: what a snapshot is made of,
and what its first children are given, without waiting for it.

A container can be written in a few directories only, so a tar of each is all there is. A child in
another container of the same image is given them as they are; whoever unpacks a tar takes it for
hostile, whoever packed it. The last few stay for the next child; the snapshot says the same.
"""

import asyncio
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from faas.errors import NotFoundError
from faas.ids import SnapshotId
from faas.sandbox.guarded import save_archive
from faas.sandbox.protocols import Sandbox
from faas.snapshots import Tars
from faas.snapshots.tree import clean_path

PREFIX = "pieces-"
"""Of their folders: what a dead gateway left is found by it."""
KEPT_MAX = 4
"""Of whole states; ten forks of one parent are given the same."""
_EMPTY_BYTES = 1024
"""A tar of nothing is its end, two blocks."""


@dataclass(slots=True, eq=False)
class Pieces:
    """The places of one container."""

    runtime: str
    image_digest: str
    folder: Path
    tars: tuple[tuple[str, Path], ...]
    users: int = 0
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first child has them, or somebody waits for the snapshot."""

    @contextmanager
    def opened(self) -> Generator[Tars]:
        """Open them to be read into a snapshot."""
        with ExitStack() as files:
            yield Tars(
                tuple(
                    (clean_path(at), files.enter_context(tar.open("rb"))) for at, tar in self.tars
                )
            )

    @contextmanager
    def held(self) -> Generator[None]:
        """Keep the files there meanwhile."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    def fits(self, sandbox: Sandbox) -> bool:
        """Whether a sandbox can be given them."""
        return sandbox.runtime == self.runtime and sandbox.image_digest == self.image_digest

    async def give(self, sandbox: Sandbox) -> None:
        """Unpack them into a fresh sandbox."""
        for place, tar in self.tars:
            if tar.stat().st_size > _EMPTY_BYTES:
                await sandbox.put_archive(tar, path=place)
        self.wanted.set()


async def take(sandbox: Sandbox, places: tuple[str, ...], folder: Path) -> Pieces:
    """Have the places of a sandbox packed into a new folder."""
    await asyncio.to_thread(folder.mkdir, mode=0o700)
    tars: list[tuple[str, Path]] = []
    try:
        for number, place in enumerate(places):
            with suppress(NotFoundError):
                tar = folder / str(number)
                await save_archive(sandbox, place, tar)
                tars.append((place, tar))
    except BaseException:
        await asyncio.to_thread(_remove, folder)
        raise
    return Pieces(sandbox.runtime, sandbox.image_digest, folder, tuple(tars))


class KeptPieces:
    """The last few, by the snapshot that says the same."""

    def __init__(self, spawn: Callable[[Coroutine[object, object, None]], object]) -> None:
        self._spawn = spawn
        self._kept: OrderedDict[str, Pieces] = OrderedDict()

    def keep(self, snapshot_id: SnapshotId, pieces: Pieces) -> None:
        """Take them over."""
        self._kept[snapshot_id] = pieces
        self._trim()

    def has(self, snapshot_id: str) -> bool:
        """Whether those of a snapshot are here."""
        return snapshot_id in self._kept

    @contextmanager
    def lent(self, snapshot_id: str, sandbox: Sandbox) -> Generator[Pieces | None]:
        """Lend those of a snapshot, if this sandbox can be given them; they stay meanwhile."""
        pieces = self._kept.get(snapshot_id)
        if pieces is None or not pieces.fits(sandbox):
            yield None
            return
        self._kept.move_to_end(snapshot_id)
        with pieces.held():
            yield pieces

    def forget(self, snapshot_id: str) -> None:
        """Take them away; what is lent stays open with whoever unpacks it."""
        pieces = self._kept.pop(snapshot_id, None)
        if pieces is not None:
            # Its name is free at once; removing gigabytes takes a while.
            gone = pieces.folder.with_name(f"{PREFIX}gone-{secrets.token_hex(8)}")
            with suppress(FileNotFoundError):
                pieces.folder.rename(gone)
                self._spawn(asyncio.to_thread(_remove, gone))

    def _trim(self) -> None:
        spare = [name for name, pieces in self._kept.items() if not pieces.users]
        for name in spare[: max(0, len(self._kept) - KEPT_MAX)]:
            self.forget(name)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
