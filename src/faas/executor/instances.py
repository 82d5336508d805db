"""Instances: sandboxes with a name that keep their files between commands and outlive the gateway.

    creating → running ⇄ paused, running ⇄ stopped, any → failed, any → destroyed

Stopping ends the commands and keeps the files as a snapshot; starting restores them into a new
sandbox. Each step writes its intent, acts, and writes its outcome, so that a gateway killed between
any two lines leaves a state that the next one can finish or take back (`Instances.recover`).

An instance that sleeps (stopped or paused because nobody used it) is woken by its next use. What
counts as use is in `idleness`, what leads into an instance from outside in `instance_ports`.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec

from faas.clock import Clock
from faas.errors import (
    FaasError,
    InstanceNotFoundError,
    WrongStateError,
)
from faas.events import EventBus
from faas.executor.background import Background
from faas.executor.disposal import Disposal
from faas.executor.housing import Housing
from faas.executor.idleness import Idleness
from faas.executor.images import ImageAsk, ImageResolver
from faas.executor.instance_creation import Creation
from faas.executor.instance_life import Commands, Life, not_running
from faas.executor.instance_lives import Lives
from faas.executor.instance_ports import Ports
from faas.executor.instance_records import (
    IdleAction,
    InstanceLedger,
    InstanceRecord,
    InstanceSpec,
)
from faas.executor.instance_recovery import InstanceRecovery
from faas.executor.instance_steps import Steps
from faas.executor.instance_terms import Terms
from faas.executor.keeping import Keeping
from faas.executor.memory_shelf import MemoryShelf
from faas.executor.port_tokens import PortUrls
from faas.executor.settings import ExecutorSettings
from faas.ids import InstanceId, SandboxId, SnapshotId
from faas.ids import new_snapshot_id as mint_snapshot_id
from faas.lifecycle import InstanceState, advance
from faas.model import ExecutionSpec
from faas.sandbox.capabilities import Capability
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.registry import Registry
from faas.snapshots import SnapshotInfo, SnapshotRecord, SnapshotStore
from faas.tenancy import Principal, Tenant

_log = logging.getLogger(__name__)


class Instances:
    """All instances of one gateway. `recover` first."""

    def __init__(
        self,
        settings: ExecutorSettings,
        *,
        ledger: InstanceLedger,
        registry: Registry,
        images: ImageResolver,
        snapshots: SnapshotStore | None,
        keeping: Keeping | None,
        disposal: Disposal,
        background: Background,
        events: EventBus,
        clock: Clock,
        commands: Commands,
        shelf: MemoryShelf | None = None,
    ) -> None:
        self._lives = Lives()
        self._ledger = ledger
        self._registry = registry
        self._housing = Housing(
            settings,
            registry=registry,
            images=images,
            snapshots=snapshots,
            keeping=keeping,
            shelf=shelf,
            disposal=disposal,
            events=events,
            clock=clock,
        )
        self._background = background
        self._clock = clock
        self._idleness = Idleness(clock, runs_command=commands.are_running)
        self._steps = Steps(
            self._lives,
            ledger=ledger,
            housing=self._housing,
            idleness=self._idleness,
            disposal=disposal,
            events=events,
            clock=clock,
            commands=commands,
        )
        self.ports = Ports(
            self, urls=PortUrls.parse(settings.ports_url), clock=clock, is_able=self._has_ports
        )
        """What leads into them from outside."""
        self.terms = Terms(self, registry=registry, clock=clock)
        """What they may use, and how long."""
        self._creation = Creation(
            self._lives,
            settings,
            ledger=ledger,
            registry=registry,
            images=images,
            housing=self._housing,
            steps=self._steps,
            clock=clock,
        )

    async def create(
        self,
        spec: InstanceSpec,
        principal: Principal,
        *,
        instance_id: InstanceId | None = None,
        ask: ImageAsk | None = None,
    ) -> InstanceRecord:
        """Make an instance and return it running. An image that is not here is fetched first.

        Raises:
            AlreadyExistsError: the tenant has an instance of that name.
            QuotaExceededError: there are too many.
        """
        return await self._creation.create(spec, principal, instance_id=instance_id, ask=ask)

    def get(self, reference: str, principal: Principal) -> InstanceRecord:
        """Return an instance by its id or its name.

        Raises:
            InstanceNotFoundError: there is none, or it is another tenant's.
        """
        return self._lives.of(reference, principal.tenant).record

    def list(self, principal: Principal) -> list[InstanceRecord]:
        """Return the tenant's instances, newest first."""
        own = [x.record for x in self._lives.values() if x.record.tenant == principal.tenant.id]
        return sorted(own, key=lambda record: record.id, reverse=True)

    async def start(self, reference: str, principal: Principal) -> InstanceRecord:
        """Restore a stopped instance into a new sandbox. Harmless when it runs."""
        life = self._lives.of(reference, principal.tenant)
        async with life.turn:
            if life.record.state is not InstanceState.RUNNING:
                advance(life.record.state, InstanceState.RUNNING)
                await self._steps.wake(life)
        return life.record

    async def stop(self, reference: str, principal: Principal) -> InstanceRecord:
        """End its commands, keep its files as a snapshot, give back all it held."""
        life = self._lives.of(reference, principal.tenant)
        async with life.turn:
            if life.record.state is not InstanceState.STOPPED:
                await self._steps.stop(life, is_asleep=False)
        return life.record

    async def pause(self, reference: str, principal: Principal) -> InstanceRecord:
        """Freeze everything in it, memory and all. Harmless when it is paused."""
        life = self._lives.of(reference, principal.tenant)
        async with life.turn:
            if life.record.state is not InstanceState.PAUSED:
                await self._steps.pause(life, is_asleep=False)
        return life.record

    async def pause_to_disk(self, reference: str, principal: Principal) -> InstanceRecord:
        """Keep its memory and files on disk and give back all it held; `resume` goes on from there,
        also after a restart of the machine.

        Raises:
            WrongStateError: somebody is connected to it, or a command just begins.
            UnsupportedError: it was not made with memory, or cannot be kept; it runs on.
        """
        life = self._lives.of(reference, principal.tenant)
        async with life.turn:
            if not life.record.is_on_disk:
                await self._steps.pause_to_disk(life, is_asleep=False)
        return life.record

    async def resume(self, reference: str, principal: Principal) -> InstanceRecord:
        """Let a paused instance go on. Harmless when it runs."""
        life = self._lives.of(reference, principal.tenant)
        async with life.turn:
            if life.record.state is InstanceState.STOPPED:
                raise WrongStateError("the instance is stopped", hint="start it instead")
            if life.record.state is not InstanceState.RUNNING:
                advance(life.record.state, InstanceState.RUNNING)
                await self._steps.wake(life)
        return life.record

    @asynccontextmanager
    async def hold(self, reference: str, principal: Principal) -> AsyncGenerator[Life]:
        """Have its turn: nobody else changes it meanwhile. What is to stay is given to `keep`.

        Raises:
            SandboxBrokenError: it has failed, and can only be deleted.
        """
        life = self._lives.of(reference, principal.tenant)
        async with life.turn:
            self._lives.of(life.record.id, principal.tenant)
            if life.record.state is InstanceState.FAILED:
                raise not_running(life.record)
            yield life

    def keep(self, life: Life, record: InstanceRecord) -> None:
        """Replace its record; kept when this returns."""
        self._steps.keep(life, record)

    async def delete(self, reference: str, principal: Principal) -> None:
        """End it and forget its files."""
        life = self._lives.of(reference, principal.tenant)
        async with life.turn:
            await self._steps.delete(life)

    async def snapshot(
        self,
        reference: str,
        principal: Principal,
        info: SnapshotInfo | None = None,
        *,
        snapshot_id: SnapshotId | None = None,
        memory: bool = False,
    ) -> SnapshotRecord:
        """Keep the files of a running instance, with `memory` its processes too, or name those of
        a stopped one, which has its id already."""
        life = self._lives.of(reference, principal.tenant)
        async with life.turn:
            is_kept = life.record.state is InstanceState.STOPPED or life.record.is_on_disk
            if is_kept and life.record.snapshot_id is not None:
                return await self._housing.store.get(life.record.snapshot_id)
            if life.sandbox is None:
                raise not_running(life.record)
            wanted = info or self._steps.info(life.record)
            minted = snapshot_id or mint_snapshot_id()
            if memory:
                return await self._housing.read_memory(life.sandbox, life.record, wanted, minted)
            return await self._housing.read(life.sandbox, life.record, wanted, minted)

    def find(self, instance_id: InstanceId) -> InstanceRecord | None:
        """Return an instance of whatever tenant."""
        life = self._lives.get(instance_id)
        return None if life is None else life.record

    def every(self) -> Sequence[InstanceRecord]:
        """Return the instances of all tenants."""
        return [life.record for life in self._lives.values()]

    def describe(self, reference: str, principal: Principal, **asked: object) -> SnapshotInfo:
        """Say what a snapshot of an instance is to be known by."""
        record = self._lives.of(reference, principal.tenant).record
        return msgspec.structs.replace(self._steps.info(record), **asked)

    def is_ours(self, sandbox_id: SandboxId) -> bool:
        """Whether a sandbox is an instance's."""
        return sandbox_id in self.sandbox_ids()

    def sandbox_ids(self) -> set[SandboxId]:
        """Name every sandbox that must outlive this gateway."""
        return self._lives.sandbox_ids()

    def sandbox(self, sandbox_id: SandboxId) -> GuardedSandbox | None:
        """Return an instance's sandbox by its id."""
        return self._lives.sandbox(sandbox_id)

    @asynccontextmanager
    async def use(
        self, reference: str, principal: Principal
    ) -> AsyncGenerator[tuple[InstanceRecord, GuardedSandbox]]:
        """Lend its sandbox; it does not count as idle meanwhile. One that sleeps is woken.

        Raises:
            WrongStateError: it was stopped or paused by somebody, or it failed.
        """
        async with self._lent(self._lives.of(reference, principal.tenant)) as lent:
            yield lent

    @asynccontextmanager
    async def lend(
        self, instance_id: InstanceId
    ) -> AsyncGenerator[tuple[InstanceRecord, GuardedSandbox]]:
        """Do so for whoever has a token instead of a key."""
        life = self._lives.get(instance_id)
        if life is None:
            raise InstanceNotFoundError
        async with self._lent(life) as lent:
            yield lent

    @asynccontextmanager
    async def _lent(self, life: Life) -> AsyncGenerator[tuple[InstanceRecord, GuardedSandbox]]:
        if life.record.is_asleep:
            async with life.turn:
                if life.record.is_asleep:
                    await self._steps.wake(life)
        elif life.record.state is InstanceState.CREATING:
            async with life.turn:
                pass
        record, sandbox = life.record, life.sandbox
        if record.state is not InstanceState.RUNNING or record.intent is not None or not sandbox:
            raise not_running(record)
        life.users += 1
        try:
            yield record, sandbox
        finally:
            life.users -= 1
            life.used_ns = self._clock.monotonic_ns()

    def settle(self, spec: ExecutionSpec, principal: Principal) -> ExecutionSpec:
        """Fill in which instance an execution means; one that is not there yet is made by `arrive`.

        Raises:
            InstanceNotFoundError: it names an id that nobody has.
        """
        return self._creation.settle(spec, principal)

    def awake(self, spec: ExecutionSpec, tenant: Tenant) -> SandboxId | None:
        """Say in which sandbox an execution would run at once, if in any."""
        life = self._lives.named(spec.instance_id or "", tenant)
        if life is None or life.record.is_asleep or life.sandbox is None:
            return None
        record = life.record
        is_ready = record.state is InstanceState.RUNNING and record.intent is None
        return life.sandbox.id if is_ready else None

    async def arrive(self, spec: ExecutionSpec, principal: Principal) -> None:
        """Make the instance an execution means, when nobody has yet."""
        await self._creation.arrive(spec, principal)

    async def recover(self) -> int:
        """Take up what a former gateway left; return how many run on."""
        recovery = InstanceRecovery(
            self._lives,
            ledger=self._ledger,
            housing=self._housing,
            idleness=self._idleness,
            steps=self._steps,
            clock=self._clock,
        )
        for record in self._ledger.all():
            try:
                await recovery.take_up(record)
            except FaasError:
                _log.exception("an instance was not taken up", extra={"instance_id": record.id})
        return len(self.sandbox_ids())

    def tick(self) -> None:
        """Notice the dead, and begin what time-outs ask for."""
        now = self._clock.now()
        for life in list(self._lives.values()):
            if life.turn.locked() or life.record.intent is not None:
                continue
            if life.sandbox is not None and not life.sandbox.is_alive:
                self._steps.fail(life, "its sandbox died")
            elif (action := self._idleness.due(life, now)) is not None:
                self._background.spawn(self._expire(life, action))

    def freeze(self) -> None:
        """Write nothing any more; for tests of a crash."""
        self._ledger.freeze()

    def close(self) -> None:
        """Close the table. Sandboxes are left to the next gateway."""
        self._ledger.close()

    def _has_ports(self, runtime_name: str) -> bool:
        runtime = self._registry.get(runtime_name)
        return runtime is not None and Capability.PORTS in runtime.capabilities

    async def _expire(self, life: Life, action: IdleAction) -> None:
        if life.turn.locked():
            return
        try:
            async with life.turn:
                if not self._idleness.is_still_due(life, action):
                    return
                if action is IdleAction.DELETE:
                    await self._steps.delete(life)
                else:
                    await self._steps.put_away(life, action)
        except FaasError:
            life.used_ns = self._clock.monotonic_ns()
            _log.exception(
                "an idle instance could not be put away", extra={"instance_id": life.record.id}
            )
