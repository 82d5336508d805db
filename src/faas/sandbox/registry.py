"""Which runtimes there are, which of them work on this machine, and which one a request gets.

A runtime is a package's entry point in the group `faas.runtimes`: a callable that takes a
`RuntimeContext` and returns a `Runtime`. Ours are registered the same way.

`auto` takes the first runtime that works, in the order of `PREFERENCE`, then the others by name.
A request for a least isolation is refused when nothing reaches it; it is never lowered.
"""

import asyncio
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

from faas.cleanup import Cleanup
from faas.clock import Clock
from faas.errors import (
    FaasError,
    InvalidArgumentError,
    InvalidConfigError,
    RuntimeUnavailableError,
    UnsupportedError,
)
from faas.events import EventBus, RuntimeProbed
from faas.ids import SandboxId
from faas.model import ExecutionSpec, NetworkMode, RuntimeChoice
from faas.sandbox.capabilities import Capability
from faas.sandbox.protocols import ProbeReport, Runtime

ENTRY_POINT_GROUP = "faas.runtimes"

PREFERENCE = ("embedded", "microvm", "docker")
"""Fastest first: `auto` is asked for by those who did not choose."""

ISOLATION_LADDER = ("none", "container", "userns", "microvm")
"""From weakest to strongest: shared with the host; namespaces whose root is the host's root;
namespaces whose root is nobody on the host; a kernel of its own."""

_HINTS = {
    Capability.MEMORY_SNAPSHOT.value: "put CRIU in place with scripts/criu.sh; `faas doctor` tries"
    " it"
}

PROBE_SECONDS_MAX = 20.0
"""A cold Docker Engine answers within a few seconds; past this it is not usable anyway."""


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """What a runtime is given to open itself."""

    data_dir: Path
    run_dir: Path
    instance_tag: str
    """Short and the same for every start on this data directory; part of every name on the host."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])


OpenRuntime = Callable[[RuntimeContext], Runtime]


def installed_runtimes() -> dict[str, OpenRuntime]:
    """Load every runtime that installed packages offer, by name.

    Raises:
        InvalidConfigError: two packages offer the same name, or one cannot be loaded.
    """
    found: dict[str, OpenRuntime] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in found:
            raise InvalidConfigError(f"two packages offer the runtime {entry.name!r}")
        try:
            found[entry.name] = entry.load()
        except (ImportError, AttributeError) as failure:
            raise InvalidConfigError(f"the runtime {entry.name!r} cannot be loaded") from failure
    return found


def isolation_rank(label: str) -> int:
    """Return the rung of `ISOLATION_LADDER` that a sandbox's own label stands on."""
    if "microvm" in label:
        return ISOLATION_LADDER.index("microvm")
    if "userns" in label:
        return ISOLATION_LADDER.index("userns")
    if "namespaces" in label or "docker" in label or "container" in label:
        return ISOLATION_LADDER.index("container")
    return 0


class Registry:
    """Holds the opened runtimes and what their last probe said."""

    def __init__(self, runtimes: Mapping[str, Runtime], *, clock: Clock, events: EventBus) -> None:
        order = [name for name in PREFERENCE if name in runtimes]
        order += sorted(set(runtimes) - set(order))
        self._runtimes = {name: runtimes[name] for name in order}
        self._reports: dict[str, ProbeReport] = {}
        self._clock = clock
        self._events = events

    @property
    def names(self) -> tuple[str, ...]:
        """Every runtime, in the order `auto` tries them."""
        return tuple(self._runtimes)

    async def start(self) -> None:
        """Start and probe every runtime, at the same time; one that fails is only unavailable."""
        async with asyncio.TaskGroup() as group:
            for name, runtime in self._runtimes.items():
                group.create_task(self._start_one(name, runtime))

    async def probe(self) -> dict[str, ProbeReport]:
        """Probe every runtime again."""
        async with asyncio.TaskGroup() as group:
            for name, runtime in self._runtimes.items():
                group.create_task(self._probe_one(name, runtime))
        return self.reports()

    def reports(self) -> dict[str, ProbeReport]:
        """Return what the last probe of each runtime said."""
        return dict(self._reports)

    def get(self, name: str) -> Runtime | None:
        """Return the runtime of that name, whether it works or not."""
        return self._runtimes.get(name)

    def available(self) -> list[Runtime]:
        """Return the runtimes that work, in the order `auto` tries them."""
        return [
            runtime
            for name, runtime in self._runtimes.items()
            if (report := self._reports.get(name)) is not None and report.is_available
        ]

    def pick(self, spec: ExecutionSpec) -> Runtime:
        """Choose the runtime for an execution.

        Raises:
            UnsupportedError: none is known that can do what is asked.
            RuntimeUnavailableError: the one asked for does not work on this machine.
        """
        candidates = self._named(spec.runtime)
        for runtime in candidates:
            if not _missing(runtime, spec) and self._reaches(runtime, spec):
                return runtime
        raise self._refusal(candidates, spec)

    def _named(self, choice: RuntimeChoice) -> list[Runtime]:
        available = self.available()
        if choice is RuntimeChoice.AUTO:
            if available:
                return available
            raise RuntimeUnavailableError(
                "no runtime works on this machine", hint="faas doctor", details=self._why_not()
            )
        runtime = self._runtimes.get(choice.value)
        if runtime is None:
            raise UnsupportedError(
                f"the runtime {choice.value} is not built into this gateway",
                details={"supported": [r.name for r in available]},
            )
        if runtime not in available:
            report = self._reports.get(choice.value)
            raise RuntimeUnavailableError(
                f"the runtime {choice.value} does not work here: "
                f"{report.detail if report else 'it was not started'}",
                hint=(report.hint if report else None) or "faas doctor",
                details={"supported": [r.name for r in available]},
            )
        return [runtime]

    def _reaches(self, runtime: Runtime, spec: ExecutionSpec) -> bool:
        if spec.isolation_min is None:
            return True
        # What keeps memory has no user namespace: CRIU cannot restore into one.
        label = "namespaces" if spec.memory else self._reports[runtime.name].isolation
        return isolation_rank(label) >= _rung(spec.isolation_min)

    def _refusal(self, candidates: list[Runtime], spec: ExecutionSpec) -> FaasError:
        for runtime in candidates:
            if missing := _missing(runtime, spec):
                return UnsupportedError(
                    f"the runtime {runtime.name} cannot do this: {', '.join(missing)}",
                    hint=_HINTS.get(missing[0]),
                    details={"missing": missing, "runtime": runtime.name},
                )
        supported = {r.name: self._reports[r.name].isolation for r in self.available()}
        return UnsupportedError(
            f"no runtime here isolates at least by {spec.isolation_min}",
            details={"supported": supported, "ladder": list(ISOLATION_LADDER)},
        )

    def _why_not(self) -> dict[str, object]:
        return {name: report.detail for name, report in self._reports.items()}

    async def _start_one(self, name: str, runtime: Runtime) -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS_MAX):
                await runtime.start()
        except TimeoutError:
            self._note(name, ProbeReport(is_available=False, detail="it did not start in time"))
        except FaasError as failure:
            self._note(
                name,
                ProbeReport(is_available=False, detail=failure.message, hint=failure.hint),
            )
        else:
            await self._probe_one(name, runtime)

    async def _probe_one(self, name: str, runtime: Runtime) -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS_MAX):
                report = await runtime.probe()
        except TimeoutError:
            report = ProbeReport(is_available=False, detail="its probe did not end in time")
        self._note(name, report)

    def _note(self, name: str, report: ProbeReport) -> None:
        self._reports[name] = report
        self._events.publish(
            RuntimeProbed(runtime=name, is_available=report.is_available, detail=report.detail)
        )

    async def aclose(self, *, leave_running: AbstractSet[SandboxId] = frozenset()) -> None:
        """Close every runtime; sandboxes in `leave_running` live on."""
        async with Cleanup() as cleanup:
            for runtime in self._runtimes.values():
                cleanup.push(partial(runtime.aclose, leave_running=leave_running))


def _missing(runtime: Runtime, spec: ExecutionSpec) -> list[str]:
    wanted = {
        Capability.TTY: spec.tty,
        Capability.EGRESS: spec.network is NetworkMode.EGRESS,
        Capability.MEMORY_SNAPSHOT: spec.memory,
    }
    return [
        ability.value
        for ability, is_wanted in wanted.items()
        if is_wanted and ability not in runtime.capabilities
    ]


def _rung(isolation_min: str) -> int:
    if isolation_min not in ISOLATION_LADDER:
        raise InvalidArgumentError(
            f"{isolation_min!r} is not an isolation level",
            details={"supported": list(ISOLATION_LADDER)},
        )
    return ISOLATION_LADDER.index(isolation_min)
