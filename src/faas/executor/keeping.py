"""Keeps the files of a sandbox as a snapshot, and has a new one start with them.

Where the runtime has layers, what a sandbox wrote is read from its layer on this host: a checkpoint
walks what changed since the snapshot it was made on and nothing else, and when the sandbox is to
end anyway its layer stays ready for children. Elsewhere the agent packs the files as a tar, or one
for each place where only a few can be written. All give the same snapshot.
"""

import asyncio
import logging
import shutil
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from faas.clock import within
from faas.errors import ConflictError, FaasError, SnapshotNotFoundError, UnsupportedError
from faas.executor import pieces as piecemeal
from faas.executor.files_state import capture, may_lie_outside, restore, restore_places
from faas.executor.head_start import HeadStart
from faas.executor.layers import ReadyLayers, Wanted, layering
from faas.executor.pieces import KeptPieces, Pieces
from faas.executor.written import folder_of, settled_by
from faas.ids import SnapshotId, new_snapshot_id
from faas.sandbox.capabilities import Capability, Confining
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.layers import LayerStack, Written
from faas.sandbox.protocols import RootFilesystem, Runtime, Sandbox
from faas.sandbox.registry import Registry
from faas.snapshots import SnapshotInfo, SnapshotRecord, SnapshotStore, Tars
from faas.snapshots.manifest import Entry, EntryKind, Manifest
from faas.snapshots.packer import Pace, in_haste

_log = logging.getLogger(__name__)

HEAD_START_SECONDS = 0.03
"""Children begin first: hashing beside it doubled the time of making their sandbox. Longer would
only lose more of them when the gateway dies."""
_CHILDREN_FIRST_SECONDS = 1.0
"""How long a snapshot waits for the first child; most are given theirs in a tenth of that."""
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


@dataclass(frozen=True, slots=True, eq=False)
class Promise:
    """A snapshot that children stand on already while it is being written."""

    id: SnapshotId
    subject: Subject
    written: "asyncio.Task[None]"
    is_wanted: asyncio.Event
    """Somebody waits for it."""


class Keeping:
    """Reads sandboxes into snapshots, and gives snapshots to sandboxes."""

    def __init__(
        self,
        directory: Path,
        *,
        snapshots: SnapshotStore,
        layers: ReadyLayers,
        registry: Registry,
        spawn: Callable[[Coroutine[object, object, None]], "asyncio.Task[None]"],
    ) -> None:
        self._directory = directory
        self._snapshots = snapshots
        self._registry = registry
        self._tars = _Tars(directory, snapshots)
        self._pieces = KeptPieces(spawn)
        self._promises: dict[str, Promise] = {}
        self._spawn = spawn
        self._head_start = HeadStart()
        self.layers = layers
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in directory.iterdir():
            if leftover.is_file():
                leftover.unlink()
            elif leftover.name.startswith(piecemeal.PREFIX):
                shutil.rmtree(leftover, ignore_errors=True)

    async def keep_last(self, sandbox: Sandbox, subject: Subject) -> SnapshotRecord:
        """Keep the files of a sandbox that nobody needs any more; it may be ended by this."""
        runtime = self._registry.get(sandbox.runtime)
        owner = None if runtime is None else layering(runtime)
        if owner is None or runtime is None or not isinstance(sandbox, GuardedSandbox):
            return await self.keep(sandbox, subject)
        await self.settle(sandbox.base)
        async with (
            self._snapshots.held(sandbox.base) as below,
            self.layers.holding(runtime, sandbox.base) as stack,
        ):
            if below is None and sandbox.base is not None:
                return await self._keep_tar(sandbox, subject)
            try:
                layer = await sandbox.end_as_layer()
            except UnsupportedError:
                return await self.keep(sandbox, subject)
            written = Written(layer.top, layer.first_uid, sandbox.base)
            try:
                record = await self._commit(written, subject, below)
            except BaseException:
                await owner.drop_layer(layer)
                raise
            await self.layers.keep(runtime, record.id, layer, stack)
            return record

    def promised(self, reference: str) -> Promise | None:
        """Return what is being written under that id or alias."""
        return self._promises.get(reference)

    async def settle(self, reference: str | None) -> None:
        """Wait until what is promised under that id or alias is written, or could not be."""
        promise = self._promises.get(reference or "")
        if promise is not None:
            promise.is_wanted.set()
            await asyncio.wait({promise.written})

    async def promise(self, sandbox: Sandbox, subject: Subject) -> Promise | None:
        """End a sandbox whose files children want at once: they stand on its layer, or are given
        its pieces, while the snapshot is written behind them. None, and it lives on, where that
        cannot be.

        A gateway that dies meanwhile loses the snapshot, and children that had not begun.
        """
        runtime = self._registry.get(sandbox.runtime)
        if runtime is None or not isinstance(sandbox, GuardedSandbox):
            return None
        places = self.places(sandbox.runtime, subject.root)
        if places is not None:
            return await self._promise_pieces(sandbox, subject, places)
        with self._head_start.taken():
            return await self._promise_layer(runtime, sandbox, subject)

    async def _promise_layer(
        self, runtime: Runtime, sandbox: GuardedSandbox, subject: Subject
    ) -> Promise | None:
        async with AsyncExitStack() as held:
            base = sandbox.base
            stack = await held.enter_async_context(self.layers.holding(runtime, base))
            is_known = base is None or self.promised(base) or await self._is_stored(base)
            if not is_known or not self.layers.has_room_over(runtime, stack):
                return None
            with suppress(UnsupportedError):
                layer = await sandbox.end_as_layer()
                made = subject.snapshot_id or new_snapshot_id()
                subject = replace(subject, snapshot_id=made)
                await held.enter_async_context(self.layers.holding(runtime, made))
                await self.layers.keep(runtime, made, layer, stack)
                written = Written(layer.top, layer.first_uid, base)
                is_wanted = asyncio.Event()
                task = self._spawn(self._write(written, subject, is_wanted, held.pop_all()))
                promise = Promise(made, subject, task, is_wanted)
                self._promises.update(dict.fromkeys((made, subject.alias or made), promise))
                return promise
        return None

    async def _write(
        self, written: Written, subject: Subject, is_wanted: asyncio.Event, held: AsyncExitStack
    ) -> None:
        made = subject.snapshot_id
        assert made is not None  # noqa: S101  it was promised under that id
        async with held:
            try:
                with suppress(TimeoutError):
                    await within(HEAD_START_SECONDS, is_wanted.wait())
                await self.settle(written.base)
                async with (
                    self._head_start.in_line(is_wanted),
                    self._snapshots.held(written.base) as below,
                ):
                    if below is None and written.base is not None:
                        raise SnapshotNotFoundError(f"{written.base} is gone")
                    pace = self._head_start.pace_of(is_wanted.is_set)
                    await self._commit(written, subject, below, pace=pace)
            except (FaasError, OSError):
                self.layers.forget(made)
                _log.exception("files could not be kept", extra={"snapshot_id": made})
            finally:
                self._unpromise(made, subject)

    async def _promise_pieces(
        self, sandbox: Sandbox, subject: Subject, places: tuple[str, ...]
    ) -> Promise:
        made = subject.snapshot_id or new_snapshot_id()
        subject = replace(subject, snapshot_id=made)
        pieces = await self._take_pieces(sandbox, places, made)
        pieces.users += 1  # from now on: the task that reads them begins a moment later

        async def write() -> None:
            try:
                # Writing takes a core, and whoever forked waits for a child.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CHILDREN_FIRST_SECONDS):
                        await pieces.wanted.wait()
                await self._commit_pieces(pieces, subject)
            except (FaasError, OSError):
                self._pieces.forget(made)
                _log.exception("files could not be kept", extra={"snapshot_id": made})
            finally:
                pieces.users -= 1
                self._unpromise(made, subject)

        promise = Promise(made, subject, self._spawn(write()), pieces.wanted)
        self._promises.update(dict.fromkeys((made, subject.alias or made), promise))
        return promise

    def _unpromise(self, made: SnapshotId, subject: Subject) -> None:
        for name in (made, subject.alias or made):
            self._promises.pop(name, None)

    async def _is_stored(self, reference: str) -> bool:
        with suppress(SnapshotNotFoundError):
            await self._snapshots.get(reference)
            return True
        return False

    async def keep(self, sandbox: Sandbox, subject: Subject) -> SnapshotRecord:
        """Keep the files of a sandbox as they are found now; it lives on."""
        if not isinstance(sandbox, GuardedSandbox):
            return await self._keep_tar(sandbox, subject)
        await self.settle(sandbox.base)
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
        if self._pieces.has(wanted.snapshot_id):  # no layer stands for it until it is written
            await self.settle(wanted.snapshot_id)
        async with AsyncExitStack() as holding:
            holding.enter_context(self._head_start.taken())
            if wanted.is_alone and self.layers.is_ready(wanted):
                # The store would bring its memory in first, which is not needed for this.
                digest = (await self._snapshots.get(wanted.snapshot_id)).image_digest
            else:
                kept = await holding.enter_async_context(self._snapshots.held(wanted.snapshot_id))
                digest = wanted.root.digest if kept is None else kept.image_digest
            check_image(wanted.snapshot_id, digest, wanted.root.digest)
            stack = None
            with suppress(UnsupportedError):
                stack = await holding.enter_async_context(self.layers.lent(wanted))
            yield stack

    async def fill(self, snapshot_id: str, sandbox: Sandbox, root: RootFilesystem) -> None:
        """Bring a fresh sandbox to what a snapshot keeps; nothing when it was made on it.

        Raises:
            ConflictError: the sandbox has another image.
        """
        if isinstance(sandbox, GuardedSandbox) and sandbox.base == snapshot_id:
            return
        if await self.fill_at_once(snapshot_id, sandbox):
            return
        await self.settle(snapshot_id)
        record = await self._snapshots.get(snapshot_id)
        check_image(snapshot_id, record.image_digest, sandbox.image_digest)
        async with self._snapshots.held(record.id), self._tars.lent(record.id) as tar:
            await self.unpack(tar, sandbox, root)

    async def unpack(self, tar: Path, sandbox: Sandbox, root: RootFilesystem) -> None:
        """Bring a fresh sandbox to what a tar keeps, wherever it can be written.

        Raises:
            UnsupportedError: something lies where it cannot be written.
        """
        places = self.places(sandbox.runtime, root)
        if places is None:
            await restore(sandbox, tar)
        else:
            await restore_places(sandbox, places, tar)

    async def fill_at_once(self, snapshot_id: str, sandbox: Sandbox) -> bool:
        """Give a fresh sandbox the pieces a snapshot is made of, perhaps before it is written;
        False, and nothing is done, where there are none that fit."""
        with self._pieces.lent(snapshot_id, sandbox) as pieces:
            if pieces is None:
                return False
            await pieces.give(sandbox)
            return True

    async def _commit(
        self,
        written: Written,
        subject: Subject,
        below: Manifest | None,
        *,
        pace: Pace = in_haste,
    ) -> SnapshotRecord:
        return await self._snapshots.commit(
            subject.info,
            {"files": folder_of(written, subject.root, disk_bytes=subject.disk_bytes)},
            over=below,
            settle=settled_by(subject.root),
            judge=partial(self._able, subject.root),
            snapshot_id=subject.snapshot_id,
            alias=subject.alias,
            pace=pace,
        )

    def places(self, runtime: str, root: RootFilesystem) -> tuple[str, ...] | None:
        """Where a sandbox of that runtime can be written; None: everywhere."""
        found = self._registry.get(runtime)
        return found.writable(root) if isinstance(found, Confining) else None

    def _able(self, root: RootFilesystem, tree: Mapping[str, Entry]) -> tuple[str, ...]:
        """Name the runtimes of this gateway that can restore these files."""
        able: list[str] = []
        for name in self._registry.names:
            runtime = self._registry.get(name)
            places = self.places(name, root)
            has_image = runtime is not None and (
                root.path is not None or Capability.HOST_IMAGE in runtime.capabilities
            )
            inside = None if places is None else tuple(f"{p.strip('/')}/" for p in places)
            if has_image and (inside is None or _fits(tree, inside)):
                able.append(name)
        return tuple(able)

    async def _keep_tar(self, sandbox: Sandbox, subject: Subject) -> SnapshotRecord:
        places = self.places(sandbox.runtime, subject.root)
        if places is not None:
            made = subject.snapshot_id or new_snapshot_id()
            pieces = await self._take_pieces(sandbox, places, made)
            try:
                return await self._commit_pieces(pieces, replace(subject, snapshot_id=made))
            except BaseException:
                self._pieces.forget(made)
                raise
        with NamedTemporaryFile(dir=self._directory, prefix="taken-", suffix=".tar") as staged:
            await capture(sandbox, subject.root, Path(staged.name))
            with Path(staged.name).open("rb") as tar:  # noqa: ASYNC230  local, and only opened
                return await self._commit_tar(tar, subject)

    async def _take_pieces(
        self, sandbox: Sandbox, places: tuple[str, ...], made: SnapshotId
    ) -> Pieces:
        pieces = await piecemeal.take(
            sandbox, places, self._directory / f"{piecemeal.PREFIX}{made}"
        )
        self._pieces.keep(made, pieces)
        return pieces

    async def _commit_pieces(self, pieces: Pieces, subject: Subject) -> SnapshotRecord:
        with pieces.held(), pieces.opened() as tars:
            return await self._commit_tar(tars, subject)

    async def _commit_tar(self, tar: Tars | IO[bytes], subject: Subject) -> SnapshotRecord:
        return await self._snapshots.commit(
            subject.info,
            {"files": tar},
            judge=partial(self._able, subject.root),
            snapshot_id=subject.snapshot_id,
            alias=subject.alias,
        )


def _fits(tree: Mapping[str, Entry], inside: tuple[str, ...]) -> bool:
    return all(
        path.startswith(inside)
        or may_lie_outside(path, inside, is_folder=entry.kind is EntryKind.DIRECTORY)
        for path, entry in tree.items()
    )


def check_image(snapshot_id: str, of_snapshot: str, of_sandbox: str) -> None:
    """Refuse a sandbox of another image."""
    if of_snapshot != of_sandbox:
        raise ConflictError(
            f"{snapshot_id} was taken over the image {of_snapshot[:19]}, not {of_sandbox[:19]}"
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
