"""Instances: sandboxes with a name that keep their files between commands and outlive the gateway.

    creating → running ⇄ paused, running ⇄ stopped, any → failed, any → destroyed

Stopping ends the commands and keeps the files as a snapshot; starting restores them into a new
sandbox. Each step writes its intent, acts, and writes its outcome, so that a gateway killed between
any two lines leaves a state that the next one can finish or take back (`Instances.recover`).

An instance that sleeps (stopped or paused because nobody used it) is woken by its next use. What
counts as use is in `idleness`, what leads into an instance from outside in `instance_ports`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec

from faas.clock import Clock
from faas.errors import (
    FaasError,
    InstanceNotFoundError,
    QuotaExceededError,
    WrongStateError,
)
from faas.events import EventBus
from faas.executor.background import Background
from faas.executor.disposal import Disposal
from faas.executor.housing import Housing
from faas.executor.idleness import Idleness
from faas.executor.images import ImageAsk, ImageResolver, order_of
from faas.executor.instance_life import ID_PREFIX, Commands, Life, check_name, not_running
from faas.executor.instance_ports import Ports
from faas.executor.instance_records import (
    IdleAction,
    InstanceLedger,
    InstanceRecord,
    InstanceSpec,
    Intent,
)
from faas.executor.instance_recovery import InstanceRecovery
from faas.executor.instance_steps import Steps
from faas.executor.instance_terms import Terms
from faas.executor.keeping import Keeping
from faas.executor.memory_shelf import MemoryShelf, runtime_for
from faas.executor.port_tokens import PortUrls
from faas.executor.settings import ExecutorSettings
from faas.ids import InstanceId, SandboxId, SnapshotId, new_instance_id, new_sandbox_id
from faas.ids import new_snapshot_id as mint_snapshot_id
from faas.images import ImageProvider
from faas.lifecycle import InstanceState, advance
from faas.model import ExecutionSpec
from faas.sandbox.capabilities import Capability
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import RootFilesystem
from faas.sandbox.registry import Registry
from faas.snapshots import SnapshotInfo, SnapshotRecord, SnapshotStore
from faas.tenancy import Principal, Tenant

_AWAKE = (InstanceState.RUNNING, InstanceState.PAUSED)

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
        self._settings = settings
        self._lives: dict[InstanceId, Life] = {}
        self._ledger = ledger
        self._registry = registry
        self._images = images
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
        self._arrivals: dict[str, asyncio.Lock] = {}

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
        tenant = principal.tenant
        if spec.name is not None:
            check_name(spec.name)
        spec = await self._with_snapshot(spec, principal)
        self._check_room(tenant)
        root = await self._image(spec, tenant, ask or ImageAsk())
        runtime = self._registry.pick(_as_execution(spec), root)
        self._check_room(tenant)
        now = self._clock.now()
        record = InstanceRecord(
            id=instance_id or new_instance_id(),
            tenant=tenant.id,
            state=InstanceState.CREATING,
            spec=spec,
            created_at=now,
            changed_at=now,
            intent=Intent.CREATE,
            runtime=runtime.name,
            image_digest=root.digest,
            sandbox_id=new_sandbox_id(),
        )
        self._ledger.put(record)
        life = self._lives[record.id] = Life(record, tenant, self._clock.monotonic_ns())
        async with life.turn:
            try:
                sandbox = await self._housing.make(record, root, spec.snapshot_id)
            except BaseException:
                del self._lives[record.id]
                self._ledger.forget(record.id)
                raise
            self._steps.runs(life, sandbox)
        return life.record

    def get(self, reference: str, principal: Principal) -> InstanceRecord:
        """Return an instance by its id or its name.

        Raises:
            InstanceNotFoundError: there is none, or it is another tenant's.
        """
        return self._life(reference, principal.tenant).record

    def list(self, principal: Principal) -> list[InstanceRecord]:
        """Return the tenant's instances, newest first."""
        own = [x.record for x in self._lives.values() if x.record.tenant == principal.tenant.id]
        return sorted(own, key=lambda record: record.id, reverse=True)

    async def start(self, reference: str, principal: Principal) -> InstanceRecord:
        """Restore a stopped instance into a new sandbox. Harmless when it runs."""
        life = self._life(reference, principal.tenant)
        async with life.turn:
            if life.record.state is not InstanceState.RUNNING:
                advance(life.record.state, InstanceState.RUNNING)
                await self._steps.wake(life)
        return life.record

    async def stop(self, reference: str, principal: Principal) -> InstanceRecord:
        """End its commands, keep its files as a snapshot, give back all it held."""
        life = self._life(reference, principal.tenant)
        async with life.turn:
            if life.record.state is not InstanceState.STOPPED:
                await self._steps.stop(life, is_asleep=False)
        return life.record

    async def pause(self, reference: str, principal: Principal) -> InstanceRecord:
        """Freeze everything in it, memory and all. Harmless when it is paused."""
        life = self._life(reference, principal.tenant)
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
        life = self._life(reference, principal.tenant)
        async with life.turn:
            if not life.record.is_on_disk:
                await self._steps.pause_to_disk(life, is_asleep=False)
        return life.record

    async def resume(self, reference: str, principal: Principal) -> InstanceRecord:
        """Let a paused instance go on. Harmless when it runs."""
        life = self._life(reference, principal.tenant)
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
        life = self._life(reference, principal.tenant)
        async with life.turn:
            self._life(life.record.id, principal.tenant)
            if life.record.state is InstanceState.FAILED:
                raise not_running(life.record)
            yield life

    def keep(self, life: Life, record: InstanceRecord) -> None:
        """Replace its record; kept when this returns."""
        self._steps.keep(life, record)

    async def delete(self, reference: str, principal: Principal) -> None:
        """End it and forget its files."""
        life = self._life(reference, principal.tenant)
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
        life = self._life(reference, principal.tenant)
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
        record = self._life(reference, principal.tenant).record
        return msgspec.structs.replace(self._steps.info(record), **asked)

    def is_ours(self, sandbox_id: SandboxId) -> bool:
        """Whether a sandbox is an instance's."""
        return sandbox_id in self.sandbox_ids()

    def sandbox_ids(self) -> set[SandboxId]:
        """Name every sandbox that must outlive this gateway."""
        return {x.sandbox.id for x in self._lives.values() if x.sandbox is not None}

    def sandbox(self, sandbox_id: SandboxId) -> GuardedSandbox | None:
        """Return an instance's sandbox by its id."""
        found = (x.sandbox for x in self._lives.values() if x.sandbox is not None)
        return next((sandbox for sandbox in found if sandbox.id == sandbox_id), None)

    @asynccontextmanager
    async def use(
        self, reference: str, principal: Principal
    ) -> AsyncGenerator[tuple[InstanceRecord, GuardedSandbox]]:
        """Lend its sandbox; it does not count as idle meanwhile. One that sleeps is woken.

        Raises:
            WrongStateError: it was stopped or paused by somebody, or it failed.
        """
        async with self._lent(self._life(reference, principal.tenant)) as lent:
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
        reference = spec.instance_id
        if reference is None:
            return replace(spec, instance_id=new_instance_id())
        life = self._find(reference, principal.tenant)
        if life is not None:
            return _within(spec, life.record)
        if reference.startswith(ID_PREFIX):
            raise InstanceNotFoundError(details={"instance_id": reference[:64]})
        return spec

    def awake(self, spec: ExecutionSpec, tenant: Tenant) -> SandboxId | None:
        """Say in which sandbox an execution would run at once, if in any."""
        life = self._find(spec.instance_id or "", tenant)
        if life is None or life.record.is_asleep or life.sandbox is None:
            return None
        record = life.record
        is_ready = record.state is InstanceState.RUNNING and record.intent is None
        return life.sandbox.id if is_ready else None

    async def arrive(self, spec: ExecutionSpec, principal: Principal) -> None:
        """Make the instance an execution means, when nobody has yet."""
        reference = spec.instance_id or ""
        async with self._arrivals.setdefault(reference, asyncio.Lock()):
            if self._find(reference, principal.tenant) is None:
                is_id = reference.startswith(ID_PREFIX)
                made = InstanceSpec(
                    image=spec.image,
                    name=None if is_id else reference,
                    runtime=spec.runtime,
                    limits=spec.limits,
                    network=spec.network,
                    isolation_min=spec.isolation_min,
                    snapshot_id=spec.snapshot_id,
                    idle_seconds=self._settings.instance_idle_seconds,
                    idle_action=(
                        IdleAction.STOP if self._housing.keeps_snapshots else IdleAction.DELETE
                    ),
                )
                minted = InstanceId(reference) if is_id else None
                await self.create(made, principal, instance_id=minted)
        self._arrivals.pop(reference, None)

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

    async def _image(self, spec: InstanceSpec, tenant: Tenant, ask: ImageAsk) -> RootFilesystem:
        """Return its image, fetched first when that is asked for."""
        images = self._images
        if not isinstance(images, ImageProvider):
            return images.resolve(spec.image)
        order = order_of(_as_execution(spec), tenant.id, ask)
        return images.at_hand(order) or await images.provide(order)

    def _find(self, reference: str, tenant: Tenant) -> Life | None:
        life = self._lives.get(InstanceId(reference))
        if life is None:
            named = (
                x
                for x in self._lives.values()
                if x.record.tenant == tenant.id and x.record.spec.name == reference
            )
            life = next(named, None)
        return life if life is not None and life.record.tenant == tenant.id else None

    def _life(self, reference: str, tenant: Tenant) -> Life:
        life = self._find(reference, tenant)
        if life is None:
            raise InstanceNotFoundError(details={"instance_id": reference[:64]})
        return life

    def _check_room(self, tenant: Tenant) -> None:
        most = self._settings.instances_max
        own = sum(x.record.tenant == tenant.id for x in self._lives.values())
        if own >= most:
            raise QuotaExceededError(
                f"this tenant has {own} instances already",
                hint="delete one first",
                details={"instances_max": most},
            )

    def _has_ports(self, runtime_name: str) -> bool:
        runtime = self._registry.get(runtime_name)
        return runtime is not None and Capability.PORTS in runtime.capabilities

    async def _with_snapshot(self, spec: InstanceSpec, principal: Principal) -> InstanceSpec:
        if spec.snapshot_id is None:
            return spec
        record = await self._housing.store.get(spec.snapshot_id, tenant=principal.tenant.id)
        runtime = spec.runtime
        if spec.memory and record.has_memory:
            runtime = runtime_for(record, runtime)
        image = record.image or record.image_digest
        return replace(spec, snapshot_id=record.id, image=image, runtime=runtime)

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


def _within(spec: ExecutionSpec, instance: InstanceRecord) -> ExecutionSpec:
    """Complete an execution by what its instance was made with."""
    made = instance.spec
    return replace(
        spec,
        instance_id=instance.id,
        image=made.image,
        env=tuple((dict(made.env) | dict(spec.env)).items()),
        working_dir=spec.working_dir or made.working_dir,
        user=spec.user or made.user,
    )


def _as_execution(spec: InstanceSpec) -> ExecutionSpec:
    return ExecutionSpec(
        argv=("true",),
        image=spec.image,
        memory=spec.memory,
        runtime=spec.runtime,
        network=spec.network,
        pull_policy=spec.pull_policy,
        isolation_min=spec.isolation_min,
    )
