"""Sandboxes of executions that just ended, kept a little while so that their files can be forked.

A parked sandbox runs nothing: its command has ended with everything it started. It is never used
for another execution, only read, and then destroyed like any other. At most `count_max` are parked,
each at most `seconds`; the oldest go first, and all go when memory is short, at a drain and at the
end. No ledger knows of them: what a dead gateway had parked is reclaimed by the next.

Parking is one insertion into a dictionary; nobody waits for it.
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faas.clock import Clock
from faas.ids import ExecutionId, TenantId
from faas.model import ExecutionSpec
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import RootFilesystem

MEMORY_SHARE_MIN = 0.1
"""Below this share of free memory nothing is parked: running commands need it more."""

_MEMINFO = Path("/proc/meminfo")


@dataclass(slots=True, eq=False)
class Parked:
    """One sandbox, and what a child of it inherits."""

    execution_id: ExecutionId
    tenant: TenantId
    spec: ExecutionSpec
    root: RootFilesystem
    sandbox: GuardedSandbox
    parked_ns: int = 0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One reads its files, once; whoever comes meanwhile waits for what that makes."""
    readers: int = 0
    is_leaving: bool = False


class Parking:
    """Keeps the newest."""

    def __init__(
        self,
        *,
        count_max: int,
        seconds: float,
        destroy: Callable[[GuardedSandbox, str], None],
        clock: Clock,
        is_memory_short: Callable[[], bool] | None = None,
    ) -> None:
        self._count_max = count_max
        self._ns_max = int(seconds * 1e9)
        self._destroy = destroy
        self._clock = clock
        self._is_memory_short = is_memory_short or memory_is_short
        self._parked: dict[ExecutionId, Parked] = {}
        self._is_open = count_max > 0 and seconds > 0

    @property
    def count(self) -> int:
        """How many are parked."""
        return len(self._parked)

    @property
    def is_open(self) -> bool:
        """Whether anything is parked at all."""
        return self._is_open

    def park(self, parked: Parked) -> None:
        """Take a sandbox over; it is destroyed when its time has come."""
        if not self._is_open:
            self._destroy(parked.sandbox, "done")
            return
        parked.parked_ns = self._clock.monotonic_ns()
        self._parked[parked.execution_id] = parked
        if len(self._parked) > self._count_max:
            self._let_go(next(iter(self._parked.values())), "done")

    @contextmanager
    def reading(self, execution_id: ExecutionId, tenant: TenantId) -> Generator[Parked | None]:
        """Lend a sandbox for reading; it is not destroyed meanwhile."""
        parked = self._parked.get(execution_id)
        if parked is None or parked.tenant != tenant or not parked.sandbox.is_alive:
            yield None
            return
        parked.readers += 1
        try:
            yield parked
        finally:
            parked.readers -= 1
            if parked.is_leaving and not parked.readers:
                self._destroy(parked.sandbox, "done")

    def find(self, sandbox_id: str) -> ExecutionId | None:
        """Say whose sandbox it was."""
        for parked in self._parked.values():
            if parked.sandbox.id == sandbox_id:
                return parked.execution_id
        return None

    def dismiss(self, parked: Parked) -> None:
        """Its files are kept elsewhere: it is needed no more."""
        if self._parked.get(parked.execution_id) is parked:
            self._let_go(parked, "done")

    def tick(self) -> None:
        """Let go of the old, and of all when memory is short."""
        if not self._parked:
            return
        oldest_ns = self._clock.monotonic_ns() - self._ns_max
        is_short = self._is_memory_short()
        for parked in list(self._parked.values()):
            if is_short or parked.parked_ns <= oldest_ns or not parked.sandbox.is_alive:
                self._let_go(parked, "memory is short" if is_short else "done")

    def close(self) -> None:
        """Let go of all and keep nothing from now on."""
        self._is_open = False
        for parked in list(self._parked.values()):
            self._let_go(parked, "shutting down")

    def _let_go(self, parked: Parked, reason: str) -> None:
        del self._parked[parked.execution_id]
        parked.is_leaving = True
        if not parked.readers:
            self._destroy(parked.sandbox, reason)


def memory_is_short(meminfo: Path = _MEMINFO) -> bool:
    """Whether the machine has too little memory left for what is only kept in case."""
    found: dict[str, int] = {}
    try:
        for line in meminfo.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                found[name] = int(rest.split()[0])
    except (OSError, ValueError, IndexError):
        return False
    total = found.get("MemTotal", 0)
    return total > 0 and found.get("MemAvailable", total) < total * MEMORY_SHARE_MIN
