"""What an executor is made of: the parts that stand from the beginning, and those that need its
ledger and so come with `start`."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from faas.caches import CacheStore
from faas.clock import Clock
from faas.errors import UnavailableError
from faas.events import EventBus
from faas.executor.admission import Admission
from faas.executor.background import Background
from faas.executor.dependency_caches import DependencyCaches
from faas.executor.disposal import Disposal
from faas.executor.driver import Driver
from faas.executor.images import ImageResolver
from faas.executor.instance_commands import InstanceCommands
from faas.executor.instance_records import InstanceLedger
from faas.executor.instances import Instances
from faas.executor.intake import Intake
from faas.executor.keeping import Keeping
from faas.executor.layers import ReadyLayers
from faas.executor.ledger import Ledger
from faas.executor.memory_shelf import MemoryShelf
from faas.executor.origins import Executions, Origins
from faas.executor.parking import Parking
from faas.executor.places import Places
from faas.executor.pool_memory import shortage
from faas.executor.pool_shelf import Template
from faas.executor.prewarm import Prewarming
from faas.executor.result_cache import ResultCache
from faas.executor.run import Workshop, make_sandbox
from faas.executor.settings import ExecutorSettings
from faas.executor.warm_pool import MemoryBounds, WarmPool
from faas.images import ImageProvider
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import RootFilesystem
from faas.sandbox.registry import Registry
from faas.snapshots import SnapshotStore


class Parts(NamedTuple):
    """What there is once the ledger is open."""

    ledger: Ledger
    instances: Instances
    places: Places
    intake: Intake
    driver: Driver
    results: ResultCache
    origins: Origins | None


class Fixtures:
    """What stands from the beginning, and makes the rest with `assemble`."""

    def __init__(
        self,
        settings: ExecutorSettings,
        *,
        registry: Registry,
        images: ImageResolver,
        events: EventBus,
        snapshots: SnapshotStore | None,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.images = images
        self.snapshots = snapshots
        self.events = events
        self.clock = clock
        self.parts: Parts | None = None
        self.work = Background()
        self.teardown = Background()
        self.admission = Admission(
            running_max=settings.running_max, queued_max=settings.queued_max, clock=clock
        )
        self.disposal = Disposal(clock=clock, background=self.teardown)
        self.parking = Parking(
            count_max=0 if snapshots is None else settings.parked_max,
            seconds=settings.parked_seconds,
            destroy=self.disposal.take,
            clock=clock,
        )
        self.pool = WarmPool(
            size_max=settings.pool_max,
            idle_seconds=settings.pool_idle_seconds,
            make=self._make_pooled,
            destroy=self.disposal.take,
            clock=clock,
            background=self.work,
            memory=MemoryBounds(
                bytes_max=settings.pool_memory_bytes,
                weigh=lambda t: registry.idle_bytes(t.runtime, t.isolation_min),
                is_short=shortage(settings.pool_reserve_share),
            ),
        )
        self.prewarming = Prewarming(
            settings.pools_path, pool=self.pool, registry=registry, images=images, clock=clock
        )
        self.keeping = None if snapshots is None else self._open_keeping(snapshots)
        self.shelf = None
        if snapshots is not None and self.keeping is not None:
            self.shelf = MemoryShelf(
                settings.memory_dir,
                store=snapshots,
                background=self.work,
                clock=clock,
                image=images.resolve,
                places=self.keeping.places,
                key=settings.memory_key,
                is_synced=settings.ledger_synchronous == "full",
            )
            self.keeping.layers.also_from(self.shelf)

    def assemble(self) -> Parts:
        """Open the ledger and make what needs it."""
        settings = self.settings
        ledger = Ledger(settings.ledger_path, synchronous=settings.ledger_synchronous)
        instances = Instances(
            settings,
            ledger=InstanceLedger(settings.ledger_path, synchronous=settings.ledger_synchronous),
            registry=self.registry,
            images=self.images,
            snapshots=self.snapshots,
            keeping=self.keeping,
            disposal=self.disposal,
            background=self.work,
            events=self.events,
            clock=self.clock,
            commands=InstanceCommands(
                settings,
                places=lambda: self.made().places,
                driver=lambda: self.made().driver,
                ledger=ledger,
                events=self.events,
            ),
            shelf=self.shelf,
        )
        places = Places(lambda: self.made().intake.actives, instances)
        intake = Intake(
            settings,
            ledger=ledger,
            registry=self.registry,
            images=self.images,
            admission=self.admission,
            pool=self.pool,
            instances=instances,
            places=places,
            events=self.events,
            clock=self.clock,
        )
        results = ResultCache(settings.results_path, clock=self.clock, limits=settings.cache)
        origins = self._open_origins(intake, ledger)
        if origins is not None:
            origins.also["inst"] = instances.snapshot
            origins.also_memory["inst"] = partial(instances.snapshot, memory=True)
        driver = Driver(
            Workshop(
                settings,
                ledger,
                self.pool,
                self.disposal,
                self.events,
                self.clock,
                instances,
                places,
                self.images if isinstance(self.images, ImageProvider) else None,
                self.registry,
                results,
                origins,
                self._open_caches(),
            ),
            parking=self.parking,
            admission=self.admission,
            background=self.work,
            forget=intake.forget,
        )
        self.parts = Parts(ledger, instances, places, intake, driver, results, origins)
        return self.parts

    def made(self) -> Parts:
        """What `assemble` made.

        Raises:
            UnavailableError: it was not called yet.
        """
        if self.parts is None:
            raise UnavailableError("the executor was not started")
        return self.parts

    def _open_keeping(self, snapshots: SnapshotStore) -> Keeping:
        settings, spawn = self.settings, self.teardown.spawn
        layers = ReadyLayers(snapshots, bytes_max=settings.layers_bytes_max, spawn=spawn)
        return Keeping(
            settings.staging_dir,
            snapshots=snapshots,
            layers=layers,
            registry=self.registry,
            spawn=spawn,
        )

    def _open_caches(self) -> DependencyCaches:
        settings = self.settings
        store = CacheStore(settings.dependency_caches_dir, bounds=settings.dependency_caches)
        caches = DependencyCaches(store, scratch=settings.dependency_scratch_dir)
        caches.start()
        return caches

    def _open_origins(self, intake: Intake, ledger: Ledger) -> Origins | None:
        if self.snapshots is None or self.keeping is None:
            return None
        executions = Executions(
            active=intake.actives.get,
            in_sandbox=lambda sandbox_id: next(
                (
                    one.entry.id
                    for one in intake.actives.values()
                    if one.sandbox is not None and one.sandbox.id == sandbox_id
                ),
                None,
            ),
            is_stored=lambda found, who: ledger.get(found, who.tenant.id) is not None,
            resolve_image=self.images.resolve,
        )
        return Origins(
            self.keeping,
            snapshots=self.snapshots,
            parking=self.parking,
            executions=executions,
            shelf=self.shelf,
        )

    async def _make_pooled(self, template: Template, root: RootFilesystem) -> GuardedSandbox:
        runtime = self.registry.get(template.runtime)
        if runtime is None:
            raise UnavailableError(f"the runtime {template.runtime} is gone")
        limits = self.settings.pool_limits
        if limits.disk_bytes != template.disk_bytes:
            limits = replace(limits, disk_bytes=template.disk_bytes)
        return await make_sandbox(runtime, root, limits, template, self.made().driver.shop)
