"""When an instance is put away: nobody used it, its lease ran out, or its time is up.

In use is an instance in which a command of ours runs, to which somebody is connected, or in which
anything works: a background process that takes more than `WORK_SHARE` of a core. What only waits,
like a server that nobody asks, does not count.
"""

from collections.abc import Callable
from datetime import datetime

from faas.clock import Clock
from faas.executor.instance_life import Life
from faas.executor.instance_records import IdleAction, InstanceRecord
from faas.lifecycle import InstanceState

WORK_SHARE = 0.01
"""Of one core: a Python server that polls twice a second takes a tenth of it, a build a hundred
times as much."""

LOOK_SECONDS = 5.0
"""Between looks at the processor time: long enough that the share means something."""

_AWAKE = (InstanceState.RUNNING, InstanceState.PAUSED)


class Idleness:
    """Says what is due; does nothing itself."""

    def __init__(self, clock: Clock, *, runs_command: Callable[[InstanceRecord], bool]) -> None:
        self._clock = clock
        self._runs_command = runs_command

    def due(self, life: Life, now: datetime) -> IdleAction | None:
        """Return what is to be done with an instance now."""
        record, spec = life.record, life.record.spec
        age_seconds = (now - record.created_at).total_seconds()
        if spec.ttl_seconds is not None and age_seconds >= spec.ttl_seconds:
            return IdleAction.DELETE
        if self._is_lease_over(record, now):
            return spec.idle_action
        if spec.idle_seconds is None or record.state is not InstanceState.RUNNING:
            return None
        is_idle = not self.is_used(life) and self._idle_ns(life) >= spec.idle_seconds * 1e9
        return spec.idle_action if is_idle else None

    def is_still_due(self, life: Life, action: IdleAction) -> bool:
        """Whether it is due yet, when its turn has come."""
        return self.due(life, self._clock.now()) is action

    @staticmethod
    def _is_lease_over(record: InstanceRecord, now: datetime) -> bool:
        if record.lease_until is None or now < record.lease_until:
            return False
        is_put_away = record.state is InstanceState.PAUSED
        pauses = record.spec.idle_action in (IdleAction.PAUSE, IdleAction.PAUSE_TO_DISK)
        return record.state in _AWAKE and not (is_put_away and pauses)

    def begin(self, life: Life) -> None:
        """Start counting: it runs from now on."""
        life.used_ns = life.looked_ns = self._clock.monotonic_ns()
        life.worked_us = None if life.sandbox is None else life.sandbox.cpu_us()

    def is_used(self, life: Life) -> bool:
        """Whether anybody uses it, or anything in it works."""
        if self._runs_command(life.record) or self._works(life):
            life.used_ns = self._clock.monotonic_ns()
            return True
        return life.users > 0

    def _idle_ns(self, life: Life) -> int:
        return self._clock.monotonic_ns() - life.used_ns

    def _works(self, life: Life) -> bool:
        """Compare its processor time with the last look's; True only when a new look says so."""
        now_ns = self._clock.monotonic_ns()
        pause_seconds = min(LOOK_SECONDS, (life.record.spec.idle_seconds or LOOK_SECONDS) / 2)
        if life.sandbox is None or now_ns - life.looked_ns < pause_seconds * 1e9:
            return False
        before, before_ns = life.worked_us, life.looked_ns
        life.worked_us, life.looked_ns = life.sandbox.cpu_us(), now_ns
        if before is None or life.worked_us is None or life.worked_us < before:
            return False
        return (life.worked_us - before) * 1000 > WORK_SHARE * (now_ns - before_ns)
