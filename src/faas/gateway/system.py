"""What the gateway says of itself: health, metrics. Nothing here does work of
its own."""

from collections.abc import Sequence

from faas.errors import UnauthenticatedError
from faas.gateway import gauges
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange
from faas.gateway.executions import encode
from faas.gateway.replies import Reply
from faas.gateway.wire import (
    Component,
    DetailedMetricsView,
    HealthView,
    MetricsSummaryView,
    MetricsView,
    PerformanceView,
    RuntimeMetricsView,
)
from faas.metrics import Gauge
from faas.sandbox.protocols import ProbeReport

_MIB = 1 << 20
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
RUNTIMES = {"embedded": "embedded", "docker": "docker", "firecracker": "microvm"}
"""The wire's names of runtimes, and ours."""


async def health(door: Door, exchange: Exchange) -> Reply:
    """`GET /health`"""
    reports = await door.executor.runtimes()
    is_healthy = any(report.is_available for report in reports.values())
    tells_all = _has_key(door, exchange)
    view = HealthView(
        status="healthy" if is_healthy else "unhealthy",
        timestamp=door.clock.now(),
        version=door.settings.version,
        uptime_ms=door.uptime_ms,
        components={
            name: _component(report, tells_all=tells_all) for name, report in reports.items()
        },
        **{wire: gauges.is_available(reports, name) for wire, name in RUNTIMES.items()},
    )
    return Reply(encode(view), status=200 if is_healthy else 503)


def _has_key(door: Door, exchange: Exchange) -> bool:
    try:
        door.keys.identify(exchange.headers)
    except UnauthenticatedError:
        return False
    return True


def _component(report: ProbeReport, *, tells_all: bool) -> Component:
    status = "available" if report.is_available else "unavailable"
    if not tells_all:
        return Component(status)
    return Component(status, report.isolation, report.limits, report.detail, report.hint)


async def metrics(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/metrics`"""
    exchange.query()
    counts, stats = _by_runtime(door), door.executor.stats()
    total, hits = _totals(door)
    mean = door.metrics.duration.mean()
    cpu, memory = door.machine.cpu_percent(), door.machine.resident_bytes()
    view = MetricsView(
        total_requests=total,
        total_executions=total,
        cache_hits=hits,
        cache_hit_rate=_share(hits, total),
        embedded_executions=counts.get("embedded", 0),
        docker_executions=counts.get("docker", 0),
        vm_executions=counts.get("microvm", 0),
        avg_execution_time_ms=_ms(mean),
        active_containers=sum(pool.busy for pool in stats.pools.values()),
        active_instances=0,
        memory_usage_mb=round((memory or 0) / _MIB, 1),
        cpu_usage_percent=round(cpu or 0.0, 1),
    )
    return Reply(encode(view))


async def metrics_detailed(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/metrics/detailed`"""
    exchange.query()
    counts, reports = _by_runtime(door), await door.executor.runtimes()
    total, hits = _totals(door)
    known = door.metrics
    warm, cold = _starts(door, "warm"), _starts(door, "cold")
    view = DetailedMetricsView(
        summary=MetricsSummaryView(total, hits, _share(hits, total)),
        runtimes={
            wire: RuntimeMetricsView(counts.get(name, 0), gauges.is_available(reports, name))
            for wire, name in RUNTIMES.items()
        },
        performance=PerformanceView(
            avg_cold_start_ms=_ms(cold),
            avg_warm_start_ms=_ms(warm),
            avg_latency_ms=_ms(known.duration.mean()),
            p50_latency_ms=_ms(known.duration.quantile(0.5)),
            p95_latency_ms=_ms(known.duration.quantile(0.95)),
            p99_latency_ms=_ms(known.duration.quantile(0.99)),
        ),
        exits={labels[0]: int(value) for labels, value in known.reasons.values.items()},
        rejected={labels[0]: int(value) for labels, value in known.rejected.values.items()},
    )
    return Reply(encode(view))


async def prometheus(door: Door, exchange: Exchange) -> Reply:
    """`GET /metrics`"""
    exchange.query()
    text = door.metrics.prometheus(await all_gauges(door))
    return Reply(text.encode(), media_type=PROMETHEUS.encode())


async def all_gauges(door: Door) -> list[Gauge]:
    """Everything that is looked up for a scrape."""
    total, hits = _totals(door)
    return [
        *gauges.executor_gauges(door.executor.stats()),
        *gauges.runtime_gauges(await door.executor.runtimes()),
        *door.machine.gauges(),
        Gauge(gauges.STREAMS, len(door.streams)),
        Gauge(gauges.HIT_RATE, _share(hits, total)),
        Gauge(gauges.BUILD, 1, (door.settings.version,)),
        Gauge(gauges.UPTIME, door.uptime_ms / 1000),
    ]


def _by_runtime(door: Door) -> dict[str, int]:
    counts: dict[str, int] = {}
    for (_, runtime), value in _pairs(door):
        counts[runtime] = counts.get(runtime, 0) + int(value)
    return counts


def _pairs(door: Door) -> Sequence[tuple[tuple[str, ...], float]]:
    return list(door.metrics.executions.values.items())


def _totals(door: Door) -> tuple[int, int]:
    return int(door.metrics.executions.total), int(door.metrics.cache_hits.total)


def _starts(door: Door, kind: str) -> float | None:
    """The mean of one kind of start over all runtimes."""
    chosen = [
        buckets for labels, buckets in door.metrics.starts.series.items() if labels[0] == kind
    ]
    count = sum(buckets.count for buckets in chosen)
    return sum(buckets.sum for buckets in chosen) / count if count else None


def _ms(seconds: float | None) -> float:
    return 0.0 if seconds is None else round(seconds * 1000, 3)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
