"""`PlatformExecutor`: the one face that every door holds.

`start` takes up what a former gateway left; `execute`, `submit`, `wait`, `get`, `list`, `cancel`,
`write_stdin` and `logs` serve; `drain` refuses new work and lets the running end; `aclose` leaves
what still runs to the next gateway. Each execution is driven by one task of `Driver`.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from faas.clock import Clock, Deadline, SystemClock
from faas.errors import (
    ExecutionNotFoundError,
    FaasError,
    IdempotencyConflictError,
    UnavailableError,
    WrongStateError,
)
from faas.events import EventBus, ExecutionQueued, ExecutionRejected
from faas.executor.active import Active
from faas.executor.admission import Admission, Ticket
from faas.executor.background import Background
from faas.executor.disposal import Disposal
from faas.executor.driver import Driver
from faas.executor.ledger import Ledger
from faas.executor.modes import check_mode
from faas.executor.output import ExecutionLogs
from faas.executor.records import Beginning, Stored, raise_again
from faas.executor.recovery import ImageResolver, Recovery, RecoveryReport
from faas.executor.run import Workshop, make_sandbox, template_of
from faas.executor.settings import ExecutorSettings
from faas.executor.spool import output_files, read_whole, remove
from faas.executor.stdin import feed
from faas.executor.warm_pool import PoolStats, Template, WarmPool
from faas.ids import ExecutionId, TenantId, new_execution_id
from faas.model import ExecutionRecord, ExecutionSpec, ExecutionState, NetworkMode
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import ProbeReport, RootFilesystem, Runtime
from faas.sandbox.registry import Registry
from faas.tenancy import Principal

CHECKPOINT_BYTES = 4 << 20
"""A log this long is moved into the file: rarely enough to be cheap, often enough to stay small."""

MAINTENANCE_SECONDS = 1.0

DISPOSAL_SECONDS_MAX = 30.0
"""At the end; what is not destroyed by then is reclaimed by the next start."""

PAGE_MAX = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's promise that two requests with this key are the same request."""

    key: str
    request_digest: str


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


class PlatformExecutor:
    """Runs executions for tenants."""

    def __init__(
        self,
        settings: ExecutorSettings,
        *,
        registry: Registry,
        images: ImageResolver,
        events: EventBus,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._images = images
        self._events = events
        self._clock: Clock = clock or SystemClock()
        self._work = Background()
        self._teardown = Background()
        self._admission = Admission(
            running_max=settings.running_max, queued_max=settings.queued_max, clock=self._clock
        )
        self._disposal = Disposal(clock=self._clock, background=self._teardown)
        self._pool = WarmPool(
            size_max=settings.pool_max,
            idle_seconds=settings.pool_idle_seconds,
            make=self._make_pooled,
            destroy=self._disposal.take,
            clock=self._clock,
            background=self._work,
        )
        self._actives: dict[ExecutionId, Active] = {}
        self._by_key: dict[tuple[TenantId, str], Active] = {}
        self._is_draining = False
        self._rejected = 0
        self._ledger_or_none: Ledger | None = None
        self._driver_or_none: Driver | None = None

    async def execute(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        *,
        idempotency: IdempotencyKey | None = None,
        deadline: Deadline | None = None,
    ) -> ExecutionRecord:
        """Run to the end and return the final record.

        Cancelled, it cancels the execution, unless that has an idempotency key: then it runs on and
        a retry finds it. The deadline counts until the command starts.

        Raises:
            FaasError: why it could not be run; for a repeated key the stored error again.
        """
        found = self._admit(spec, principal, idempotency, deadline, is_detached=False)
        if not isinstance(found, Active):
            return _checked(await self._whole(found))
        try:
            return _checked(await found.over())
        except asyncio.CancelledError:
            if idempotency is None:
                self._driver.cancel(found)
            raise

    async def submit(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        *,
        idempotency: IdempotencyKey | None = None,
        deadline: Deadline | None = None,
    ) -> ExecutionRecord:
        """Return as soon as it is queued durably; it runs even if this gateway dies."""
        found = self._admit(spec, principal, idempotency, deadline, is_detached=True)
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
        found = self._find_key(principal.tenant.id, idempotency)
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
        rows = self._ledger.page(
            principal.tenant.id, limit=min(limit, PAGE_MAX), before=before, state=state
        )
        return [row.record for row in rows]

    async def cancel(self, execution_id: ExecutionId, principal: Principal) -> ExecutionRecord:
        """End it and return its final record; one that has ended stays as it is."""
        active = self._find_active(execution_id, principal)
        if active is None:
            return await self._whole(self._stored(execution_id, principal))
        self._driver.cancel(active)
        return await active.over()

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

    def logs(self, execution_id: ExecutionId, principal: Principal) -> ExecutionLogs:
        """Open the output of an execution."""
        active = self._find_active(execution_id, principal)
        if active is not None:
            return ExecutionLogs(active.output, active=active, stored=None)
        stored = self._stored(execution_id, principal)
        return ExecutionLogs.of_stored(stored, self._settings.spool_dir)

    def stats(self) -> ExecutorStats:
        """Count."""
        busy: dict[str, int] = {}
        for active in self._actives.values():
            if active.sandbox is not None:
                busy[active.sandbox.runtime] = busy.get(active.sandbox.runtime, 0) + 1
        ready = self._pool.stats()
        driver = self._driver_or_none
        return ExecutorStats(
            queued=self._admission.queued,
            running=self._admission.running,
            disposing=self._disposal.backlog,
            pools={
                name: replace(ready.get(name, PoolStats()), busy=busy.get(name, 0))
                for name in self._registry.names
            },
            templates=self._pool.templates(),
            finished=driver.finished if driver else 0,
            failed=driver.failed if driver else 0,
            rejected=self._rejected,
            from_pool=driver.from_pool if driver else 0,
            on_demand=driver.on_demand if driver else 0,
        )

    async def runtimes(self) -> dict[str, ProbeReport]:
        """Return what the last probe of each runtime said."""
        return self._registry.reports()

    async def start(self) -> RecoveryReport:
        """Open the ledger, take up or clear away what a former gateway left, fill the pools."""
        settings = self._settings
        settings.spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._ledger_or_none = Ledger(settings.ledger_path, synchronous=settings.ledger_synchronous)
        await self._registry.start()
        self._driver_or_none = Driver(
            Workshop(settings, self._ledger, self._pool, self._disposal, self._events, self._clock),
            admission=self._admission,
            background=self._work,
            forget=self._forget,
        )
        report, actives = await Recovery(
            settings,
            ledger=self._ledger,
            registry=self._registry,
            images=self._images,
            admission=self._admission,
            events=self._events,
            clock=self._clock,
        ).run()
        for active in actives:
            self._remember(active)
            self._driver.start(active)
        self._keep_default()
        self._work.spawn(self._maintain())
        return report

    async def drain(self, *, grace_seconds: float) -> None:
        """Refuse new work and wait that long for what is under way."""
        self._is_draining = True
        self._pool.close()
        try:
            async with asyncio.timeout(grace_seconds):
                while self._actives:
                    await next(iter(self._actives.values())).change()
        except TimeoutError:
            _log.info("running commands are left", extra={"count": len(self._actives)})

    async def aclose(self) -> None:
        """Stop. Commands that still run are left to the next gateway."""
        self._is_draining = True
        self._pool.close()
        if self._driver_or_none is not None:
            self._driver.abandon(list(self._actives.values()))
        await self._work.aclose()
        leave = {
            active.sandbox.id
            for active in self._actives.values()
            if active.was_started and active.sandbox is not None and active.record is None
        }
        try:
            async with asyncio.timeout(DISPOSAL_SECONDS_MAX):
                await self._teardown.join()
        except TimeoutError:
            _log.warning("sandboxes are left to the next start")
            await self._teardown.aclose()
        await self._registry.aclose(leave_running=leave)
        if self._ledger_or_none is not None:
            await self._ledger.aclose()

    def _admit(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        idempotency: IdempotencyKey | None,
        deadline: Deadline | None,
        *,
        is_detached: bool,
    ) -> Active | Stored:
        try:
            if idempotency is not None:
                found = self._find_key(principal.tenant.id, idempotency)
                if found is not None:
                    return found
            if self._is_draining:
                raise UnavailableError("the gateway is shutting down", retry_after_seconds=1.0)
            check_mode(spec)
            runtime = self._registry.pick(spec)
            root = self._images.resolve(spec.image)
            ticket = self._admission.enter(principal.tenant)
        except FaasError as failure:
            self._rejected += 1
            self._events.publish(ExecutionRejected(tenant=principal.tenant.id, code=failure.code))
            raise
        active = self._new_active(
            spec,
            principal,
            idempotency,
            ticket=ticket,
            runtime=runtime,
            root=root,
            is_detached=is_detached,
        )
        if deadline is not None:
            active.deadline = deadline
        self._remember(active)
        self._driver.start(active)
        self._events.publish(
            ExecutionQueued(execution_id=active.entry.id, tenant=active.entry.tenant)
        )
        return active

    def _new_active(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        idempotency: IdempotencyKey | None,
        *,
        ticket: Ticket,
        runtime: Runtime,
        root: RootFilesystem,
        is_detached: bool,
    ) -> Active:
        sandbox: GuardedSandbox | None = None
        if ticket.is_granted:
            sandbox = self._pool.take(template_of(runtime, root, spec), root)
        now = self._clock.now()
        has_place = sandbox is not None
        entry = Beginning(
            seq=self._ledger.next_seq(),
            id=new_execution_id(),
            tenant=principal.tenant.id,
            state=ExecutionState.RUNNING if has_place else ExecutionState.QUEUED,
            is_detached=is_detached or idempotency is not None,
            idempotency_key=idempotency.key if idempotency else None,
            request_digest=idempotency.request_digest if idempotency else None,
            runtime=runtime.name,
            sandbox_id=sandbox.id if sandbox else None,
            created_at=now,
            started_at=now if has_place else None,
            spec=spec,
        )
        return Active(
            entry=entry,
            tenant=principal.tenant,
            runtime=runtime,
            root=root,
            output=output_files(self._settings.spool_dir, entry.id),
            ticket=ticket,
            submitted_ns=self._clock.monotonic_ns(),
            state=entry.state,
            started_at=entry.started_at,
            sandbox=sandbox,
            is_from_pool=has_place,
        )

    def _find_key(self, tenant: TenantId, idempotency: IdempotencyKey) -> Active | Stored | None:
        active = self._by_key.get((tenant, idempotency.key))
        if active is not None:
            if active.entry.request_digest != idempotency.request_digest:
                raise IdempotencyConflictError
            return active
        found = self._ledger.find_key(tenant, idempotency.key)
        if found is None:
            return None
        execution_id, digest = found
        if digest != idempotency.request_digest:
            raise IdempotencyConflictError
        return self._ledger.get(execution_id, tenant)

    def _remember(self, active: Active) -> None:
        entry = active.entry
        self._actives[entry.id] = active
        if entry.idempotency_key is not None:
            self._by_key[entry.tenant, entry.idempotency_key] = active

    def _forget(self, active: Active) -> None:
        entry = active.entry
        self._actives.pop(entry.id, None)
        if entry.idempotency_key is not None:
            self._by_key.pop((entry.tenant, entry.idempotency_key), None)

    @property
    def _ledger(self) -> Ledger:
        if self._ledger_or_none is None:
            raise UnavailableError("the executor was not started")
        return self._ledger_or_none

    @property
    def _driver(self) -> Driver:
        if self._driver_or_none is None:
            raise UnavailableError("the executor was not started")
        return self._driver_or_none

    def _find_active(self, execution_id: ExecutionId, principal: Principal) -> Active | None:
        active = self._actives.get(execution_id)
        if active is None or active.entry.tenant != principal.tenant.id:
            return None
        return active

    def _stored(self, execution_id: ExecutionId, principal: Principal) -> Stored:
        stored = self._ledger.get(execution_id, principal.tenant.id)
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
        limits = replace(self._settings.pool_limits, disk_bytes=template.disk_bytes)
        return await make_sandbox(runtime, root, limits, template.network, self._driver.shop)

    def _keep_default(self) -> None:
        available = self._registry.available()
        if not available or not self._settings.pool_size:
            return
        root = self._images.resolve(self._settings.default_image)
        disk_bytes = self._settings.pool_limits.disk_bytes
        template = Template(available[0].name, root.digest, NetworkMode.NONE, disk_bytes)
        self._pool.keep(template, root, floor=self._settings.pool_size)

    async def _maintain(self) -> None:
        while True:
            await self._clock.sleep(MAINTENANCE_SECONDS)
            try:
                await self._maintain_once()
            except Exception:  # noqa: BLE001  the loop must outlive what one round met
                _log.exception("upkeep failed and is tried again")

    async def _maintain_once(self) -> None:
        if not self._is_draining:
            self._pool.tick()
        for trimmed in self._ledger.trim(self._settings.retention, now=self._clock.now()):
            if trimmed.is_spooled:
                remove(output_files(self._settings.spool_dir, trimmed.id))
        if self._ledger.wal_bytes() > CHECKPOINT_BYTES:
            await asyncio.to_thread(self._ledger.checkpoint)


def _checked(record: ExecutionRecord) -> ExecutionRecord:
    if record.failure is not None:
        raise raise_again(record.failure)
    return record
