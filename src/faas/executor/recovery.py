"""Takes up what a former gateway left, by what the ledger says of it.

* running, and its sandbox can be adopted with the command in it: waited for, as ever.
* running, and its sandbox is there without the command, or was not wholly restored from memory: it
  never began; treated as queued.
* running, and its sandbox is gone: failed, `sandbox_broken`. It may have run, so it is not
  repeated, and its idempotency key keeps answering with that failure.
* running in an instance that is on disk: waited for, until the instance is resumed.
* queued, and submitted with `wait=false` or with an idempotency key: run now.
* queued otherwise: failed, `unavailable`; whoever waited is gone with the connection.

Then everything of ours on the host that belongs to no execution is taken away, and so are spool
files without a row.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from faas.clock import Clock
from faas.errors import FaasError, SandboxBrokenError, UnavailableError, WrongStateError
from faas.events import EventBus
from faas.executor.active import NO_ROOT, Active
from faas.executor.admission import Admission, Ticket
from faas.executor.images import ImageAsk, ImageResolver, ImageWatch, at_hand
from faas.executor.instances import Instances
from faas.executor.ledger import Ledger
from faas.executor.moving import MovingProcess
from faas.executor.records import Beginning
from faas.executor.run import Borrowed, overdue_ns, process_name
from faas.executor.settings import ExecutorSettings
from faas.executor.spool import keep, output_files, remove, remove_strangers
from faas.ids import InstanceId, SandboxId
from faas.model import ExecutionState, Mode
from faas.sandbox.guarded import GuardedSandbox, guard_adopted
from faas.sandbox.protocols import Process, ReclaimReport
from faas.sandbox.registry import Registry
from faas.tenancy import Tenant

LOST = "the sandbox was lost while no gateway ran"
NOT_BEGUN = "the gateway was restarted before the command began"

ADOPT_SECONDS_MAX = 10.0
"""Connecting to a live agent is instant; one that does not answer is broken."""

ADOPT_CONCURRENCY = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What a start found."""

    adopted: int = 0
    """Commands that ran on while no gateway lived."""
    queued: int = 0
    """Executions that are run now."""
    failed: int = 0
    """Executions that are lost; their records say why."""
    spool_files: int = 0
    """Files without an execution, taken away."""
    reclaimed: Mapping[str, ReclaimReport] = field(default_factory=dict[str, ReclaimReport])


Adopted = tuple[GuardedSandbox | None, Process | None]


class Recovery:
    """One start's look at the ledger and the host."""

    def __init__(
        self,
        settings: ExecutorSettings,
        *,
        ledger: Ledger,
        registry: Registry,
        images: ImageResolver,
        admission: Admission,
        instances: Instances,
        events: EventBus,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._registry = registry
        self._images = images
        self._admission = admission
        self._instances = instances
        self._events = events
        self._clock = clock

    async def run(self) -> tuple[RecoveryReport, list[Active]]:
        """Return what was found, and the executions to drive to their end."""
        await self._instances.recover()
        live = self._ledger.live()
        placed = [entry for entry in live if entry.state is ExecutionState.RUNNING]
        gate = asyncio.Semaphore(ADOPT_CONCURRENCY)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._adopt(entry, gate)) for entry in placed]
        found = {entry.id: task.result() for entry, task in zip(placed, tasks, strict=True)}
        # Those that run take their places before those that wait are served.
        order = sorted(live, key=lambda entry: not _runs(found.get(entry.id)))
        actives = [self._take_up(entry, found.get(entry.id)) for entry in order]
        adopted = [active for active in actives if active.process is not None]
        doomed = [active for active in actives if active.doom is not None]
        report = RecoveryReport(
            adopted=len(adopted),
            queued=len(actives) - len(adopted) - len(doomed),
            failed=len(doomed),
            spool_files=self._remove_spool_strangers(actives),
            reclaimed=await self._reclaim(
                self._instances.sandbox_ids()
                | {active.sandbox.id for active in adopted if active.sandbox is not None}
            ),
        )
        return report, actives

    def _take_up(self, entry: Beginning, found: Adopted | None) -> Active:
        if entry.state is ExecutionState.QUEUED:
            return self._anew(entry)
        if found is None and self._is_on_disk(entry):
            return self._away(entry)
        if found is None:
            return self._doomed(entry, SandboxBrokenError(LOST), was_started=True)
        sandbox, process = found
        if process is None:
            return self._anew(entry)
        ticket = self._admission.enter_recovered(Tenant(entry.tenant), is_running=True)
        active = self._active(entry, ticket)
        active.sandbox = sandbox
        active.process = process
        active.was_started = True
        if entry.spec.mode is Mode.PERSISTENT:
            active.process = MovingProcess(process.name, process)
        else:
            active.overdue_ns = overdue_ns(active, self._clock)
        return active

    def _is_on_disk(self, entry: Beginning) -> bool:
        instance = self._instances.find(InstanceId(entry.spec.instance_id or ""))
        return instance is not None and instance.is_on_disk

    def _away(self, entry: Beginning) -> Active:
        """It is kept with its instance; a restart of the machine took what it had said."""
        ticket = self._admission.enter_recovered(Tenant(entry.tenant), is_running=True)
        active = self._active(entry, ticket)
        active.process = MovingProcess(process_name(entry), None)
        active.was_started = True
        if not active.output.stdout.exists():
            kept = output_files(self._settings.spool_dir, entry.id)
            keep(kept, self._settings.live_dir, entry.id)
        return active

    async def _adopt(self, entry: Beginning, gate: asyncio.Semaphore) -> Adopted | None:
        sandbox_id = self._sandbox_id(entry)
        if sandbox_id is None:
            return None
        try:
            async with gate, asyncio.timeout(ADOPT_SECONDS_MAX):
                try:
                    guarded = await self._sandbox(entry, sandbox_id)
                except WrongStateError:
                    return None, None  # it was to go on from memory, and that was not done
                if guarded is None:
                    return None
                process = await guarded.attach(process_name(entry))
                if process is None and not isinstance(guarded, Borrowed):
                    await guarded.destroy("its command never began")
        except (FaasError, OSError):
            return None
        # One that has moved began long ago.
        return (guarded, process) if process or sandbox_id == entry.sandbox_id else None

    def _sandbox_id(self, entry: Beginning) -> SandboxId | None:
        """Where it runs: in the sandbox its instance has now, which may be another by now."""
        instance = self._instances.find(InstanceId(entry.spec.instance_id or ""))
        moved = None if instance is None else instance.sandbox_id
        return moved or entry.sandbox_id

    async def _sandbox(self, entry: Beginning, sandbox_id: SandboxId) -> GuardedSandbox | None:
        lent = self._instances.sandbox(sandbox_id)
        if lent is not None:
            return Borrowed(lent, events=self._events)
        runtime = self._registry.get(entry.runtime or "")
        sandbox = None if runtime is None else await runtime.adopt(sandbox_id)
        if sandbox is None:
            return None
        guarded = guard_adopted(sandbox, events=self._events)
        is_guest = entry.spec.mode is Mode.PERSISTENT
        return Borrowed(guarded, events=self._events) if is_guest else guarded

    def _anew(self, entry: Beginning) -> Active:
        if not entry.is_detached:
            return self._doomed(entry, UnavailableError(NOT_BEGUN), was_started=False)
        try:
            # A request's own credentials died with the former gateway.
            root, order = at_hand(self._images, entry.spec, entry.tenant, ImageAsk())
            choice = self._registry.choose(entry.spec, root)
        except FaasError as failure:
            return self._doomed(entry, failure, was_started=False)
        remove(output_files(self._settings.live_dir, entry.id))
        ticket = self._admission.enter_recovered(Tenant(entry.tenant), is_running=False)
        active = self._active(entry, ticket)
        active.choice, active.root = choice, root or NO_ROOT
        if order is not None:
            active.image, active.image_watch = order, ImageWatch()
        active.state, active.started_at = ExecutionState.QUEUED, None
        return active

    def _doomed(self, entry: Beginning, doom: FaasError, *, was_started: bool) -> Active:
        active = self._active(entry, self._admission.stand_aside(Tenant(entry.tenant)))
        active.doom = doom
        active.was_started = was_started
        return active

    def _active(self, entry: Beginning, ticket: Ticket) -> Active:
        return Active(
            entry=entry,
            tenant=Tenant(entry.tenant),
            output=output_files(self._settings.live_dir, entry.id),
            ticket=ticket,
            submitted_ns=self._clock.monotonic_ns(),
            state=entry.state,
            started_at=entry.started_at,
            is_begun=True,
        )

    async def _reclaim(self, keep: set[SandboxId]) -> dict[str, ReclaimReport]:
        found: dict[str, ReclaimReport] = {}
        for runtime in self._registry.available():
            try:
                found[runtime.name] = await runtime.reclaim(keep=keep)
            except FaasError:
                _log.exception("reclaim failed", extra={"runtime": runtime.name})
        return found

    def _remove_spool_strangers(self, actives: list[Active]) -> int:
        known = {active.entry.id for active in actives}
        live = remove_strangers(self._settings.live_dir, known)
        on_disk = {active.entry.id for active in actives if self._is_on_disk(active.entry)}
        spooled = self._ledger.spooled() | on_disk
        return live + remove_strangers(self._settings.spool_dir, spooled)


def _runs(found: Adopted | None) -> bool:
    return found is not None and found[1] is not None
