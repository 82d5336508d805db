"""Counters and histograms, fed by events; as Prometheus text and as numbers.

Business code never counts: it publishes events, and `Metrics` listens. What is not counted but
looked up when asked (queue length, pool sizes, memory) is handed to `prometheus` as `Gauge` values.
Every label has few values, known to us: runtimes, states, reasons, codes. Never a tenant, an image
or an id. Each family has a row in `docs/reference/metrics.md`; a test compares.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from faas.events import (
    AuthenticationFailed,
    Event,
    EventBus,
    ExecutionFinished,
    ExecutionQueued,
    ExecutionRejected,
    ExecutionStarted,
    SandboxCreated,
    SandboxCreateFailed,
    SandboxDestroyed,
)
from faas.ids import ExecutionId
from faas.model import ExecutionResult, Timings

SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
)  # fmt: skip
"""From a tenth of our fastest execution to the longest allowed, about three steps a decade."""

_STARTED_MAX = 100_000
"""Executions remembered between start and finish; a bound against lost events, not a working
size."""

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, its kind, what it tells, and its labels."""

    name: str
    kind: str
    help: str
    labels: Labels = ()


@dataclass(slots=True)
class Counter:
    """Numbers that only grow, by label values."""

    family: Family
    values: dict[Labels, float] = field(default_factory=dict[Labels, float])

    def add(self, *labels: str, amount: float = 1) -> None:
        """Count something."""
        self.values[labels] = self.values.get(labels, 0) + amount

    @property
    def total(self) -> float:
        """All label values together."""
        return sum(self.values.values())


@dataclass(slots=True)
class Buckets:
    """How often each range of values was seen."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    count: int = 0
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Take one value."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.count += 1
        self.sum += seconds


@dataclass(slots=True)
class Histogram:
    """Spans of time in fixed buckets, by label values."""

    family: Family
    series: dict[Labels, Buckets] = field(default_factory=dict[Labels, Buckets])

    def observe(self, seconds: float, *labels: str) -> None:
        """Take one span."""
        buckets = self.series.get(labels)
        if buckets is None:
            buckets = self.series[labels] = Buckets()
        buckets.observe(seconds)

    def mean(self, *labels: str) -> float | None:
        """The mean of these label values, of all of them when none are given; None: nothing
        seen."""
        chosen = self._chosen(labels)
        count = sum(buckets.count for buckets in chosen)
        return sum(buckets.sum for buckets in chosen) / count if count else None

    def quantile(self, share: float, *labels: str) -> float | None:
        """The value below which `share` of all lie, read off the buckets; None: nothing seen."""
        chosen = self._chosen(labels)
        counts = [sum(column) for column in zip(*(b.counts for b in chosen), strict=True)]
        rank = share * sum(counts)
        passed = 0
        for index, count in enumerate(counts):
            if count and passed + count >= rank:
                low = SECONDS[index - 1] if index else 0.0
                high = SECONDS[min(index, len(SECONDS) - 1)]
                return low + (high - low) * (rank - passed) / count
            passed += count
        return None

    def _chosen(self, labels: Labels) -> list[Buckets]:
        if not labels:
            return list(self.series.values())
        return [buckets for key, buckets in self.series.items() if key == labels]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number looked up when asked."""

    family: Family
    value: float
    labels: Labels = ()


def _counter(name: str, help_: str, *labels: str) -> Counter:
    return Counter(Family(name, "counter", help_, labels))


def _histogram(name: str, help_: str, *labels: str) -> Histogram:
    return Histogram(Family(name, "histogram", help_, labels))


class Metrics:
    """Everything that is counted. `listen` lets it hear of what happens."""

    def __init__(self) -> None:
        self.queued = _counter("faas_executions_queued_total", "Executions admitted to the queue.")
        self.executions = _counter(
            "faas_executions_total",
            "Executions that ended: `success` is exit code 0, `failed` is our fault.",
            "status",
            "runtime",
        )
        self.reasons = _counter("faas_execution_exits_total", "How commands ended.", "reason")
        self.rejected = _counter(
            "faas_executions_rejected_total", "Executions refused before they were queued.", "code"
        )
        self.rate_limited = _counter(
            "faas_rate_limit_exceeded_total",
            "Of those, refused because the caller has to wait (queue, quota or rate).",
        )
        self.auth_failures = _counter(
            "faas_auth_failures_total", "Requests with a wrong API key or none."
        )
        self.sandboxes_created = _counter(
            "faas_sandboxes_created_total", "Sandboxes made.", "runtime"
        )
        self.sandboxes_destroyed = _counter(
            "faas_sandboxes_destroyed_total", "Sandboxes destroyed.", "runtime"
        )
        self.create_failures = _counter(
            "faas_container_creation_failures_total",
            "Sandboxes that could not be made.",
            "runtime",
            "code",
        )
        self.cpu_seconds = _counter(
            "faas_execution_cpu_seconds_total", "CPU time used by commands.", "runtime"
        )
        self.output_bytes = _counter(
            "faas_execution_output_bytes_total", "Bytes written by commands, kept or not.", "stream"
        )
        self.cache_hits = _counter("faas_cache_hits_total", "Executions answered from the cache.")
        self.duration = _histogram(
            "faas_execution_duration_seconds",
            "Executions from admission to result: queue, sandbox, command and collecting.",
            "runtime",
        )
        self.phases = _histogram(
            "faas_execution_phase_seconds", "The same by phase.", "phase", "runtime"
        )
        self.starts = _histogram(
            "faas_sandbox_start_seconds",
            "Getting a sandbox: `warm` from the pool, `cold` made on demand.",
            "start",
            "runtime",
        )
        self.sandbox_create = _histogram(
            "faas_sandbox_create_seconds", "Making one sandbox, for a pool or on demand.", "runtime"
        )
        self._started: dict[ExecutionId, bool] = {}
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            ExecutionQueued: self._on_queued,
            ExecutionStarted: self._on_started,
            ExecutionFinished: self._on_finished,
            ExecutionRejected: self._on_rejected,
            SandboxCreated: self._on_created,
            SandboxCreateFailed: self._on_create_failed,
            SandboxDestroyed: self._on_destroyed,
            AuthenticationFailed: self._on_auth_failed,
        }

    def listen(self, events: EventBus) -> None:
        """Count what this bus publishes from now on."""
        for kind, handler in self._handlers.items():
            events.listen_to(kind, handler)

    def on_event(self, event: Event) -> None:
        """Count one event; those without a metric are passed over."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def counters(self) -> Iterator[Counter]:
        """All counters, in the order of their making."""
        return (item for item in vars(self).values() if isinstance(item, Counter))

    def histograms(self) -> Iterator[Histogram]:
        """All histograms, in the order of their making."""
        return (item for item in vars(self).values() if isinstance(item, Histogram))

    def prometheus(self, gauges: Iterable[Gauge] = ()) -> str:
        """Render the text exposition format, version 0.0.4."""
        lines: list[str] = []
        for counter in self.counters():
            lines += _head(counter.family)
            values = counter.values or ({} if counter.family.labels else {(): 0})
            lines += [
                _sample(counter.family.name, counter.family.labels, labels, value)
                for labels, value in values.items()
            ]
        for histogram in self.histograms():
            lines += _head(histogram.family)
            for labels, buckets in histogram.series.items():
                lines += _bucket_lines(histogram.family, labels, buckets)
        lines += _gauge_lines(gauges)
        return "\n".join(lines) + "\n"

    def _on_queued(self, _: ExecutionQueued) -> None:
        self.queued.add()

    def _on_started(self, event: ExecutionStarted) -> None:
        if len(self._started) < _STARTED_MAX:
            self._started[event.execution_id] = event.from_pool

    def _on_finished(self, event: ExecutionFinished) -> None:
        record = event.record
        from_pool = self._started.pop(record.id, None)
        result = record.result
        if result is None:
            self.executions.add("failed", record.spec.runtime.value)
            return
        runtime = result.runtime_used
        self.executions.add("error" if result.exit_code else "success", runtime)
        self.reasons.add(result.reason.value)
        self.cpu_seconds.add(runtime, amount=result.usage.cpu_us / 1e6)
        self.output_bytes.add("stdout", amount=result.stdout_total_bytes)
        self.output_bytes.add("stderr", amount=result.stderr_total_bytes)
        self._time(result, from_pool=from_pool)

    def _time(self, result: ExecutionResult, *, from_pool: bool | None) -> None:
        if result.cache_hit:
            self.cache_hits.add()
            return
        runtime, timings = result.runtime_used, result.timings
        for phase, micros in _phases(timings):
            self.phases.observe(micros / 1e6, phase, runtime)
        self.duration.observe(sum(micros for _, micros in _phases(timings)) / 1e6, runtime)
        if from_pool is not None:
            start = "warm" if from_pool else "cold"
            self.starts.observe(timings.sandbox_us / 1e6, start, runtime)

    def _on_rejected(self, event: ExecutionRejected) -> None:
        self.rejected.add(event.code)
        if event.code in ("queue_full", "quota_exceeded", "rate_limited"):
            self.rate_limited.add()

    def _on_created(self, event: SandboxCreated) -> None:
        self.sandboxes_created.add(event.runtime)
        self.sandbox_create.observe(event.duration_us / 1e6, event.runtime)

    def _on_create_failed(self, event: SandboxCreateFailed) -> None:
        self.create_failures.add(event.runtime, event.code)

    def _on_destroyed(self, event: SandboxDestroyed) -> None:
        self.sandboxes_destroyed.add(event.runtime)

    def _on_auth_failed(self, _: AuthenticationFailed) -> None:
        self.auth_failures.add()


def _phases(timings: Timings) -> tuple[tuple[str, int], ...]:
    return (
        ("queue", timings.queue_us),
        ("sandbox", timings.sandbox_us),
        ("exec", timings.exec_us),
        ("collect", timings.collect_us),
    )


def _head(family: Family) -> list[str]:
    return [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]


def _gauge_lines(gauges: Iterable[Gauge]) -> list[str]:
    lines: list[str] = []
    seen: set[str] = set()
    for gauge in sorted(gauges, key=lambda item: item.family.name):
        if gauge.family.name not in seen:
            seen.add(gauge.family.name)
            lines += _head(gauge.family)
        lines.append(_sample(gauge.family.name, gauge.family.labels, gauge.labels, gauge.value))
    return lines


def _bucket_lines(family: Family, labels: Labels, buckets: Buckets) -> list[str]:
    lines: list[str] = []
    below = 0
    names = (*family.labels, "le")
    for bound, count in zip((*map(repr, SECONDS), "+Inf"), buckets.counts, strict=True):
        below += count
        lines.append(_sample(f"{family.name}_bucket", names, (*labels, bound), below))
    lines.append(_sample(f"{family.name}_sum", family.labels, labels, buckets.sum))
    lines.append(_sample(f"{family.name}_count", family.labels, labels, buckets.count))
    return lines


def _sample(name: str, names: Sequence[str], values: Sequence[str], value: float) -> str:
    pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in zip(names, values, strict=True))
    return f"{name}{{{pairs}}} {value!r}" if pairs else f"{name} {value!r}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
