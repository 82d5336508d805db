"""Makes instances: what is asked for, or what an execution means and nobody has made yet."""

import asyncio
from dataclasses import replace

from faas.clock import Clock
from faas.errors import InstanceNotFoundError
from faas.executor.housing import Housing
from faas.executor.images import ImageAsk, ImageResolver, order_of
from faas.executor.instance_life import ID_PREFIX, Life, check_name
from faas.executor.instance_lives import Lives
from faas.executor.instance_records import (
    IdleAction,
    InstanceLedger,
    InstanceRecord,
    InstanceSpec,
    Intent,
)
from faas.executor.instance_steps import Steps
from faas.executor.memory_shelf import runtime_for
from faas.executor.settings import ExecutorSettings
from faas.ids import InstanceId, new_instance_id, new_sandbox_id
from faas.images import ImageProvider
from faas.lifecycle import InstanceState
from faas.model import ExecutionSpec
from faas.sandbox.protocols import RootFilesystem
from faas.sandbox.registry import Registry
from faas.tenancy import Principal, Tenant


class Creation:
    """Makes them for one gateway."""

    def __init__(
        self,
        lives: Lives,
        settings: ExecutorSettings,
        *,
        ledger: InstanceLedger,
        registry: Registry,
        images: ImageResolver,
        housing: Housing,
        steps: Steps,
        clock: Clock,
    ) -> None:
        self._lives = lives
        self._settings = settings
        self._ledger = ledger
        self._registry = registry
        self._images = images
        self._housing = housing
        self._steps = steps
        self._clock = clock
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
        self._lives.check_room(tenant, self._settings.instances_max)
        root = await self._image(spec, tenant, ask or ImageAsk())
        runtime = self._registry.pick(_as_execution(spec), root)
        self._lives.check_room(tenant, self._settings.instances_max)
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

    def settle(self, spec: ExecutionSpec, principal: Principal) -> ExecutionSpec:
        """Fill in which instance an execution means; one that is not there yet is made by `arrive`.

        Raises:
            InstanceNotFoundError: it names an id that nobody has.
        """
        reference = spec.instance_id
        if reference is None:
            return replace(spec, instance_id=new_instance_id())
        life = self._lives.named(reference, principal.tenant)
        if life is not None:
            return _within(spec, life.record)
        if reference.startswith(ID_PREFIX):
            raise InstanceNotFoundError(details={"instance_id": reference[:64]})
        return spec

    async def arrive(self, spec: ExecutionSpec, principal: Principal) -> None:
        """Make the instance an execution means, when nobody has yet."""
        reference = spec.instance_id or ""
        async with self._arrivals.setdefault(reference, asyncio.Lock()):
            if self._lives.named(reference, principal.tenant) is None:
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

    async def _image(self, spec: InstanceSpec, tenant: Tenant, ask: ImageAsk) -> RootFilesystem:
        """Return its image, fetched first when that is asked for."""
        images = self._images
        if not isinstance(images, ImageProvider):
            return images.resolve(spec.image)
        order = order_of(_as_execution(spec), tenant.id, ask)
        return images.at_hand(order) or await images.provide(order)

    async def _with_snapshot(self, spec: InstanceSpec, principal: Principal) -> InstanceSpec:
        if spec.snapshot_id is None:
            return spec
        record = await self._housing.store.get(spec.snapshot_id, tenant=principal.tenant.id)
        runtime = spec.runtime
        if spec.memory and record.has_memory:
            runtime = runtime_for(record, runtime)
        image = record.image or record.image_digest
        return replace(spec, snapshot_id=record.id, image=image, runtime=runtime)


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
