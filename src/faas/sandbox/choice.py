"""Which runtime an execution gets, and why: the rule of `auto`.

A runtime is **able** when its last probe worked, it can do everything the request asks for
(terminal, network, the image's kind) and one of its ways of isolating reaches the least rung
demanded. A runtime asked for by name must be able, or the request is refused; it is never replaced.

`auto` takes, of the able ones, the one whose sandbox is expected soonest: at once where a warm one
is ready, else after its recent mean of making one. What differs by less than `SAME_MS` counts as
the same, and of the same the first in the order of `registry.PREFERENCE` is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from faas.events import SandboxCreated
from faas.model import ExecutionSpec, NetworkMode
from faas.sandbox.capabilities import Capability
from faas.sandbox.isolation import ISOLATION_LADDER, isolation_rank, reaches
from faas.sandbox.protocols import ProbeReport, RootFilesystem, Runtime

SAME_MS = 10.0
"""Nobody feels less, and the means are noisier than that on a busy machine."""

_MEAN_WEIGHT = 0.1
"""Of the newest sample: the last ten or so count."""


class Choice(NamedTuple):
    """A runtime, the way it must isolate, and why it was taken."""

    runtime: Runtime
    isolation_min: str | None
    """None where the runtime's ordinary way reaches what was demanded."""
    reason: str


IsWarm = Callable[[Choice], bool]
"""Whether a sandbox of that choice is ready for the execution in question."""


class Speeds:
    """Remembers how long each runtime takes to make a sandbox."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def on_created(self, event: SandboxCreated) -> None:
        """Learn from every sandbox that was made."""
        took = event.duration_us / 1000
        before = self._means.get(event.runtime, took)
        self._means[event.runtime] = before + _MEAN_WEIGHT * (took - before)

    def expected_ms(self, runtime: str, report: ProbeReport) -> float:
        """Return the recent mean, or before the first sandbox what its probe took."""
        return self._means.get(runtime, report.duration_ms)


def missing(runtime: Runtime, spec: ExecutionSpec, root: RootFilesystem | None) -> list[str]:
    """Name what a request asks for and the runtime cannot do."""
    wanted = {
        Capability.TTY: spec.tty,
        Capability.EGRESS: spec.network is NetworkMode.EGRESS,
        Capability.MEMORY_SNAPSHOT: spec.memory,
        Capability.HOST_IMAGE: root is not None and root.digest == "host",
    }
    lacks = [
        ability.value
        for ability, is_wanted in wanted.items()
        if is_wanted and ability not in runtime.capabilities
    ]
    if root is not None and root.keeper not in (None, runtime.name):
        lacks.append(f"image of the runtime {root.keeper}")
    return lacks


def way_of(report: ProbeReport, isolation_min: str | None) -> tuple[bool, str | None]:
    """Say whether a runtime reaches a rung, and by which demand: None for its ordinary way.

    A demand that only a stronger way reaches is narrowed to the rung of the weakest such way, so
    that equal sandboxes are found under equal names in the warm pool.
    """
    if reaches(report.isolation, isolation_min):
        return True, None
    stronger = [label for label in report.isolations if reaches(label, isolation_min)]
    if not stronger:
        return False, None
    return True, ISOLATION_LADDER[min(isolation_rank(label) for label in stronger)]


def best(
    able: Sequence[Choice], reports: Mapping[str, ProbeReport], speeds: Speeds, is_warm: IsWarm
) -> Choice:
    """Take one of several able runtimes, given in the order of preference; see the module."""
    waits = [
        (0.0 if is_warm(one) else speeds.expected_ms(one.runtime.name, reports[one.runtime.name]))
        for one in able
    ]
    soonest = min(waits)
    chosen = next(i for i, wait in enumerate(waits) if wait <= soonest + SAME_MS)
    return able[chosen]._replace(reason=_reason(able, waits, chosen))


def _reason(able: Sequence[Choice], waits: Sequence[float], chosen: int) -> str:
    if chosen == 0:
        return f"auto: first of {', '.join(one.runtime.name for one in able)}"
    name = able[chosen].runtime.name
    if waits[chosen] == 0.0:
        return f"auto: {name} had a warm sandbox, {able[0].runtime.name} needs {waits[0]:.0f} ms"
    return f"auto: {name} needs {waits[chosen]:.0f} ms, {able[0].runtime.name} {waits[0]:.0f} ms"
