"""Which runtimes there are, which of them work on this machine, and which one a request gets.

A runtime is a package's entry point in the group `faas.runtimes`: a callable that takes a
`RuntimeContext` and returns a `Runtime`. Ours are registered the same way.

Which one a request gets is the rule of `faas.sandbox.choice`; `PREFERENCE` is the order of it, then
the others by name.
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
    InvalidConfigError,
    RuntimeUnavailableError,
    UnsupportedError,
)
from faas.events import EventBus, RuntimeProbed, SandboxCreated, SandboxCreateFailed
from faas.ids import SandboxId
from faas.model import ExecutionSpec, NetworkMode, RuntimeChoice
from faas.sandbox.capabilities import Capability, Explaining, Weighed
from faas.sandbox.choice import Choice, IsWarm, Speeds, best, missing, way_of
from faas.sandbox.isolation import ISOLATION_LADDER, reaches
from faas.sandbox.protocols import ProbeReport, RootFilesystem, Runtime

ENTRY_POINT_GROUP = "faas.runtimes"

PREFERENCE = ("embedded", "microvm", "docker")
"""Fastest first: `auto` is asked for by those who did not choose."""

IDLE_BYTES = 16 << 20
"""Assumed of a runtime that does not say: as much as a container with its shim."""

WITHOUT_USERNS = "namespaces"
"""How a sandbox that keeps memory isolates: CRIU cannot restore into a user namespace."""
_WORDS = {
    Capability.EGRESS.value: "the network egress",
    Capability.HOST_IMAGE.value: "the image host",
    Capability.MEMORY_SNAPSHOT.value: "memory that is kept",
    Capability.TTY.value: "a terminal",
}
_HINTS = {
    Capability.EGRESS.value: "it takes a gateway that is root, and nft (apt-get install nftables);"
    " `faas doctor` tries it",
    Capability.MEMORY_SNAPSHOT.value: "put CRIU in place with scripts/criu.sh; `faas doctor` tries"
    " it",
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


_Question = tuple[RuntimeChoice, NetworkMode, bool, bool, str | None, bool, str | None]


def _why_without(runtime: Runtime, lack: str) -> FaasError | None:
    if not isinstance(runtime, Explaining) or lack not in set(Capability):
        return None
    return runtime.why_without(Capability(lack))


def _is_cold(_: Choice) -> bool:
    return False


class Registry:
    """Holds the opened runtimes and what their last probe said."""

    def __init__(self, runtimes: Mapping[str, Runtime], *, clock: Clock, events: EventBus) -> None:
        order = [name for name in PREFERENCE if name in runtimes]
        order += sorted(set(runtimes) - set(order))
        self._runtimes = {name: runtimes[name] for name in order}
        self._reports: dict[str, ProbeReport] = {}
        self._answers: dict[_Question, tuple[Choice, ...]] = {}
        """Who can do what, until the next probe: asked for every execution."""
        self._speeds = Speeds()
        self._suspects: set[str] = set()
        # Asking whether one is `Weighed` looks at its every attribute, and pools ask often.
        self._weighed = {name: one for name, one in runtimes.items() if isinstance(one, Weighed)}
        events.listen_to(SandboxCreated, self._speeds.on_created)
        events.listen_to(SandboxCreateFailed, self._on_failed)
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

    async def revive(self) -> None:
        """Probe those that do not work, or said lately that they do not; start what was not."""
        async with asyncio.TaskGroup() as group:
            for name, runtime in self._runtimes.items():
                report = self._reports.get(name)
                works = report is not None and report.is_available
                if not works or name in self._suspects:
                    group.create_task(self._start_one(name, runtime))
        self._suspects.clear()

    def _on_failed(self, event: SandboxCreateFailed) -> None:
        if event.code == RuntimeUnavailableError.code:
            self._suspects.add(event.runtime)

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

    def pick(self, spec: ExecutionSpec, root: RootFilesystem | None = None) -> Runtime:
        """Choose the runtime for an execution, whatever is warm; see `choose`."""
        return self.choose(spec, root).runtime

    def choose(
        self,
        spec: ExecutionSpec,
        root: RootFilesystem | None = None,
        *,
        is_warm: IsWarm | None = None,
    ) -> Choice:
        """Choose the runtime for an execution by the rule of `faas.sandbox.choice`.

        Raises:
            UnsupportedError: none is known that can do what is asked.
            RuntimeUnavailableError: the one asked for does not work on this machine.
        """
        is_host = root is not None and root.digest == "host"
        keeper = None if root is None else root.keeper
        question = (
            spec.runtime, spec.network, spec.tty, spec.memory, spec.isolation_min, is_host, keeper,
        )  # fmt: skip
        able = self._answers.get(question)
        if able is None:
            able = self._answers[question] = self._able(spec, root)
        if len(able) == 1:
            return able[0]
        return best(able, self._reports, self._speeds, is_warm or _is_cold)

    def _able(self, spec: ExecutionSpec, root: RootFilesystem | None) -> tuple[Choice, ...]:
        """List who can do it, in the order of preference."""
        candidates = self._named(spec.runtime)
        able: list[Choice] = []
        for runtime in candidates:
            if spec.memory and not reaches(WITHOUT_USERNS, spec.isolation_min):
                continue
            reached, demand = way_of(self._reports[runtime.name], spec.isolation_min)
            if reached and not missing(runtime, spec, root):
                able.append(Choice(runtime, demand, "auto: the only one here that can"))
        if not able:
            raise self._refusal(candidates, spec, root)
        if spec.runtime is not RuntimeChoice.AUTO:
            return (able[0]._replace(reason="asked for"),)
        if len(self.available()) == 1:
            return (able[0]._replace(reason="auto: the only one here"),)
        return tuple(able)

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
                hint=f"there are: {', '.join([*self._runtimes, 'auto'])}",
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

    def _refusal(
        self, candidates: list[Runtime], spec: ExecutionSpec, root: RootFilesystem | None
    ) -> FaasError:
        for runtime in candidates:
            if lacks := missing(runtime, spec, root):
                why = _why_without(runtime, lacks[0])
                return UnsupportedError(
                    f"the runtime {runtime.name} cannot do this here:"
                    f" {', '.join(_WORDS.get(lack, lack) for lack in lacks)}"
                    + (f"; {why.message}" if why else ""),
                    hint=why.hint if why and why.hint else _HINTS.get(lacks[0]),
                    details={
                        "missing": lacks,
                        "runtime": runtime.name,
                        "supported": [
                            one.name for one in self.available() if not missing(one, spec, root)
                        ],
                    },
                )
        by_name = (
            f"the runtime {spec.runtime.value} here does not isolate"
            if spec.runtime is not RuntimeChoice.AUTO
            else "no runtime here isolates"
        )
        return UnsupportedError(
            f"{by_name} at least by {spec.isolation_min}",
            hint="name a lower isolation, or run on a host that has more: faas doctor",
            details={"supported": self.ways(), "ladder": list(ISOLATION_LADDER)},
        )

    def demand(self, runtime: str, isolation_min: str | None) -> str | None:
        """Return what to demand of a runtime so that it reaches a rung; None: nothing, it does."""
        report = self._reports.get(runtime)
        if report is None:
            return isolation_min
        reached, demand = way_of(report, isolation_min)
        return demand if reached else isolation_min

    def idle_bytes(self, runtime: str, isolation_min: str | None) -> int:
        """Return about how much memory a ready sandbox of a runtime holds."""
        found = self._weighed.get(runtime)
        return IDLE_BYTES if found is None else found.idle_bytes(isolation_min)

    def ways(self) -> dict[str, list[str]]:
        """Name the ways of isolating each runtime here has, its ordinary one first."""
        reports = {runtime.name: self._reports[runtime.name] for runtime in self.available()}
        return {name: [one.isolation, *one.isolations] for name, one in reports.items()}

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
        self._answers.clear()
        self._events.publish(
            RuntimeProbed(runtime=name, is_available=report.is_available, detail=report.detail)
        )

    async def aclose(self, *, leave_running: AbstractSet[SandboxId] = frozenset()) -> None:
        """Close every runtime; sandboxes in `leave_running` live on."""
        async with Cleanup() as cleanup:
            for runtime in self._runtimes.values():
                cleanup.push(partial(runtime.aclose, leave_running=leave_running))
