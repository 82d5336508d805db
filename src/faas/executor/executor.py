"""`PlatformExecutor`: the one face that every door holds.

`start` takes up what a former gateway left; `execute`, `submit`, `wait`, `get`, `list`, `cancel`,
`write_stdin` and `logs` serve; `drain` refuses new work and lets the running end; `aclose` leaves
what still runs to the next gateway. Each execution is driven by one task of `Driver`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from faas.caches import CacheStore
from faas.clock import Clock, Deadline, SystemClock
from faas.errors import (
    ExecutionNotFoundError,
    FaasError,
    InvalidArgumentError,
    UnavailableError,
    UnsupportedError,
    WrongStateError,
)
from faas.events import EventBus
from faas.executor.active import Active
from faas.executor.admission import Admission
from faas.executor.background import Background
from faas.executor.dependency_caches import DependencyCaches
from faas.executor.disposal import Disposal
from faas.executor.driver import Driver
from faas.executor.idempotency import IdempotencyKey
from faas.executor.images import ImageAsk, ImageResolver
from faas.executor.instance_records import InstanceLedger, InstanceRecord
from faas.executor.instances import Instances
from faas.executor.intake import Intake
from faas.executor.keeping import Keeping
from faas.executor.layers import ReadyLayers
from faas.executor.ledger import Ledger
from faas.executor.memory_shelf import MemoryShelf
from faas.executor.origins import Executions, Origins, Wanted
from faas.executor.output import ExecutionLogs
from faas.executor.parking import Parking
from faas.executor.places import Places
from faas.executor.pool_memory import shortage
from faas.executor.pool_shelf import Template
from faas.executor.prewarm import Prewarmed, Prewarming
from faas.executor.records import Stored, raise_again
from faas.executor.recovery import Recovery, RecoveryReport
from faas.executor.result_cache import ResultCache
from faas.executor.run import Workshop, make_sandbox, template_of
from faas.executor.settings import ExecutorSettings
from faas.executor.spool import output_files, read_whole, remove
from faas.executor.stdin import feed
from faas.executor.warm_pool import MemoryBounds, PoolStats, WarmPool
from faas.ids import ExecutionId, SandboxId
from faas.images import ImageProvider
from faas.model import ExecutionRecord, ExecutionSpec, ExecutionState, Mode
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import ProbeReport, RootFilesystem
from faas.sandbox.registry import Registry
from faas.snapshots import SnapshotRecord, SnapshotStore
from faas.tenancy import Principal

CHECKPOINT_BYTES = 4 << 20
"""A log this long is moved into the file: rarely enough to be cheap, often enough to stay small."""

MAINTENANCE_SECONDS = 1.0

CHECKPOINT_SECONDS_MAX = 30.0
"""How long a checkpoint waits for its execution to begin."""

DISPOSAL_SECONDS_MAX = 30.0
"""At the end; what is not destroyed by then is reclaimed by the next start."""

REVIVE_SECONDS = 15.0
"""Between tries of a runtime that does not work; its probe may take seconds."""

TIDY_SECONDS = 3600.0
"""Between looks for snapshots that were only a fork's beginning, and for bytes nothing needs."""

PAGE_MAX = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExecutorStats:
    """The executor at this moment, and what it did since it started."""

    queued: int
    running: int
    disposing: int
    pools: Mapping[str, PoolStats]
    templates: Mapping[Template, PoolStats] = field(default_factory=dict[Template, PoolStats])
    finished: int = 0
    failed: int = 0
    rejected: int = 0
    from_pool: int = 0
    on_demand: int = 0


class _Parts(NamedTuple):
    """What there is once the ledger is open."""

    ledger: Ledger
    instances: Instances
    places: Places
    intake: Intake
    driver: Driver
    results: ResultCache
    origins: Origins | None


class PlatformExecutor:
    """Runs executions for tenants."""

    def __init__(
        self,
        settings: ExecutorSettings,
        *,
        registry: Registry,
        images: ImageResolver,
        events: EventBus,
        snapshots: SnapshotStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._images = images
        self._snapshots = snapshots
        self._events = events
        self._clock: Clock = clock or SystemClock()
        self._work = Background()
        self._teardown = Background()
        self._admission = Admission(
            running_max=settings.running_max, queued_max=settings.queued_max, clock=self._clock
        )
        self._disposal = Disposal(clock=self._clock, background=self._teardown)
        self._parking = Parking(
            count_max=0 if snapshots is None else settings.parked_max,
            seconds=settings.parked_seconds,
            destroy=self._disposal.take,
            clock=self._clock,
        )
        self._pool = WarmPool(
            size_max=settings.pool_max,
            idle_seconds=settings.pool_idle_seconds,
            make=self._make_pooled,
            destroy=self._disposal.take,
            clock=self._clock,
            background=self._work,
            memory=MemoryBounds(
                bytes_max=settings.pool_memory_bytes,
                weigh=lambda t: registry.idle_bytes(t.runtime, t.isolation_min),
                is_short=shortage(settings.pool_reserve_share),
            ),
        )
        self._prewarming = Prewarming(
            settings.pools_path,
            pool=self._pool,
            registry=registry,
            images=images,
            clock=self._clock,
        )
        self._keeping = None if snapshots is None else self._open_keeping(snapshots)
        self._shelf = None
        if snapshots is not None:
            self._shelf = MemoryShelf(
                settings.memory_dir,
                store=snapshots,
                background=self._work,
                clock=self._clock,
                key=settings.memory_key,
                is_synced=settings.ledger_synchronous == "full",
            )
        self._parts_or_none: _Parts | None = None
        self._is_closed = False

    async def execute(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        *,
        idempotency: IdempotencyKey | None = None,
        deadline: Deadline | None = None,
        ask: ImageAsk | None = None,
    ) -> ExecutionRecord:
        """Run to the end and return the final record.

        Cancelled, it cancels the execution, unless that has an idempotency key: then it runs on and
        a retry finds it. The deadline counts until the command starts.

        Raises:
            FaasError: why it could not be run; for a repeated key the stored error again.
        """
        spec = await self._inherit(spec, principal, idempotency)
        found = self._admit(spec, principal, idempotency, deadline, is_detached=False, ask=ask)
        if not isinstance(found, Active):
            return _checked(await self._whole(found))
        try:
            return _checked(await found.over())
        except asyncio.CancelledError:
            if idempotency is None:
                self._parts.driver.cancel(found)
            raise

    async def submit(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        *,
        idempotency: IdempotencyKey | None = None,
        deadline: Deadline | None = None,
        ask: ImageAsk | None = None,
    ) -> ExecutionRecord:
        """Return as soon as it is queued durably; it runs even if this gateway dies."""
        spec = await self._inherit(spec, principal, idempotency)
        found = self._admit(spec, principal, idempotency, deadline, is_detached=True, ask=ask)
        if not isinstance(found, Active):
            return await self._whole(found)
        await found.begun()
        return found.snapshot()

    async def recall(
        self, principal: Principal, idempotency: IdempotencyKey
    ) -> ExecutionRecord | None:
        """Return the execution that already has this key, as it stands; None when it is new.

        Raises:
            IdempotencyConflictError: the key was used for another request.
        """
        found = self._parts.intake.find_key(principal.tenant.id, idempotency)
        if found is None:
            return None
        return found.snapshot() if isinstance(found, Active) else await self._whole(found)

    async def wait(self, execution_id: ExecutionId, principal: Principal) -> ExecutionRecord:
        """Return the record once it is final; cancelling this does not cancel the execution."""
        active = self._find_active(execution_id, principal)
        if active is not None:
            return await active.over()
        return await self._whole(self._stored(execution_id, principal))

    async def get(self, execution_id: ExecutionId, principal: Principal) -> ExecutionRecord:
        """Return the record as it stands.

        Raises:
            ExecutionNotFoundError: there is none, or it is another tenant's.
        """
        active = self._find_active(execution_id, principal)
        if active is not None:
            return active.snapshot()
        return await self._whole(self._stored(execution_id, principal))

    async def list(
        self,
        principal: Principal,
        *,
        limit: int = 50,
        before: ExecutionId | None = None,
        state: ExecutionState | None = None,
    ) -> list[ExecutionRecord]:
        """Return records, newest first. Output above 64 KiB is left out here: `get` has it."""
        rows = self._parts.ledger.page(
            principal.tenant.id, limit=min(limit, PAGE_MAX), before=before, state=state
        )
        return [row.record for row in rows]

    async def cancel(self, execution_id: ExecutionId, principal: Principal) -> ExecutionRecord:
        """End it and return its final record; one that has ended stays as it is."""
        active = self._find_active(execution_id, principal)
        if active is None:
            return await self._whole(self._stored(execution_id, principal))
        self._parts.driver.cancel(active)
        return await active.over()

    async def checkpoint(
        self,
        execution_id: ExecutionId,
        principal: Principal,
        wanted: Wanted,
        *,
        memory: bool,
        stop: bool,
    ) -> SnapshotRecord:
        """Keep a running execution; with `stop` it ends here, its result says `checkpointed`.

        Raises:
            WrongStateError: it does not run.
            UnsupportedError: its memory cannot be kept; it runs on.
        """
        active = self._find_active(execution_id, principal)
        if active is None:
            self._stored(execution_id, principal)
            raise WrongStateError("the execution has ended", hint="checkpoint it while it runs")
        with suppress(TimeoutError):
            async with asyncio.timeout(CHECKPOINT_SECONDS_MAX):
                while active.process is None and not active.is_over:
                    await active.change()
        if memory:
            record = await self.origins.keep_memory(active, wanted, is_final=stop)
            if stop:
                await active.over()
            return record
        if stop:
            raise InvalidArgumentError(
                "only what is kept with its memory can go on", hint="set memory to true"
            )
        return await self.origins.snapshot_of(execution_id, principal, wanted)

    async def write_stdin(
        self,
        execution_id: ExecutionId,
        principal: Principal,
        data: bytes,
        *,
        offset: int | None = None,
        is_last: bool = False,
    ) -> int:
        """Feed a command that was started with `stdin_open`; return the offset after the data.

        Raises:
            WrongStateError: it takes none, or no more.
        """
        active = self._find_active(execution_id, principal)
        if active is None:
            self._stored(execution_id, principal)
            raise WrongStateError("the execution has ended")
        return await feed(active, data, offset=offset, is_last=is_last, clock=self._clock)

    async def resize_terminal(
        self, execution_id: ExecutionId, principal: Principal, *, rows: int, columns: int
    ) -> None:
        """Change the size of a command's terminal.

        Raises:
            WrongStateError: it has none, or does not run.
        """
        active = self._find_active(execution_id, principal)
        if active is None:
            self._stored(execution_id, principal)
        if active is None or active.process is None or not active.entry.spec.tty:
            raise WrongStateError("there is no terminal that runs")
        await active.process.resize(rows=rows, columns=columns)

    def logs(self, execution_id: ExecutionId, principal: Principal) -> ExecutionLogs:
        """Open the output of an execution."""
        active = self._find_active(execution_id, principal)
        if active is not None:
            return ExecutionLogs(active.output, active=active, stored=None)
        stored = self._stored(execution_id, principal)
        return ExecutionLogs.of_stored(stored, self._settings.spool_dir)

    @property
    def origins(self) -> Origins:
        """Snapshots of executions, and what children start from.

        Raises:
            UnsupportedError: this executor was opened without a store for them.
        """
        origins = self._parts.origins
        if origins is None:
            raise UnsupportedError("this gateway keeps no snapshots")
        return origins

    @property
    def instances(self) -> Instances:
        """The instances. There are none before `start`."""
        return self._parts.instances

    @property
    def places(self) -> Places:
        """Where commands run now."""
        return self._parts.places

    async def prewarm(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        *,
        count: int,
        keep_seconds: float,
        deadline: Deadline,
    ) -> Prewarmed:
        """Keep sandboxes for such executions ready; return when they are, or when time is up.

        Raises:
            FaasError: why it cannot be; see `Prewarming.prewarm`.
        """
        if self._parts.intake.is_closed:
            raise UnavailableError("the gateway is shutting down", retry_after_seconds=1.0)
        return await self._prewarming.prewarm(
            spec, principal, count=count, keep_seconds=keep_seconds, deadline=deadline
        )

    def stats(self) -> ExecutorStats:
        """Count."""
        busy: dict[str, int] = {}
        in_use: dict[Template, int] = {}
        for active in self._parts.intake.actives.values():
            if active.sandbox is not None:
                busy[active.sandbox.runtime] = busy.get(active.sandbox.runtime, 0) + 1
            if active.sandbox is not None and active.choice is not None:
                template = template_of(active.choice, active.root, active.entry.spec)
                in_use[template] = in_use.get(template, 0) + 1
        ready = self._pool.stats()
        driver = self._parts.driver
        return ExecutorStats(
            queued=self._admission.queued,
            running=self._admission.running,
            disposing=self._disposal.backlog,
            pools={
                name: replace(ready.get(name, PoolStats()), busy=busy.get(name, 0))
                for name in self._registry.names
            },
            templates={
                template: replace(pool, busy=in_use.get(template, 0))
                for template, pool in self._pool.templates().items()
            },
            finished=driver.finished,
            failed=driver.failed,
            rejected=self._parts.intake.rejected,
            from_pool=driver.from_pool,
            on_demand=driver.on_demand,
        )

    async def runtimes(self) -> dict[str, ProbeReport]:
        """Return what the last probe of each runtime said."""
        return self._registry.reports()

    async def start(self) -> RecoveryReport:
        """Open the ledger, take up or clear away what a former gateway left, fill the pools."""
        settings = self._settings
        settings.spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        live_dir = settings.live_dir.parent.resolve() / settings.live_dir.name
        live_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        parts = self._parts_or_none = self._assemble(
            Ledger(settings.ledger_path, synchronous=settings.ledger_synchronous)
        )
        await self._registry.start()
        if self._shelf is not None:
            await self._shelf.recover()
        report, actives = await Recovery(
            settings,
            ledger=parts.ledger,
            registry=self._registry,
            images=self._images,
            admission=self._admission,
            instances=parts.instances,
            events=self._events,
            clock=self._clock,
        ).run()
        for active in actives:
            parts.intake.remember(active)
            parts.driver.start(active)
        self._keep_default()
        self._prewarming.restore()
        self._work.spawn(self._maintain())
        self._work.spawn(self._revive())
        if parts.origins is not None and settings.collects_garbage:
            self._work.spawn(self._tidy(parts.origins))
        return report

    def _assemble(self, ledger: Ledger) -> "_Parts":
        settings = self._settings
        instances = Instances(
            settings,
            ledger=InstanceLedger(settings.ledger_path, synchronous=settings.ledger_synchronous),
            registry=self._registry,
            images=self._images,
            snapshots=self._snapshots,
            keeping=self._keeping,
            disposal=self._disposal,
            background=self._work,
            events=self._events,
            clock=self._clock,
            commands=_InstanceCommands(lambda: self._parts),
            shelf=self._shelf,
        )
        places = Places(lambda: self._parts.intake.actives, instances)
        intake = Intake(
            self._settings,
            ledger=ledger,
            registry=self._registry,
            images=self._images,
            admission=self._admission,
            pool=self._pool,
            instances=instances,
            places=places,
            events=self._events,
            clock=self._clock,
        )
        results = ResultCache(settings.results_path, clock=self._clock, limits=settings.cache)
        origins = self._open_origins(intake, ledger)
        if origins is not None:
            origins.also["inst"] = instances.snapshot
            origins.also_memory["inst"] = partial(instances.snapshot, memory=True)
        driver = Driver(
            Workshop(
                settings,
                ledger,
                self._pool,
                self._disposal,
                self._events,
                self._clock,
                instances,
                places,
                self._images if isinstance(self._images, ImageProvider) else None,
                self._registry,
                results,
                origins,
                self._open_caches(),
            ),
            parking=self._parking,
            admission=self._admission,
            background=self._work,
            forget=intake.forget,
        )
        return _Parts(ledger, instances, places, intake, driver, results, origins)

    def _open_keeping(self, snapshots: SnapshotStore) -> Keeping:
        layers = ReadyLayers(
            snapshots, bytes_max=self._settings.layers_bytes_max, spawn=self._teardown.spawn
        )
        return Keeping(
            self._settings.staging_dir,
            snapshots=snapshots,
            layers=layers,
            registry=self._registry,
            spawn=self._teardown.spawn,
        )

    def _open_caches(self) -> DependencyCaches:
        store = CacheStore(
            self._settings.dependency_caches_dir, bounds=self._settings.dependency_caches
        )
        caches = DependencyCaches(store, scratch=self._settings.dependency_scratch_dir)
        caches.start()
        return caches

    def _open_origins(self, intake: Intake, ledger: Ledger) -> Origins | None:
        if self._snapshots is None or self._keeping is None:
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
            resolve_image=self._images.resolve,
        )
        return Origins(
            self._keeping,
            snapshots=self._snapshots,
            parking=self._parking,
            executions=executions,
            shelf=self._shelf,
        )

    async def _inherit(
        self, spec: ExecutionSpec, principal: Principal, idempotency: IdempotencyKey | None
    ) -> ExecutionSpec:
        """Find the parent of a request that names one; a repeated request has had its own."""
        if spec.branch_from is None and spec.snapshot_id is None and spec.mode is not Mode.BRANCHED:
            return spec
        if spec.mode is Mode.PERSISTENT:
            return spec
        intake = self._parts.intake
        if idempotency is not None and intake.find_key(principal.tenant.id, idempotency):
            return spec
        return await self.origins.inherit(spec, principal)

    async def drain(self, *, grace_seconds: float) -> None:
        """Refuse new work and wait that long for what is under way."""
        parts = self._parts
        parts.intake.is_closed = True
        self._pool.close()
        self._parking.close()
        actives = parts.intake.actives
        try:
            async with asyncio.timeout(grace_seconds):
                while actives:
                    await next(iter(actives.values())).change()
        except TimeoutError:
            _log.info("running commands are left", extra={"count": len(actives)})

    async def aclose(self) -> None:
        """Stop. Commands that still run are left to the next gateway. Harmless when done twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._prewarming.close()
        self._pool.close()
        self._parking.close()
        parts = self._parts_or_none
        if parts is None:
            await self._registry.aclose()
            return
        parts.intake.is_closed = True
        parts.driver.abandon(parts.intake.actives.values())
        await self._work.aclose()
        await self._finish_teardown()
        left_running = _left_running(parts.intake.actives.values())
        await self._registry.aclose(leave_running=left_running | parts.instances.sandbox_ids())
        parts.instances.close()
        parts.results.close()
        await parts.ledger.aclose()

    async def abort(self) -> None:
        """Stop as a crash would: nothing more is written, destroyed or told. For tests."""
        parts = self._parts
        parts.intake.is_closed = True
        self._disposal.freeze()
        self._prewarming.freeze()
        self._pool.close()
        parts.ledger.freeze()
        parts.instances.freeze()
        parts.driver.abandon(parts.intake.actives.values())
        await self._work.aclose()
        await self._teardown.aclose()
        parts.instances.close()
        parts.results.close()
        await parts.ledger.aclose()

    async def _finish_teardown(self) -> None:
        try:
            async with asyncio.timeout(DISPOSAL_SECONDS_MAX):
                await self._teardown.join()
        except TimeoutError:
            _log.warning("sandboxes are left to the next start")
            await self._teardown.aclose()

    def _admit(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        idempotency: IdempotencyKey | None,
        deadline: Deadline | None,
        *,
        is_detached: bool,
        ask: ImageAsk | None,
    ) -> Active | Stored:
        found, is_new = self._parts.intake.admit(
            spec,
            principal,
            idempotency=idempotency,
            deadline=deadline,
            is_detached=is_detached,
            ask=ask,
        )
        if is_new and isinstance(found, Active):
            self._parts.driver.start(found)
        return found

    @property
    def _parts(self) -> "_Parts":
        if self._parts_or_none is None:
            raise UnavailableError("the executor was not started")
        return self._parts_or_none

    def _find_active(self, execution_id: ExecutionId, principal: Principal) -> Active | None:
        active = self._parts.intake.actives.get(execution_id)
        if active is None or active.entry.tenant != principal.tenant.id:
            return None
        return active

    def _stored(self, execution_id: ExecutionId, principal: Principal) -> Stored:
        stored = self._parts.ledger.get(execution_id, principal.tenant.id)
        if stored is None:
            raise ExecutionNotFoundError(details={"execution_id": execution_id})
        return stored

    async def _whole(self, stored: Stored) -> ExecutionRecord:
        result = stored.record.result
        if not stored.is_spooled or result is None:
            return stored.record
        output = output_files(self._settings.spool_dir, stored.record.id)
        stdout = await asyncio.to_thread(read_whole, output.stdout, stored.stdout_bytes)
        stderr = await asyncio.to_thread(read_whole, output.stderr, stored.stderr_bytes)
        return replace(stored.record, result=replace(result, stdout=stdout, stderr=stderr))

    async def _make_pooled(self, template: Template, root: RootFilesystem) -> GuardedSandbox:
        runtime = self._registry.get(template.runtime)
        if runtime is None:
            raise UnavailableError(f"the runtime {template.runtime} is gone")
        limits = self._settings.pool_limits
        if limits.disk_bytes != template.disk_bytes:
            limits = replace(limits, disk_bytes=template.disk_bytes)
        return await make_sandbox(runtime, root, limits, template, self._parts.driver.shop)

    def _keep_default(self) -> None:
        settings = self._settings
        if not settings.pool_size:
            return
        usual = ExecutionSpec(
            argv=("true",), image=settings.default_image, limits=settings.pool_limits
        )
        try:
            root = self._images.resolve(usual.image)
            choice = self._registry.choose(usual, root)
        except FaasError as failure:
            _log.warning("the default image is not kept ready", extra={"problem": failure.message})
            return
        template = template_of(choice, root, usual)
        self._pool.keep(template, root, floor=settings.pool_size, image=usual.image)

    async def _maintain(self) -> None:
        while True:
            await self._clock.sleep(MAINTENANCE_SECONDS)
            try:
                await self._maintain_once()
            except Exception:  # noqa: BLE001  the loop must outlive what one round met
                _log.exception("upkeep failed and is tried again")

    async def _maintain_once(self) -> None:
        if not self._parts.intake.is_closed:
            self._prewarming.tick()
            self._pool.tick()
            self._parts.instances.tick()
        self._parking.tick()
        if self._keeping is not None:
            self._keeping.layers.tick()
        self._parts.driver.end_overdue(list(self._parts.intake.actives.values()))
        for trimmed in self._parts.ledger.trim(self._settings.retention, now=self._clock.now()):
            if trimmed.is_spooled:
                remove(output_files(self._settings.spool_dir, trimmed.id))
        if self._parts.ledger.wal_bytes() > CHECKPOINT_BYTES:
            await asyncio.to_thread(self._parts.ledger.checkpoint)

    async def _revive(self) -> None:
        """Try again, now and then, the runtimes that did not work: a daemon may have come back."""
        while True:
            await self._clock.sleep(REVIVE_SECONDS)
            await self._registry.revive()

    async def _tidy(self, origins: Origins) -> None:
        while True:
            await self._clock.sleep(TIDY_SECONDS)
            try:
                await origins.tidy(
                    now=self._clock.now(), forked_seconds_max=self._settings.forked_seconds_max
                )
            except Exception:  # noqa: BLE001  the loop must outlive what one round met
                _log.exception("old snapshots could not be tidied away")


def _checked(record: ExecutionRecord) -> ExecutionRecord:
    if record.failure is not None:
        raise raise_again(record.failure)
    return record


class _InstanceCommands:
    """The executions of mode `persistent` under way, by instance."""

    def __init__(self, parts: Callable[[], _Parts]) -> None:
        self._parts = parts

    def are_running(self, instance: InstanceRecord) -> bool:
        return self._parts().places.are_running(instance)

    async def end(self, instance: InstanceRecord) -> None:
        own = list(self._parts().places.commands_of(instance))
        for active in own:
            self._parts().driver.cancel(active)
        for active in own:
            while not active.is_over:
                await active.change()


def _left_running(actives: Iterable[Active]) -> set[SandboxId]:
    return {
        active.sandbox.id
        for active in actives
        if active.was_started and active.sandbox is not None and active.record is None
    }
