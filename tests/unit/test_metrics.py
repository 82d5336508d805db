"""What is counted is what happened."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

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
from faas.gateway.gauges import FAMILIES, QUEUE, Machine
from faas.ids import new_execution_id, new_sandbox_id
from faas.metrics import SECONDS, Family, Gauge, Histogram, Metrics
from faas.model import (
    ExecutionRecord,
    ExecutionResult,
    ExecutionSpec,
    ExecutionState,
    ExitReason,
    FailureRecord,
    Timings,
    Usage,
)
from faas.tenancy import DEFAULT_TENANT

REFERENCE = Path(__file__).parents[2] / "docs/reference/metrics.md"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def finished(*, exit_code: int = 0, sandbox_us: int = 0, exec_us: int = 0) -> ExecutionRecord:
    execution_id = new_execution_id()
    result = ExecutionResult(
        execution_id=execution_id,
        exit_code=exit_code,
        signal=None,
        reason=ExitReason.EXITED,
        stdout=b"abc",
        stderr=b"",
        stdout_total_bytes=10,
        stderr_total_bytes=0,
        duration_ms=1,
        usage=Usage(cpu_us=500_000),
        timings=Timings(sandbox_us=sandbox_us, exec_us=exec_us),
        runtime_used="embedded",
        isolation="userns",
        image_digest="host",
        sandbox_id=new_sandbox_id(),
    )
    spec = ExecutionSpec(argv=("true",), image="host")
    return ExecutionRecord(
        execution_id, DEFAULT_TENANT, ExecutionState.FINISHED, spec, NOW, NOW, NOW, result
    )


def started(record: ExecutionRecord, *, from_pool: bool) -> ExecutionStarted:
    return ExecutionStarted(record.id, DEFAULT_TENANT, "embedded", new_sandbox_id(), from_pool)


def counted(*events: Event) -> Metrics:
    metrics, bus = Metrics(), EventBus()
    metrics.listen(bus)
    for event in events:
        bus.publish(event)
    return metrics


def test_each_event_is_counted_under_its_own_name() -> None:
    failed = replace(
        finished(),
        result=None,
        state=ExecutionState.FAILED,
        failure=FailureRecord("sandbox_broken", "x"),
    )
    sandbox = new_sandbox_id()
    metrics = counted(
        ExecutionQueued(new_execution_id(), DEFAULT_TENANT),
        ExecutionFinished(finished()),
        ExecutionFinished(finished(exit_code=1)),
        ExecutionFinished(failed),
        ExecutionRejected(DEFAULT_TENANT, "queue_full"),
        ExecutionRejected(DEFAULT_TENANT, "unsupported"),
        SandboxCreated(sandbox, "embedded", "host", 1500),
        SandboxCreateFailed("embedded", "sandbox_broken"),
        SandboxDestroyed(sandbox, "embedded", "done"),
        AuthenticationFailed("/x"),
    )
    text = metrics.prometheus()
    for line in (
        "faas_executions_queued_total 1",
        'faas_executions_total{status="success",runtime="embedded"} 1',
        'faas_executions_total{status="error",runtime="embedded"} 1',
        'faas_executions_total{status="failed",runtime="auto"} 1',
        'faas_execution_exits_total{reason="exited"} 2',
        'faas_executions_rejected_total{code="queue_full"} 1',
        'faas_executions_rejected_total{code="unsupported"} 1',
        "faas_rate_limit_exceeded_total 1",
        'faas_sandboxes_created_total{runtime="embedded"} 1',
        'faas_container_creation_failures_total{runtime="embedded",code="sandbox_broken"} 1',
        'faas_sandboxes_destroyed_total{runtime="embedded"} 1',
        "faas_auth_failures_total 1",
        'faas_execution_cpu_seconds_total{runtime="embedded"} 1.0',
        'faas_execution_output_bytes_total{stream="stdout"} 20',
        'faas_sandbox_create_seconds_bucket{runtime="embedded",le="0.002"} 1',
        'faas_sandbox_create_seconds_bucket{runtime="embedded",le="0.001"} 0',
    ):
        assert line in text.splitlines(), line


def test_warm_and_cold_starts_are_told_apart() -> None:
    warm, cold = finished(sandbox_us=1000), finished(sandbox_us=9000)
    metrics = counted(
        started(warm, from_pool=True),
        started(cold, from_pool=False),
        ExecutionFinished(cold),
        ExecutionFinished(warm),
    )
    assert metrics.starts.mean("warm", "embedded") == pytest.approx(0.001)
    assert metrics.starts.mean("cold", "embedded") == pytest.approx(0.009)


def test_the_text_is_well_formed_and_each_family_is_told_once() -> None:
    metrics = counted(
        ExecutionFinished(finished()), ExecutionQueued(new_execution_id(), DEFAULT_TENANT)
    )
    odd = Family("odd", "gauge", "Odd.", ("name",))
    text = metrics.prometheus(
        [Gauge(QUEUE, 3), Gauge(odd, 1, ('a"b\\c\nd',)), Gauge(odd, 2, ("e",))]
    )
    sample = re.compile(r'[a-z_]+(\{([a-z_]+="([^"\\\n]|\\.)*",?)+\})? [0-9.e+\-]+')
    heads = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    for line in text.splitlines():
        assert line.startswith("# ") or sample.fullmatch(line), line
    assert text.endswith("\n")


def test_buckets_grow_and_end_in_the_count() -> None:
    metrics = counted(*(ExecutionFinished(finished(exec_us=us)) for us in (400, 5000, 10**10)))
    pattern = r'faas_execution_duration_seconds_bucket\{runtime="embedded",le="[^"]+"\} (\d+)'
    values = [int(text) for text in re.findall(pattern, metrics.prometheus())]
    assert values == sorted(values)
    assert (values[0], values[-2], values[-1]) == (1, 2, 3)


def test_quantiles_lie_in_the_bucket_of_their_rank() -> None:
    histogram = Histogram(Family("x", "histogram", "x"))
    for _ in range(99):
        histogram.observe(0.004)
    histogram.observe(4.0)
    median, last = histogram.quantile(0.5), histogram.quantile(1.0)
    assert median is not None
    assert last is not None
    assert 0.003 <= median <= 0.005
    assert 2.0 <= last <= 5.0
    assert Histogram(Family("y", "histogram", "y")).quantile(0.5) is None


def test_values_beyond_the_last_bucket_are_counted() -> None:
    histogram = Histogram(Family("x", "histogram", "x"))
    histogram.observe(10 * SECONDS[-1])
    assert histogram.quantile(0.5) == SECONDS[-1]


def test_nothing_is_remembered_of_executions_that_ended() -> None:
    record = finished()
    metrics = counted(started(record, from_pool=True), ExecutionFinished(record))
    assert metrics._started == {}


def test_every_metric_has_a_row_in_the_reference_and_every_row_a_metric() -> None:
    metrics = Metrics()
    families = [item.family for item in (*metrics.counters(), *metrics.histograms())]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", REFERENCE.read_text(), re.MULTILINE)
    expected = {
        (family.name, family.kind, ", ".join(f"`{label}`" for label in family.labels))
        for family in (*families, *FAMILIES)
    }
    assert {(name, kind, labels.strip()) for name, kind, labels in rows} == expected


def test_a_machine_that_cannot_be_read_has_no_gauges(tmp_path: Path) -> None:
    assert list(Machine(tmp_path / "missing", proc=tmp_path).gauges()) == []


def test_the_machine_tells_cpu_since_the_last_look(tmp_path: Path) -> None:
    machine = Machine(None, proc=tmp_path)
    (tmp_path / "stat").write_text("cpu 100 0 0 100 0 0 0 0 0 0\n")
    assert machine.cpu_percent() == 50.0
    (tmp_path / "stat").write_text("cpu 175 0 0 125 0 0 0 0 0 0\n")
    assert machine.cpu_percent() == 75.0
