"""Numbers looked up when asked: queue, pools, probes, and this machine. Each has a row in the
reference."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faas.executor import ExecutorStats
from faas.metrics import Family, Gauge
from faas.sandbox.protocols import ProbeReport


def _family(name: str, help_: str, *labels: str) -> Family:
    return Family(name, "gauge", help_, labels)


QUEUE = _family("faas_execution_queue_depth", "Executions waiting for a place.")
RUNNING = _family("faas_executions_running", "Executions with a place, from sandbox to result.")
ACTIVE = _family("faas_active_containers", "Sandboxes in which a command runs.", "runtime")
AVAILABLE = _family("faas_available_containers", "Sandboxes ready in warm pools.", "runtime")
TARGET = _family("faas_pool_target", "How many ready sandboxes the pools aim for.", "runtime")
TOTAL = _family("faas_total_containers", "Active and available together.", "runtime")
RUNTIME = _family("faas_runtime_available", "1 when the last probe ran something.", "runtime")
DOCKER = _family("faas_docker_daemon_available", "1 when the docker runtime works.")
FIRECRACKER = _family("faas_firecracker_available", "1 when the microvm runtime works.")
STREAMS = _family("faas_log_streams_open", "Log streams being followed now.")
HIT_RATE = _family("faas_cache_hit_rate", "Share of ended executions answered from the cache.")
BUILD = _family("faas_build_info", "Always 1; the label tells the version.", "version")
UPTIME = _family("faas_uptime_seconds", "Time since this gateway was made.")
RESIDENT = _family("process_resident_memory_bytes", "Memory of the gateway process itself.")
CPU = _family("faas_cpu_usage_percent", "CPU of the whole machine since the last look.")
MEMORY = _family("faas_memory_usage_percent", "Memory of the whole machine that is not available.")
DISK = _family("faas_disk_usage_percent", "Space used on the disk of the data directory.")

FAMILIES = (
    QUEUE, RUNNING, ACTIVE, AVAILABLE, TARGET, TOTAL, RUNTIME, DOCKER, FIRECRACKER, STREAMS,
    HIT_RATE, BUILD, UPTIME, RESIDENT, CPU, MEMORY, DISK,
)  # fmt: skip


def executor_gauges(stats: ExecutorStats) -> Iterator[Gauge]:
    """What the executor says of itself."""
    yield Gauge(QUEUE, stats.queued)
    yield Gauge(RUNNING, stats.running)
    for name, pool in stats.pools.items():
        yield Gauge(ACTIVE, pool.busy, (name,))
        yield Gauge(AVAILABLE, pool.ready, (name,))
        yield Gauge(TARGET, pool.target, (name,))
        yield Gauge(TOTAL, pool.busy + pool.ready, (name,))


def runtime_gauges(reports: dict[str, ProbeReport]) -> Iterator[Gauge]:
    """What the last probes said."""
    for name, report in reports.items():
        yield Gauge(RUNTIME, int(report.is_available), (name,))
    yield Gauge(DOCKER, int(is_available(reports, "docker")))
    yield Gauge(FIRECRACKER, int(is_available(reports, "microvm")))


def is_available(reports: dict[str, ProbeReport], name: str) -> bool:
    """Whether that runtime is here and its last probe passed."""
    report = reports.get(name)
    return report is not None and report.is_available


@dataclass(slots=True)
class Machine:
    """This machine, as /proc tells."""

    data_dir: Path | None
    proc: Path = Path("/proc")
    _busy: int = 0
    _total: int = 0

    def gauges(self) -> Iterator[Gauge]:
        """Read what can be read; what cannot is left out."""
        yield from _known(RESIDENT, self.resident_bytes())
        yield from _known(CPU, self.cpu_percent())
        yield from _known(MEMORY, self.memory_percent())
        yield from _known(DISK, self.disk_percent())

    def resident_bytes(self) -> int | None:
        """Memory of this process."""
        try:
            pages = int((self.proc / "self/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return None
        return pages * os.sysconf("SC_PAGESIZE")

    def cpu_percent(self) -> float | None:
        """CPU of the machine since the last call; since boot at the first."""
        try:
            line = (self.proc / "stat").read_text().partition("\n")[0]
            ticks = [int(text) for text in line.split()[1:9]]
        except (OSError, ValueError):
            return None
        total, busy = sum(ticks), sum(ticks) - ticks[3] - ticks[4]
        spent, used = total - self._total, busy - self._busy
        self._total, self._busy = total, busy
        return 100 * used / spent if spent else 0.0

    def memory_percent(self) -> float | None:
        """Memory of the machine that is not available."""
        try:
            lines = (self.proc / "meminfo").read_text().splitlines()
            facts = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
            return 100 * (1 - facts["MemAvailable"] / facts["MemTotal"])
        except (OSError, ValueError, KeyError, IndexError):
            return None

    def disk_percent(self) -> float | None:
        """Space used where the data are."""
        if self.data_dir is None:
            return None
        try:
            usage = shutil.disk_usage(self.data_dir)
        except OSError:
            return None
        return 100 * usage.used / usage.total


def _known(family: Family, value: float | None) -> Iterator[Gauge]:
    if value is not None:
        yield Gauge(family, value)
