"""What changes an instance, a step each: the intent is written, then it acts, then the outcome is
written. A gateway killed between any two lines leaves what `instance_recovery` takes up.

Whoever calls a step has the instance's turn.
"""

from collections.abc import MutableMapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from faas.clock import Clock
from faas.errors import InstanceNotFoundError, UnsupportedError, WrongStateError
from faas.events import EventBus, InstanceChanged
from faas.executor.disposal import Disposal
from faas.executor.housing import Housing
from faas.executor.idleness import Idleness
from faas.executor.instance_life import Commands, Life, not_running
from faas.executor.instance_records import (
    IdleAction,
    InstanceLedger,
    InstanceRecord,
    Intent,
    settled,
)
from faas.ids import InstanceId, new_sandbox_id
from faas.ids import new_snapshot_id as mint_snapshot_id
from faas.lifecycle import InstanceState, advance
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import Process
from faas.snapshots import SnapshotInfo


class Steps:
    """The steps of all instances of one gateway."""

    def __init__(
        self,
        lives: MutableMapping[InstanceId, Life],
        *,
        ledger: InstanceLedger,
        housing: Housing,
        idleness: Idleness,
        disposal: Disposal,
        events: EventBus,
        clock: Clock,
        commands: Commands,
    ) -> None:
        self._lives = lives
        self._ledger = ledger
        self._housing = housing
        self._idleness = idleness
        self._disposal = disposal
        self._events = events
        self._clock = clock
        self._commands = commands

    def keep(self, life: Life, record: InstanceRecord) -> None:
        """Replace its record; kept when this returns."""
        self._ledger.put(record)
        life.record = record

    def runs(self, life: Life, sandbox: GuardedSandbox) -> None:
        """It has a sandbox and runs."""
        life.sandbox = sandbox
        self._idleness.begin(life)
        self.to(
            life,
            InstanceState.RUNNING,
            sandbox_id=sandbox.id,
            isolation=sandbox.isolation,
            is_asleep=False,
            lease_until=self.lease_until(life.record),
        )

    def lease_until(self, record: InstanceRecord) -> datetime | None:
        """A lease begins anew with each start."""
        seconds = record.spec.lease_seconds
        return None if seconds is None else self._clock.now() + timedelta(seconds=seconds)

    def to(self, life: Life, state: InstanceState, **changes: object) -> None:
        """Write an outcome."""
        if state is not life.record.state:
            advance(life.record.state, state)
        record = settled(life.record, state=state, changed_at=self._clock.now(), **changes)
        self._ledger.put(record)
        life.record = record
        self._events.publish(
            InstanceChanged(instance_id=record.id, tenant=record.tenant, state=state.value)
        )

    def intend(self, life: Life, intent: Intent, **changes: object) -> None:
        """Write what is about to be done."""
        self.keep(life, replace(life.record, intent=intent, **changes))  # type: ignore[arg-type]

    def take_back(self, life: Life, before: InstanceRecord) -> None:
        """The step failed and changed nothing."""
        self.keep(life, before)

    async def wake(self, life: Life) -> None:
        """Let it go on from wherever it is: frozen, on disk, or stopped."""
        if life.record.state is InstanceState.PAUSED and not life.record.is_on_disk:
            if life.sandbox is None:
                raise not_running(life.record)
            await life.sandbox.resume()
            self._idleness.begin(life)
            until = self.lease_until(life.record)
            self.to(life, InstanceState.RUNNING, is_asleep=False, lease_until=until)
            return
        before = life.record
        root = self._housing.root_of(before)
        self.intend(life, Intent.START, sandbox_id=new_sandbox_id())
        restored: dict[str, Process] = {}
        resumptions = self._commands.resumptions(before)
        try:
            sandbox = await self._housing.make(
                life.record, root, before.snapshot_id, resumptions=resumptions, restored=restored
            )
        except BaseException:
            self.take_back(life, before)
            raise
        self.runs(life, sandbox)
        await self._commands.arrive(life.record, sandbox, restored)

    async def stop(self, life: Life, *, is_asleep: bool) -> None:
        """End its commands, keep its files, give back its sandbox."""
        advance(life.record.state, InstanceState.STOPPED)
        before, sandbox = life.record, life.sandbox
        _ = self._housing.store  # refuses before anything is ended
        if sandbox is None:
            raise not_running(before)
        snapshot_id = mint_snapshot_id()
        self.intend(life, Intent.STOP, snapshot_id=snapshot_id)
        try:
            if before.state is InstanceState.PAUSED:
                await sandbox.resume()
            await self._commands.end(life.record)
            await self._housing.read(sandbox, before, self.info(before), snapshot_id)
        except BaseException:
            state = InstanceState.RUNNING
            self.take_back(life, replace(before, state=state, is_asleep=False))
            raise
        life.sandbox = None
        self.to(life, InstanceState.STOPPED, sandbox_id=None, is_asleep=is_asleep)
        self._disposal.take(sandbox, "stopped")
        await self._housing.forget(before.snapshot_id)

    async def pause(self, life: Life, *, is_asleep: bool) -> None:
        """Freeze everything in it."""
        advance(life.record.state, InstanceState.PAUSED)
        if life.sandbox is None:
            raise not_running(life.record)
        await life.sandbox.pause()
        self.to(life, InstanceState.PAUSED, is_asleep=is_asleep)

    async def pause_to_disk(self, life: Life, *, is_asleep: bool) -> None:
        """Keep its memory and files on disk and give back its sandbox."""
        before, sandbox = life.record, life.sandbox
        if before.state is InstanceState.RUNNING:
            advance(before.state, InstanceState.PAUSED)
        if sandbox is None:
            raise not_running(before)
        if life.users:
            raise WrongStateError(
                "somebody is connected to the instance, or puts files into it",
                hint="try again; commands that run are kept",
            )
        async with self._commands.leaving(before):
            snapshot_id = mint_snapshot_id()
            self.intend(life, Intent.PAUSE, snapshot_id=snapshot_id)
            try:
                if before.state is InstanceState.PAUSED:
                    await sandbox.resume()
                await self._housing.read_memory(
                    sandbox,
                    before,
                    self.info(before),
                    snapshot_id,
                    before_the_end=partial(self._commands.keep_output, before),
                )
            except BaseException:
                if sandbox.is_alive:
                    awake = replace(before, state=InstanceState.RUNNING, is_asleep=False)
                    self.take_back(life, awake)
                    raise
                if not await self._housing.has(snapshot_id):
                    self.fail(life, "its sandbox died while it was paused")
                    raise
            life.sandbox = None
            self.to(life, InstanceState.PAUSED, sandbox_id=None, is_asleep=is_asleep)

    async def delete(self, life: Life) -> None:
        """End it and forget its files."""
        record = life.record
        if record.id not in self._lives:
            raise InstanceNotFoundError(details={"instance_id": record.id})
        self.intend(life, Intent.DELETE)
        sandbox, life.sandbox = life.sandbox, None
        if sandbox is not None:
            await sandbox.destroy("deleted")
        await self._commands.end(record)
        await self._housing.forget(record.snapshot_id)
        self._ledger.forget(record.id)
        del self._lives[record.id]
        self._events.publish(
            InstanceChanged(
                instance_id=record.id, tenant=record.tenant, state=InstanceState.DESTROYED.value
            )
        )

    def info(self, record: InstanceRecord) -> SnapshotInfo:
        """Say what a snapshot of it is to be known by."""
        return SnapshotInfo(
            tenant=record.tenant,
            image_digest=record.image_digest,
            image=record.spec.image,
            runtimes=(record.runtime or "",),
            source=record.id,
        )

    def fail(self, life: Life, problem: str) -> None:
        """It cannot be used any more, and why."""
        sandbox, life.sandbox = life.sandbox, None
        if sandbox is not None:
            self._disposal.take(sandbox, problem)
        self.to(life, InstanceState.FAILED, sandbox_id=None, problem=problem)

    async def put_away(self, life: Life, action: IdleAction) -> None:
        """Do what its idle policy says."""
        if action is IdleAction.PAUSE_TO_DISK:
            try:
                await self.pause_to_disk(life, is_asleep=True)
            except (UnsupportedError, WrongStateError):
                # What cannot be kept on disk is at least frozen.
                await self.pause(life, is_asleep=True)
        elif action is IdleAction.PAUSE:
            await self.pause(life, is_asleep=True)
        else:
            await self.stop(life, is_asleep=True)
