"""Keeps the files of a sandbox as a snapshot, and has a new one start with them.

Where the runtime has layers, what a sandbox wrote is read from its layer on this host: a checkpoint
walks what changed since the snapshot it was made on and nothing else, and when the sandbox is to
end anyway its layer stays ready for children. Elsewhere the agent packs the files as a tar. Both
give the same snapshot.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

from faas.errors import ConflictError, UnsupportedError
from faas.executor.files_state import capture, restore
from faas.executor.layers import ReadyLayers, Wanted, layering
from faas.executor.written import folder_of, settled_by
from faas.ids import SnapshotId
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.layers import LayerStack, Written
from faas.sandbox.protocols import RootFilesystem, Sandbox
from faas.sandbox.registry import Registry
from faas.snapshots import SnapshotInfo, SnapshotRecord, SnapshotStore
from faas.snapshots.manifest import Manifest

TARS_MAX = 4
"""Unpacked snapshots kept for the next child; ten forks of one parent unpack it once."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be kept, and as what."""

    root: RootFilesystem
    info: SnapshotInfo
    disk_bytes: int
    alias: str | None = None
    snapshot_id: SnapshotId | None = None


class Keeping:
    """Reads sandboxes into snapshots, and gives snapshots to sandboxes."""

    def __init__(
        self, directory: Path, *, snapshots: SnapshotStore, layers: ReadyLayers, registry: Registry
    ) -> None:
        self._directory = directory
        self._snapshots = snapshots
        self._registry = registry
        self._tars = _Tars(directory, snapshots)
        self.layers = layers
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in directory.iterdir():
            if leftover.is_file():
                leftover.unlink()

    async def keep_last(self, sandbox: Sandbox, subject: Subject) -> SnapshotRecord:
        """Keep the files of a sandbox that nobody needs any more; it may be ended by this."""
        runtime = self._registry.get(sandbox.runtime)
        owner = None if runtime is None else layering(runtime)
        if owner is None or runtime is None or not isinstance(sandbox, GuardedSandbox):
            return await self.keep(sandbox, subject)
        async with (
            self._snapshots.held(sandbox.base) as below,
            self.layers.holding(runtime, sandbox.base) as stack,
        ):
            if below is None and sandbox.base is not None:
                return await self._keep_tar(sandbox, subject)
            try:
                layer = await sandbox.end_as_layer()
            except UnsupportedError:
                return await self._keep_tar(sandbox, subject)
            written = Written(layer.top, layer.first_uid, sandbox.base)
            try:
                record = await self._commit(written, subject, below)
            except BaseException:
                await owner.drop_layer(layer)
                raise
            await self.layers.keep(runtime, record.id, layer, stack)
            return record

    async def keep(self, sandbox: Sandbox, subject: Subject) -> SnapshotRecord:
        """Keep the files of a sandbox as they are found now; it lives on."""
        if not isinstance(sandbox, GuardedSandbox):
            return await self._keep_tar(sandbox, subject)
        async with self._snapshots.held(sandbox.base) as below:
            if below is None and sandbox.base is not None:
                return await self._keep_tar(sandbox, subject)
            try:
                async with sandbox.look() as written:
                    return await self._commit(written, subject, below)
            except UnsupportedError:
                return await self._keep_tar(sandbox, subject)

    @asynccontextmanager
    async def stack_for(self, wanted: Wanted) -> AsyncGenerator[LayerStack | None]:
        """Lend what a child is to be made on; None when it must be filled by `fill`."""
        async with AsyncExitStack() as holding:
            await holding.enter_async_context(self._snapshots.held(wanted.snapshot_id))
            stack = None
            with suppress(UnsupportedError):
                stack = await holding.enter_async_context(self.layers.lent(wanted))
            yield stack

    async def fill(self, snapshot_id: str, sandbox: Sandbox) -> None:
        """Bring a fresh sandbox to what a snapshot keeps; nothing when it was made on it.

        Raises:
            ConflictError: the sandbox has another image.
        """
        record = await self._snapshots.get(snapshot_id)
        if record.image_digest != sandbox.image_digest:
            raise ConflictError(
                f"{snapshot_id} was taken over the image {record.image_digest[:19]},"
                f" not {sandbox.image_digest[:19]}"
            )
        if isinstance(sandbox, GuardedSandbox) and sandbox.base == record.id:
            return
        async with self._snapshots.held(record.id), self._tars.lent(record.id) as tar:
            await restore(sandbox, tar)

    async def _commit(
        self, written: Written, subject: Subject, below: Manifest | None
    ) -> SnapshotRecord:
        return await self._snapshots.commit(
            subject.info,
            {"files": folder_of(written, subject.root, disk_bytes=subject.disk_bytes)},
            over=below,
            settle=settled_by(subject.root),
            snapshot_id=subject.snapshot_id,
            alias=subject.alias,
        )

    async def _keep_tar(self, sandbox: Sandbox, subject: Subject) -> SnapshotRecord:
        with NamedTemporaryFile(dir=self._directory, prefix="taken-", suffix=".tar") as staged:
            await capture(sandbox, subject.root, Path(staged.name))
            with Path(staged.name).open("rb") as tar:  # noqa: ASYNC230  local, and only opened
                return await self._snapshots.commit(
                    subject.info,
                    {"files": tar},
                    snapshot_id=subject.snapshot_id,
                    alias=subject.alias,
                )


@dataclass(slots=True, eq=False)
class _Tar:
    path: Path
    users: int = 0
    made: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_whole: bool = False


class _Tars:
    """Snapshots written out as tars, the last few kept."""

    def __init__(self, directory: Path, snapshots: SnapshotStore) -> None:
        self._directory = directory
        self._snapshots = snapshots
        self._tars: OrderedDict[SnapshotId, _Tar] = OrderedDict()

    @asynccontextmanager
    async def lent(self, snapshot_id: SnapshotId) -> AsyncGenerator[Path]:
        """Give the path of the tar; it stays while it is used."""
        tar = self._tars.setdefault(snapshot_id, _Tar(self._directory / f"{snapshot_id}.tar"))
        self._tars.move_to_end(snapshot_id)
        tar.users += 1
        try:
            async with tar.made:
                if not tar.is_whole:
                    with tar.path.open("wb") as sink:
                        await self._snapshots.write_tar(snapshot_id, "files", sink)
                    tar.is_whole = True
            yield tar.path
        finally:
            tar.users -= 1
            self._trim()

    def _trim(self) -> None:
        spare = [snapshot_id for snapshot_id, tar in self._tars.items() if not tar.users]
        for snapshot_id in spare[: max(0, len(self._tars) - TARS_MAX)]:
            path = self._tars.pop(snapshot_id).path
            if path.exists():
                path.unlink()
