"""Instances that a former gateway left, taken up or taken back."""

from collections.abc import MutableMapping
from contextlib import suppress

from faas.clock import Clock
from faas.errors import FaasError, UnsupportedError
from faas.executor.housing import Housing
from faas.executor.idleness import Idleness
from faas.executor.instance_life import Life
from faas.executor.instance_records import InstanceLedger, InstanceRecord, Intent, settled
from faas.executor.instance_steps import Steps
from faas.ids import InstanceId
from faas.lifecycle import InstanceState
from faas.tenancy import Tenant

_AWAKE = (InstanceState.RUNNING, InstanceState.PAUSED)


class InstanceRecovery:
    """Finishes or takes back what was under way, by the intent in its record."""

    def __init__(
        self,
        lives: MutableMapping[InstanceId, Life],
        *,
        ledger: InstanceLedger,
        housing: Housing,
        idleness: Idleness,
        steps: Steps,
        clock: Clock,
    ) -> None:
        self._lives = lives
        self._ledger = ledger
        self._housing = housing
        self._idleness = idleness
        self._steps = steps
        self._clock = clock

    async def take_up(self, record: InstanceRecord) -> None:
        """Take up one."""
        if record.intent is Intent.CREATE:
            self._ledger.forget(record.id)
            return
        if record.intent is Intent.DELETE:
            await self._housing.forget(record.snapshot_id)
            self._ledger.forget(record.id)
            return
        life = Life(record, Tenant(record.tenant), self._clock.monotonic_ns())
        self._lives[record.id] = life
        if record.is_on_disk:
            if record.intent is not None:
                self._steps.take_back(life, settled(record, sandbox_id=None))
        elif record.state in _AWAKE:
            await self._take_up_sandbox(life)
            self._idleness.begin(life)
        elif record.intent is not None:
            self._steps.take_back(life, settled(record, sandbox_id=None))

    async def _take_up_sandbox(self, life: Life) -> None:
        record = life.record
        life.sandbox = await self._housing.adopt(record)
        if record.intent is Intent.START and record.state is InstanceState.PAUSED:
            # On disk it is whole; what was made of that may not be.
            if life.sandbox is not None:
                await life.sandbox.destroy("it goes on from disk")
                life.sandbox = None
            self._steps.take_back(life, settled(record, sandbox_id=None))
            return
        if life.sandbox is None:
            ends = {Intent.STOP: InstanceState.STOPPED, Intent.PAUSE: InstanceState.PAUSED}
            ended = ends.get(record.intent) if record.intent else None
            kept_as = record.snapshot_id if ended else None
            if ended and kept_as is not None and await self._housing.has(kept_as):
                self._steps.to(life, ended, sandbox_id=None)
            else:
                self._steps.fail(life, "its sandbox was lost while no gateway ran")
            return
        with suppress(FaasError):  # killed while it was resized
            await life.sandbox.apply_limits(record.spec.limits)
        if record.intent in (Intent.STOP, Intent.PAUSE):
            await self._housing.forget(record.snapshot_id)
            state = InstanceState.RUNNING
            self._steps.take_back(life, settled(record, snapshot_id=None, state=state))
            with suppress(UnsupportedError):
                await life.sandbox.resume()
        elif record.state is InstanceState.PAUSED:
            await life.sandbox.pause()
