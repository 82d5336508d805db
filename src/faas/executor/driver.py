"""Takes one execution from its beginning to its end, in one task, whatever happens on the way.

    begin (durable) → turn → run → finish (durable) → told → sandbox destroyed, ticket given back

Cancelling ends in a result with reason `cancelled`; our own failure ends in a failure record; a
gateway that goes away ends in neither: the ledger still says queued or running, and the next
gateway takes it up from there.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from faas.errors import DeadlineExceededError, FaasError, InternalError, SandboxBrokenError
from faas.events import Event, ExecutionFinished
from faas.executor.active import Active
from faas.executor.admission import Admission
from faas.executor.background import Background
from faas.executor.modes import MODES, after
from faas.executor.parking import Parked, Parking
from faas.executor.records import OUTPUT_IN_ROW_BYTES_MAX, Outcome, failure_record
from faas.executor.run import CANCEL_SECONDS_MAX, Workshop, cancelled_result, resume
from faas.executor.spool import keep, remove, size_of
from faas.images import ImageOrder
from faas.model import ExecutionRecord, ExecutionState, Mode
from faas.sandbox.guarded import GuardedSandbox

_log = logging.getLogger(__name__)


_FORKABLE = frozenset({Mode.EPHEMERAL, Mode.BRANCHED})
"""Modes whose files nothing else keeps."""


class Driver:
    """Drives executions."""

    def __init__(
        self,
        shop: Workshop,
        *,
        admission: Admission,
        background: Background,
        forget: Callable[[Active], None],
        parking: Parking | None = None,
    ) -> None:
        self.shop = shop
        self._admission = admission
        self._background = background
        self._forget = forget
        self._parking = parking
        self.finished = 0
        self.failed = 0
        self.from_pool = 0
        self.on_demand = 0

    def start(self, active: Active) -> None:
        """Drive it from now on."""
        active.task = self._background.spawn(self._drive(active))

    def cancel(self, active: Active) -> None:
        """Ask for its end; its waiters hear of it."""
        if active.is_cancelled or active.is_finishing or active.is_over:
            return
        active.is_cancelled = True
        if active.process is not None:
            self._background.spawn(self._kill(active))
        elif active.is_begun and active.task is not None:
            active.task.cancel()

    def end_overdue(self, actives: Iterable[Active]) -> None:
        """Give up on commands whose agent did not end them at their time limit."""
        now_ns = self.shop.clock.monotonic_ns()
        for active in actives:
            is_overdue = active.overdue_ns is not None and active.overdue_ns < now_ns
            if is_overdue and not active.is_finishing and active.task is not None:
                active.overdue_ns = None
                active.doom = SandboxBrokenError("no end of the command at its time limit")
                active.task.cancel()

    def abandon(self, actives: Iterable[Active]) -> None:
        """The gateway goes: let go of everything without ending what runs."""
        for active in actives:
            active.is_abandoned = True

    async def _drive(self, active: Active) -> None:
        try:
            if not active.is_begun:
                await self.shop.ledger.begin(active.entry)
                active.is_begun = True
                active.wake()
            outcome = await self._outcome(active)
            await self._finish(active, outcome)
        except FaasError as failure:
            active.error = failure
        finally:
            self._release(active)
        await self._leave(active)

    async def _outcome(self, active: Active) -> Outcome:
        try:
            return await self._run(active)
        except asyncio.CancelledError:
            is_ours = active.is_cancelled or active.doom is not None
            if active.is_abandoned or not is_ours or active.task is None:
                self._put_back(active)
                raise
            active.task.uncancel()
            if active.doom is not None:
                return Outcome(failure=failure_record(active.doom))
            return Outcome(result=cancelled_result(active))
        except FaasError as failure:
            if active.is_cancelled:
                return Outcome(result=cancelled_result(active))
            return Outcome(failure=failure_record(failure))
        except Exception:  # noqa: BLE001  a bug in one execution must not leave its caller waiting
            _log.exception("an execution failed by a bug", extra={"execution_id": active.entry.id})
            return Outcome(failure=failure_record(InternalError()))

    async def _run(self, active: Active) -> Outcome:
        if active.is_cancelled:
            return Outcome(result=cancelled_result(active))
        if active.doom is not None:
            raise active.doom
        if active.process is not None:
            return Outcome(result=await after(await resume(active, self.shop), active, self.shop))
        if not active.ticket.is_granted:
            await self._turn(active)
        if active.image is not None:
            await self._fetch(active, active.image)
        mode = MODES[active.entry.spec.mode]
        result = await mode(active, self.shop)
        return Outcome(result=result)

    async def _fetch(self, active: Active, order: ImageOrder) -> None:
        """Find or fetch its image, within the time the caller allows."""
        images, registry, watch = self.shop.images, self.shop.registry, active.image_watch
        assert images is not None  # noqa: S101  orders come from it
        assert registry is not None  # noqa: S101
        assert watch is not None  # noqa: S101  made with the order
        remaining = active.deadline.remaining_seconds(self.shop.clock)
        if remaining is not None:
            order = replace(order, seconds_max=min(order.seconds_max, remaining))
        try:
            root = await images.provide(order, watch.tell)
        finally:
            watch.end()
            active.wake()
        # Only now it is known who can run it.
        active.choice = registry.choose(active.entry.spec, root)
        active.entry = replace(active.entry, runtime=active.choice.runtime.name)
        active.root = root

    async def _turn(self, active: Active) -> None:
        turn = active.ticket.turn
        assert turn is not None  # noqa: S101  a ticket that is not granted waits for its turn
        remaining = active.deadline.remaining_seconds(self.shop.clock)
        if remaining is None:
            await turn
            return
        expiry = self._background.spawn(self._expire(turn, remaining))
        try:
            await turn
        finally:
            expiry.cancel()

    async def _expire(self, turn: asyncio.Future[None], seconds: float) -> None:
        await self.shop.clock.sleep(seconds)
        if not turn.done():
            turn.set_exception(
                DeadlineExceededError("the time the caller allowed ended in the queue")
            )

    async def _finish(self, active: Active, outcome: Outcome) -> None:
        active.is_finishing = True
        result = outcome.result
        if result is not None:
            stdout_bytes, stderr_bytes = len(result.stdout), len(result.stderr)
            is_spooled = max(stdout_bytes, stderr_bytes) > OUTPUT_IN_ROW_BYTES_MAX
        else:
            stdout_bytes = size_of(active.output.stdout)
            stderr_bytes = size_of(active.output.stderr)
            is_spooled = stdout_bytes + stderr_bytes > 0
        entry, live = active.entry, active.output
        if is_spooled:
            spool_dir = self.shop.settings.spool_dir
            active.output = await asyncio.to_thread(keep, live, spool_dir, entry.id)
        record = ExecutionRecord(
            id=entry.id,
            tenant=entry.tenant,
            state=ExecutionState.FAILED if result is None else ExecutionState.FINISHED,
            spec=entry.spec,
            created_at=entry.created_at,
            started_at=active.started_at,
            finished_at=self.shop.clock.now(),
            result=result,
            failure=outcome.failure,
        )
        await self.shop.ledger.finish(
            entry,
            record,
            stdout_bytes=stdout_bytes,
            stderr_bytes=stderr_bytes,
            is_spooled=is_spooled,
            releases_key=result is None and not active.was_started,
        )
        if active.was_started:
            remove(live)
        active.record = record
        self._count(active, record)
        self._publish(ExecutionFinished(record=record))

    def _publish(self, event: Event) -> None:
        self.shop.events.publish(event)

    def _count(self, active: Active, record: ExecutionRecord) -> None:
        if record.failure is not None:
            self.failed += 1
            return
        self.finished += 1
        if active.is_from_pool:
            self.from_pool += 1
        elif active.was_started:
            self.on_demand += 1

    def _release(self, active: Active) -> None:
        """Everything that must happen at the end, without waiting for anything."""
        is_left_running = active.was_started and not active.is_over
        if active.sandbox is not None and not is_left_running:
            self._give_back(active, active.sandbox)
        if active.is_over:
            self._forget(active)
        active.wake()
        self.shop.pool.refill()

    def _give_back(self, active: Active, sandbox: GuardedSandbox) -> None:
        """Park it when its files may be asked for, else have it destroyed."""
        parking, record = self._parking, active.record
        if (
            parking is None
            or not parking.is_open
            or record is None
            or record.result is None
            or active.is_cancelled
            or not active.was_started
            or active.entry.spec.mode not in _FORKABLE
            or not active.root.digest
        ):
            self.shop.disposal.take(sandbox, _reason(active))
            return
        entry = active.entry
        parking.park(Parked(entry.id, entry.tenant, entry.spec, active.root, sandbox))

    async def _leave(self, active: Active) -> None:
        try:
            await self.shop.disposal.wait_for_room()
        finally:
            self._admission.leave(active.ticket)

    def _put_back(self, active: Active) -> None:
        """Its command never began: the next gateway starts it anew."""
        if active.state is ExecutionState.RUNNING and not active.was_started:
            active.state = ExecutionState.QUEUED
            self.shop.ledger.place(active.entry.seq, ExecutionState.QUEUED)

    async def _kill(self, active: Active) -> None:
        process = active.process
        assert process is not None  # noqa: S101  it is killed only when it was started
        try:
            async with asyncio.timeout(CANCEL_SECONDS_MAX):
                await process.kill()
                while not active.is_over:
                    await active.change()
        except (TimeoutError, FaasError, OSError):
            if not active.is_finishing and active.task is not None:
                active.task.cancel()


def _reason(active: Active) -> str:
    if active.is_abandoned:
        return "shutting down"
    return "cancelled" if active.is_cancelled else "done"
