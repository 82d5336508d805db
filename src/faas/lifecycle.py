"""Which state may follow which, as tables.

execution   queued → running → finished | failed        queued → failed | finished (cancelled)
sandbox     creating → ready ⇄ busy, ready ⇄ paused → dead
instance    creating → running ⇄ paused, running ⇄ stopped, any → failed, any → destroyed
"""

from enum import StrEnum
from typing import TypeVar

from faas.errors import WrongStateError
from faas.model import ExecutionState


class SandboxState(StrEnum):
    """Where a sandbox stands."""

    CREATING = "creating"
    READY = "ready"
    BUSY = "busy"
    PAUSED = "paused"
    DEAD = "dead"


class InstanceState(StrEnum):
    """Where an instance stands."""

    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"
    DESTROYED = "destroyed"


T = TypeVar("T", bound=StrEnum)
E, S, I = ExecutionState, SandboxState, InstanceState  # noqa: E741  a table reads better short

_NEXT: dict[StrEnum, frozenset[StrEnum]] = {
    E.QUEUED: frozenset({E.RUNNING, E.FAILED, E.FINISHED}),
    E.RUNNING: frozenset({E.FINISHED, E.FAILED}),
    E.FINISHED: frozenset(),
    E.FAILED: frozenset(),
    S.CREATING: frozenset({S.READY, S.DEAD}),
    S.READY: frozenset({S.BUSY, S.PAUSED, S.DEAD}),
    S.BUSY: frozenset({S.READY, S.PAUSED, S.DEAD}),
    S.PAUSED: frozenset({S.READY, S.DEAD}),
    S.DEAD: frozenset(),
    I.CREATING: frozenset({I.RUNNING, I.FAILED, I.DESTROYED}),
    I.RUNNING: frozenset({I.PAUSED, I.STOPPED, I.FAILED, I.DESTROYED}),
    I.PAUSED: frozenset({I.RUNNING, I.STOPPED, I.FAILED, I.DESTROYED}),
    I.STOPPED: frozenset({I.RUNNING, I.FAILED, I.DESTROYED}),
    I.FAILED: frozenset({I.DESTROYED}),
    I.DESTROYED: frozenset(),
}


def advance(current: T, to: T) -> T:
    """Return `to` when it may follow `current`.

    Raises:
        WrongStateError: it may not.
    """
    if to in _NEXT[current]:
        return to
    raise WrongStateError(f"cannot go from {current.value} to {to.value}")
