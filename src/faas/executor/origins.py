"""Where an execution starts from: the files of a snapshot or of a parent, or its image alone.

A parent is named by the id of a snapshot, of an execution, or of something else that lives and has
files (`also`). Whatever it is, its files become a snapshot first, once, and children start from
that; so a child never depends on its parent's sandbox, and a gateway that dies leaves a queued
child something to start from. The parent may be

* a snapshot, or an execution of mode `checkpointed`: its snapshot;
* parked, that is ended a short while ago: its sandbox is read once and becomes a snapshot;
* running: its files as they are found now;
* ended longer ago: its files are gone.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from faas.errors import (
    ExecutionNotFoundError,
    NotFoundError,
    SnapshotNotFoundError,
    UnsupportedError,
    WrongStateError,
)
from faas.executor.active import Active
from faas.executor.descriptions import Wanted, config_of, of_active, of_parked, subject_of
from faas.executor.expiry import tidy
from faas.executor.inheritance import Parent, child_of, reference_in
from faas.executor.keeping import Keeping, Promise, check_image
from faas.executor.layers import Wanted as Child
from faas.executor.memory_shelf import MemoryShelf, runtime_for
from faas.executor.parking import Parked, Parking
from faas.executor.settings import ExecutorSettings
from faas.ids import ExecutionId, SnapshotId
from faas.model import ExecutionSpec, Mode
from faas.sandbox.capabilities import Resumption
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.layers import LayerStack
from faas.sandbox.protocols import Process, RootFilesystem, Sandbox
from faas.snapshots import FORKED, SnapshotInfo, SnapshotRecord, SnapshotStore
from faas.tenancy import Principal

AlsoHasFiles = Callable[[str, Principal], Awaitable[SnapshotRecord]]
"""Make a snapshot of something else that lives, such as an instance."""


@dataclass(frozen=True, slots=True)
class Executions:
    """How executions are found."""

    active: Callable[[ExecutionId], Active | None]
    in_sandbox: Callable[[str], ExecutionId | None]
    is_stored: Callable[[ExecutionId, Principal], bool]
    resolve_image: Callable[[str], RootFilesystem]


class Origins:
    """Makes snapshots of executions, and starts executions from snapshots."""

    def __init__(
        self,
        keeping: Keeping,
        *,
        snapshots: SnapshotStore,
        parking: Parking,
        executions: Executions,
        shelf: MemoryShelf | None = None,
    ) -> None:
        self._keeping = keeping
        self.snapshots = snapshots
        self.also: dict[str, AlsoHasFiles] = {}
        """By the prefix of its ids."""
        self.also_memory: dict[str, AlsoHasFiles] = {}
        """The same, of what has memory."""
        self._shelf = shelf
        self._parking = parking
        self._executions = executions

    async def inherit(self, spec: ExecutionSpec, principal: Principal) -> ExecutionSpec:
        """Return the spec as it is run: its parent found, and what it inherits filled in.

        Raises:
            InvalidArgumentError: what is said of the parent does not fit the mode.
            NotFoundError: there is no such parent, or its files are gone.
        """
        reference = reference_in(spec)
        if reference is None:
            return spec
        if spec.is_resumption:
            record = await self.memory_of(reference, principal)
            spec = replace(spec, runtime=runtime_for(record, spec.runtime))
            parent = await self._parent(record)
        else:
            parent = await self.parent_of(reference, principal)
        return child_of(spec, parent, self._executions.resolve_image)

    async def parent_of(self, reference: str, principal: Principal) -> Parent:
        """Return what a child starts from. The files of an execution that has just ended are there
        at once, and become a snapshot behind the children's backs.

        Raises:
            NotFoundError: there is nothing of that name, or its files are gone.
        """
        if reference.startswith("sbx-") and "sbx" not in self.also:
            reference = self._execution_in(reference)
        promise = self._keeping.promised(reference) or await self._promise(reference, principal)
        if promise is not None and promise.subject.info.tenant == principal.tenant.id:
            info = promise.subject.info
            return Parent(promise.id, info.image, info.image_digest, info.config)
        return await self._parent(await self.snapshot_of(reference, principal))

    async def _parent(self, record: SnapshotRecord) -> Parent:
        config = self._shelf.config(record.id) if self._shelf and record.has_memory else None
        if config is None:
            config = (await self.snapshots.manifest(record.id)).config
        return Parent(record.id, record.image, record.image_digest, config)

    async def settle(self, reference: str) -> None:
        """Wait until what is being written under that id is."""
        await self._keeping.settle(reference)

    async def _promise(self, reference: str, principal: Principal) -> Promise | None:
        if not reference.startswith("exec-"):
            return None
        execution_id = ExecutionId(reference)
        with self._parking.reading(execution_id, principal.tenant.id) as parked:
            if parked is None:
                return None
            async with parked.reading:
                promise = self._keeping.promised(reference)
                if promise is None and await self._known(reference, principal) is None:
                    info = of_parked(parked, Wanted(tags=(FORKED,)))
                    subject = subject_of(parked.root, parked.spec, info, execution_id)
                    promise = await self._keeping.promise(parked.sandbox, subject)
                    if promise is not None:
                        self._parking.dismiss(parked)
                return promise

    async def memory_of(
        self, reference: str, principal: Principal, wanted: Wanted | None = None
    ) -> SnapshotRecord:
        """Return the memory checkpoint a reference means; of what runs, it is taken now.

        Raises:
            UnsupportedError: there are only files, or it cannot be kept.
        """
        prefix = _kind_of(reference)
        if prefix in self.also_memory:
            return await self.also_memory[prefix](reference, principal)
        if prefix == "sbx":
            reference, prefix = self._execution_in(reference), "exec"
        active = self._executions.active(ExecutionId(reference)) if prefix == "exec" else None
        if active is not None and active.entry.tenant == principal.tenant.id:
            return await self.keep_memory(active, wanted or Wanted(tags=(FORKED,)))
        record = await self.snapshot_of(reference, principal)
        if not record.has_memory:
            raise UnsupportedError(
                f"{reference[:64]} has files and no memory",
                hint="give a command to run with its files, or checkpoint it while it runs",
            )
        return record

    async def keep_memory(
        self, active: Active, wanted: Wanted | None = None, *, is_final: bool = False
    ) -> SnapshotRecord:
        """Keep processes and files of a running execution; with `is_final` it ends here.

        Raises:
            UnsupportedError: it was not begun with memory, or cannot be kept; it runs on.
            WrongStateError: it does not run.
        """
        sandbox, process = active.sandbox, active.process
        if sandbox is None or process is None or active.is_finishing:
            raise WrongStateError("the execution does not run now", hint="checkpoint it meanwhile")
        if active.entry.spec.mode is Mode.PERSISTENT:
            raise UnsupportedError(
                "a command in an instance is kept with the instance",
                hint="POST /api/v1/snapshots with the instance and memory: true",
            )

        async def end_here(record: SnapshotRecord) -> None:
            active.slicing = record.id
            await process.kill()

        async with active.keeping:
            if active.slicing is not None:
                raise WrongStateError("the execution has been kept already")
            return await self._shelf_or_refuse().keep(
                sandbox,
                self._root_of(active, sandbox.image_digest),
                self._memory_info(active, wanted or Wanted()),
                disk_bytes=active.entry.spec.limits.disk_bytes,
                alias=active.entry.id if is_final else None,
                before_going_on=end_here if is_final else None,
            )

    async def go_on(
        self, snapshot_id: str, sandbox: GuardedSandbox, resumption: Resumption
    ) -> Process:
        """Restore the one command of a memory checkpoint into a sandbox that has its files."""
        record = await self.snapshots.get(snapshot_id)
        async with self._shelf_or_refuse().lent(record) as kept:
            restored = await sandbox.restore_processes(kept.images, {"": resumption})
        return next(iter(restored.values()))

    def _memory_info(self, active: Active, wanted: Wanted) -> SnapshotInfo:
        info = of_active(active, wanted)
        return msgspec.structs.replace(
            info, config=config_of(active.entry.spec), source=active.entry.id
        )

    def _shelf_or_refuse(self) -> MemoryShelf:
        if self._shelf is None:
            raise UnsupportedError("this gateway keeps no memory")
        return self._shelf

    async def snapshot_of(
        self, reference: str, principal: Principal, wanted: Wanted | None = None
    ) -> SnapshotRecord:
        """Return the snapshot that a reference means, made now when there is none yet.

        Raises:
            NotFoundError: there is nothing of that name, or its files are gone.
        """
        tenant = principal.tenant.id
        prefix = _kind_of(reference)
        await self._keeping.settle(reference)
        if prefix in self.also:
            return await self.also[prefix](reference, principal)
        if prefix == "sbx":
            reference, prefix = self._execution_in(reference), "exec"
        if prefix != "exec":
            return await self.snapshots.get(reference, tenant=tenant)
        execution_id = ExecutionId(reference)
        found = await self._known(reference, principal)
        if found is not None:
            return found
        with self._parking.reading(execution_id, tenant) as parked:
            if parked is not None:
                return await self._of_parked(parked, principal, wanted or Wanted(tags=(FORKED,)))
        active = self._executions.active(execution_id)
        if active is not None and active.entry.tenant == tenant:
            return await self._of_running(active, wanted or Wanted(tags=(FORKED,)))
        if not self._executions.is_stored(execution_id, principal):
            raise ExecutionNotFoundError(details={"execution_id": execution_id})
        raise SnapshotNotFoundError(
            f"the files of {execution_id} are gone",
            hint="run it with mode checkpointed to keep them, or fork it sooner",
        )

    async def checkpoint(self, active: Active) -> SnapshotRecord:
        """Keep the files of an execution whose command has ended; once, however often asked."""
        sandbox = active.sandbox
        assert sandbox is not None  # noqa: S101  its command ran in it
        try:
            return await self.snapshots.get(active.entry.id, tenant=active.entry.tenant)
        except SnapshotNotFoundError:
            pass
        root = self._root_of(active, sandbox.image_digest)
        return await self._keeping.keep_last(
            sandbox,
            subject_of(root, active.entry.spec, of_active(active, Wanted()), active.entry.id),
        )

    async def keep(
        self, sandbox: Sandbox, root: RootFilesystem, spec: ExecutionSpec, info: SnapshotInfo
    ) -> SnapshotRecord:
        """Keep the files of any sandbox, as the caller describes it."""
        return await self._keeping.keep(sandbox, subject_of(root, spec, info))

    async def restore(self, snapshot_id: str, sandbox: Sandbox, root: RootFilesystem) -> None:
        """Bring a fresh sandbox to what a snapshot keeps.

        Raises:
            ConflictError: the sandbox has another image.
        """
        if isinstance(sandbox, GuardedSandbox) and sandbox.base == snapshot_id:
            return
        if await self._keeping.fill_at_once(snapshot_id, sandbox):
            return
        await self._keeping.settle(snapshot_id)
        record = await self.snapshots.get(snapshot_id)
        if record.has_memory and self._shelf is not None:
            check_image(snapshot_id, record.image_digest, sandbox.image_digest)
            async with self._shelf.lent(record) as kept:
                if kept.tar is not None:
                    await self._keeping.unpack(kept.tar, sandbox, root)
                    return
        await self._keeping.fill(snapshot_id, sandbox, root)

    @asynccontextmanager
    async def ground_of(self, active: Active) -> AsyncGenerator[LayerStack | None]:
        """Lend the layers that the sandbox of a child is to be made on, where there are such."""
        spec, choice = active.entry.spec, active.choice
        if spec.snapshot_id is None or spec.mode is Mode.PERSISTENT or choice is None:
            yield None
            return
        wanted = Child(
            choice.runtime,
            active.root,
            SnapshotId(spec.snapshot_id),
            spec.limits.disk_bytes,
            is_alone=spec.memory,
        )
        async with self._keeping.stack_for(wanted) as stack:
            yield stack

    def _execution_in(self, sandbox_id: str) -> ExecutionId:
        """Find the execution whose sandbox it is, or was a short while ago."""
        found = self._parking.find(sandbox_id) or self._executions.in_sandbox(sandbox_id)
        if found is None:
            raise NotFoundError(
                f"there is no sandbox {sandbox_id} any more",
                hint="name the execution instead, and run it with mode checkpointed",
            )
        return found

    async def tidy(self, settings: ExecutorSettings, *, now: datetime) -> int:
        """Forget snapshots whose time has come, and return how many went."""
        return await tidy(self.snapshots, settings, now=now)

    async def _known(self, reference: str, principal: Principal) -> SnapshotRecord | None:
        try:
            return await self.snapshots.get(reference, tenant=principal.tenant.id)
        except SnapshotNotFoundError:
            return None

    async def _of_parked(
        self, parked: Parked, principal: Principal, wanted: Wanted
    ) -> SnapshotRecord:
        async with parked.reading:
            found = await self._known(parked.execution_id, principal)
            if found is not None:
                return found
            info = of_parked(parked, wanted)
            record = await self._keeping.keep_last(
                parked.sandbox, subject_of(parked.root, parked.spec, info, parked.execution_id)
            )
            self._parking.dismiss(parked)
            return record

    async def _of_running(self, active: Active, wanted: Wanted) -> SnapshotRecord:
        if active.sandbox is None or active.process is None:
            raise WrongStateError("the execution has not begun, so it has no files yet")
        root = self._root_of(active, active.sandbox.image_digest)
        info = msgspec.structs.replace(of_active(active, wanted), source=active.entry.id)
        return await self._keeping.keep(active.sandbox, subject_of(root, active.entry.spec, info))

    def _root_of(self, active: Active, digest: str) -> RootFilesystem:
        """Its image; one that was taken up after a restart does not hold it."""
        return active.root if active.root.digest else self._executions.resolve_image(digest)


def _kind_of(reference: str) -> str:
    """The prefix of an id; what has none is the name of an instance."""
    prefix, dash, _ = reference.partition("-")
    return prefix if dash and prefix in ("exec", "inst", "sbx", "snap") else "inst"
