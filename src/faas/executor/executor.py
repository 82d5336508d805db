"""`PlatformExecutor`: the one face that every door holds.

`start` takes up what a former gateway left; `execute`, `submit`, `wait`, `get`, `list`, `cancel`,
`write_stdin` and `logs` serve; `drain` refuses new work and lets the running end; `aclose` leaves
what still runs to the next gateway. Each execution is driven by one task of `Driver`.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from faas.clock import Clock, Deadline, SystemClock
from faas.errors import (
    ExecutionNotFoundError,
    InvalidArgumentError,
    UnavailableError,
    UnsupportedError,
    WrongStateError,
)
from faas.events import EventBus
from faas.executor.active import Active
from faas.executor.idempotency import IdempotencyKey
from faas.executor.images import ImageAsk, ImageResolver
from faas.executor.instances import Instances
from faas.executor.origins import Origins, Wanted
from faas.executor.output import ExecutionLogs
from faas.executor.parts import Fixtures, Parts
from faas.executor.places import Places
from faas.executor.prewarm import Prewarmed
from faas.executor.records import Stored, raise_again
from faas.executor.recovery import Recovery, RecoveryReport
from faas.executor.settings import ExecutorSettings
from faas.executor.spool import output_files, read_whole
from faas.executor.stats import ExecutorStats, count
from faas.executor.stdin import feed
from faas.executor.upkeep import Upkeep
from faas.ids import ExecutionId, SandboxId
from faas.model import ExecutionRecord, ExecutionSpec, ExecutionState, Mode
from faas.sandbox.protocols import ProbeReport
from faas.sandbox.registry import Registry
from faas.snapshots import SnapshotRecord, SnapshotStore
from faas.tenancy import Principal

CHECKPOINT_SECONDS_MAX = 30.0
"""How long a checkpoint waits for its execution to begin."""

DISPOSAL_SECONDS_MAX = 30.0
"""At the end; what is not destroyed by then is reclaimed by the next start."""

PAGE_MAX = 1000

_log = logging.getLogger(__name__)


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
        self._clock: Clock = clock or SystemClock()
        self._fixtures = Fixtures(
            settings,
            registry=registry,
            images=images,
            events=events,
            snapshots=snapshots,
            clock=self._clock,
        )
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
        if active is None or active.process is None:
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
        return await self._fixtures.prewarming.prewarm(
            spec, principal, count=count, keep_seconds=keep_seconds, deadline=deadline
        )

    def stats(self) -> ExecutorStats:
        """Count."""
        return count(self._fixtures, self._parts)

    async def runtimes(self) -> dict[str, ProbeReport]:
        """Return what the last probe of each runtime said."""
        return self._registry.reports()

    async def start(self) -> RecoveryReport:
        """Open the ledger, take up or clear away what a former gateway left, fill the pools."""
        settings, fixtures = self._settings, self._fixtures
        settings.spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        live_dir = settings.live_dir.parent.resolve() / settings.live_dir.name
        live_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        parts = fixtures.assemble()
        await self._registry.start()
        if fixtures.shelf is not None:
            await fixtures.shelf.recover()
        report, actives = await Recovery(
            settings,
            ledger=parts.ledger,
            registry=self._registry,
            images=fixtures.images,
            admission=fixtures.admission,
            instances=parts.instances,
            events=fixtures.events,
            clock=self._clock,
        ).run()
        for active in actives:
            parts.intake.remember(active)
            parts.driver.start(active)
        Upkeep(fixtures, parts).start()
        return report

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
        self._fixtures.pool.close()
        self._fixtures.parking.close()
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
        self._fixtures.prewarming.close()
        self._fixtures.pool.close()
        self._fixtures.parking.close()
        parts = self._fixtures.parts
        if parts is None:
            await self._registry.aclose()
            return
        parts.intake.is_closed = True
        parts.driver.abandon(parts.intake.actives.values())
        await self._fixtures.work.aclose()
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
        self._fixtures.disposal.freeze()
        self._fixtures.prewarming.freeze()
        self._fixtures.pool.close()
        parts.ledger.freeze()
        parts.instances.freeze()
        parts.driver.abandon(parts.intake.actives.values())
        await self._fixtures.work.aclose()
        await self._fixtures.teardown.aclose()
        parts.instances.close()
        parts.results.close()
        await parts.ledger.aclose()

    async def _finish_teardown(self) -> None:
        try:
            async with asyncio.timeout(DISPOSAL_SECONDS_MAX):
                await self._fixtures.teardown.join()
        except TimeoutError:
            _log.warning("sandboxes are left to the next start")
            await self._fixtures.teardown.aclose()

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
    def _parts(self) -> Parts:
        return self._fixtures.parts or self._fixtures.made()

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


def _checked(record: ExecutionRecord) -> ExecutionRecord:
    if record.failure is not None:
        raise raise_again(record.failure)
    return record


def _left_running(actives: Iterable[Active]) -> set[SandboxId]:
    return {
        active.sandbox.id
        for active in actives
        if active.was_started and active.sandbox is not None and active.record is None
    }
