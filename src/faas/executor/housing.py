"""What an instance lives in: its sandbox made, filled from a snapshot, read into one, taken back.

Nothing here knows of states; `instances` says when.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from faas.clock import Clock
from faas.errors import FaasError, SnapshotNotFoundError, UnsupportedError, WrongStateError
from faas.events import EventBus
from faas.executor.disposal import Disposal
from faas.executor.images import ImageResolver
from faas.executor.instance_records import InstanceRecord
from faas.executor.keeping import Keeping, Subject
from faas.executor.layers import Wanted as Child
from faas.executor.memory_shelf import MemoryShelf
from faas.executor.settings import ExecutorSettings
from faas.ids import SnapshotId
from faas.sandbox.capabilities import Resumption
from faas.sandbox.guarded import GuardedSandbox, create_guarded, guard_adopted
from faas.sandbox.layers import LayerStack
from faas.sandbox.protocols import Process, RootFilesystem, Runtime, SandboxSpec
from faas.sandbox.registry import Registry
from faas.snapshots import SnapshotInfo, SnapshotRecord, SnapshotStore

ADOPT_SECONDS_MAX = 10.0
"""Connecting to a live agent is instant; one that does not answer is broken."""


class Housing:
    """Makes and reads sandboxes of instances."""

    def __init__(
        self,
        settings: ExecutorSettings,
        *,
        registry: Registry,
        images: ImageResolver,
        snapshots: SnapshotStore | None,
        keeping: Keeping | None,
        shelf: MemoryShelf | None,
        disposal: Disposal,
        events: EventBus,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._images = images
        self._snapshots = snapshots
        self._keeping = keeping
        self._shelf = shelf
        self._disposal = disposal
        self._events = events
        self._clock = clock

    @property
    def keeps_snapshots(self) -> bool:
        """Whether files can be kept at all."""
        return self._snapshots is not None

    @property
    def store(self) -> SnapshotStore:
        """The store of snapshots.

        Raises:
            UnsupportedError: there is none.
        """
        if self._snapshots is None:
            raise UnsupportedError("this gateway keeps no snapshots")
        return self._snapshots

    async def make(
        self,
        record: InstanceRecord,
        root: RootFilesystem,
        files: str | None,
        *,
        resumptions: Mapping[str, Resumption] | None = None,
        restored: dict[str, Process] | None = None,
    ) -> GuardedSandbox:
        """Make the sandbox that the record names, with the files of a snapshot.

        Args:
            record: names it.
            root: what it is made from.
            files: the snapshot, with its memory where it has one and the sandbox is made for it.
            resumptions: how commands in that memory go on; what others say is thrown away.
            restored: receives all its commands.
        """
        runtime = self._registry.get(record.runtime or "")
        if runtime is None:
            raise UnsupportedError(f"the runtime {record.runtime} is gone")
        assert record.sandbox_id is not None  # noqa: S101  written with the intent
        source = None if files is None else await self.store.get(files)
        goes_on = record.spec.memory and source is not None and source.has_memory
        async with self._ground_of(runtime, root, record, files) as layers:
            sandbox = await create_guarded(
                runtime,
                SandboxSpec(
                    id=record.sandbox_id,
                    root=root,
                    limits=record.spec.limits,
                    network=record.spec.network,
                    isolation_min=self._registry.demand(runtime.name, record.spec.isolation_min),
                    layers=layers,
                    keeps_memory=record.spec.memory,
                    is_refilled=goes_on,
                ),
                clock=self._clock,
                events=self._events,
                seconds_max=self._settings.create_seconds_max,
            )
        try:
            if goes_on and source is not None:
                going_on = await self._refill(sandbox, source, root, resumptions or {})
                if restored is not None:
                    restored.update(going_on)
            elif files is not None:
                await self._kept.fill(files, sandbox, root)
        except BaseException:
            self._disposal.take(sandbox, "its files could not be restored")
            raise
        return sandbox

    async def read(
        self,
        sandbox: GuardedSandbox,
        record: InstanceRecord,
        info: SnapshotInfo,
        snapshot_id: SnapshotId,
    ) -> SnapshotRecord:
        """Keep the files of a sandbox under that id."""
        subject = Subject(
            self.root_of(record), info, record.spec.limits.disk_bytes, snapshot_id=snapshot_id
        )
        return await self._kept.keep(sandbox, subject)

    async def read_memory(
        self,
        sandbox: GuardedSandbox,
        record: InstanceRecord,
        info: SnapshotInfo,
        snapshot_id: SnapshotId,
        *,
        before_the_end: Callable[[], Awaitable[None]] | None = None,
    ) -> SnapshotRecord:
        """Keep processes and files of a sandbox under that id; with `before_the_end`, it ends when
        that is done, and what it was woken from is needed no more.

        Raises:
            UnsupportedError: it was not made for that, or it cannot be kept; it runs on.
        """

        async def end(_: SnapshotRecord) -> None:
            assert before_the_end is not None  # noqa: S101  asked below
            await before_the_end()
            await sandbox.destroy("paused to disk")

        return await self._shelf_or_refuse().keep(
            sandbox,
            self.root_of(record),
            info,
            disk_bytes=record.spec.limits.disk_bytes,
            snapshot_id=snapshot_id,
            replaces=None if before_the_end is None else record.snapshot_id,
            before_going_on=None if before_the_end is None else end,
        )

    async def _refill(
        self,
        sandbox: GuardedSandbox,
        source: SnapshotRecord,
        root: RootFilesystem,
        resumptions: Mapping[str, Resumption],
    ) -> Mapping[str, Process]:
        """Files, then processes."""
        async with self._shelf_or_refuse().lent(source) as kept:
            if kept.tar is not None and sandbox.base != source.id:
                await self._kept.unpack(kept.tar, sandbox, root)
            else:
                await self._kept.fill(source.id, sandbox, root)
            return await sandbox.restore_processes(kept.images, resumptions)

    def _shelf_or_refuse(self) -> MemoryShelf:
        if self._shelf is None:
            raise UnsupportedError("this gateway keeps no memory")
        return self._shelf

    async def adopt(self, record: InstanceRecord) -> GuardedSandbox | None:
        """Take back the sandbox of an instance; None when it is gone."""
        runtime = self._registry.get(record.runtime or "")
        if runtime is None or record.sandbox_id is None:
            return None
        try:
            async with asyncio.timeout(ADOPT_SECONDS_MAX):
                sandbox = await runtime.adopt(record.sandbox_id)
        except (FaasError, OSError):
            return None
        return None if sandbox is None else guard_adopted(sandbox, events=self._events)

    def root_of(self, record: InstanceRecord) -> RootFilesystem:
        """Return the image an instance was made from.

        Raises:
            WrongStateError: its name means another one now.
        """
        root = self._images.resolve(record.spec.image)
        if root.digest != record.image_digest:
            raise WrongStateError(
                f"the image {record.spec.image} is another one than when the instance was made",
                details={"was": record.image_digest, "is": root.digest},
            )
        return root

    async def has(self, snapshot_id: SnapshotId) -> bool:
        """Whether there is such a snapshot."""
        if self._snapshots is None:
            return False
        with suppress(SnapshotNotFoundError):
            await self._snapshots.get(snapshot_id)
            return True
        return False

    async def forget(self, snapshot_id: SnapshotId | None) -> None:
        """Remove a snapshot that an instance needs no more, unless something was made from it."""
        if snapshot_id is not None and self._snapshots is not None:
            with suppress(FaasError):
                await self._snapshots.remove(snapshot_id)

    @asynccontextmanager
    async def _ground_of(
        self, runtime: Runtime, root: RootFilesystem, record: InstanceRecord, files: str | None
    ) -> AsyncGenerator[LayerStack | None]:
        if files is None:
            yield None
            return
        wanted = Child(
            runtime,
            root,
            SnapshotId(files),
            record.spec.limits.disk_bytes,
            is_alone=record.spec.memory,
        )
        async with self._kept.stack_for(wanted) as stack:
            yield stack

    @property
    def _kept(self) -> Keeping:
        if self._keeping is None:
            raise UnsupportedError("this gateway keeps no snapshots")
        return self._keeping
