"""A container's control groups on this host: what it used, and limits changed in place.

Changing a limit through the Engine starts two programs and takes some 20 ms; the files take 0.1 ms.
What every command is judged by stays open: finding the files again cost more than reading them.
"""

import os
from pathlib import Path

from faas.docker.container import PIDS_OF_OURS
from faas.model import Limits

_ROOT = Path("/sys/fs/cgroup")
_COUNTER_BYTES = 4096
"""More than any of the files that stay open has."""


class ContainerGroups:
    """The groups of one container; a counter is None where this host does not show it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        groups = _groups(pid)
        unified = groups.get("")
        memory, cpu = groups.get("memory", unified), groups.get("cpuacct", unified)
        is_v1 = "memory" in groups
        self._memory = memory
        self._quota = groups.get("cpu", unified)
        self._pids = groups.get("pids", unified)
        self._held = "memory.usage_in_bytes" if is_v1 else "memory.current"
        self._peak = _open(memory, "memory.max_usage_in_bytes" if is_v1 else "memory.peak")
        self._oom = _open(memory, "memory.oom_control" if is_v1 else "memory.events")
        self._cpu = _open(cpu, "cpuacct.usage" if is_v1 else "cpu.stat")
        self._is_v1 = is_v1

    def cpu_us(self) -> int | None:
        """Processor time used."""
        if self._is_v1:
            nanoseconds = _first(self._cpu)
            return None if nanoseconds is None else nanoseconds // 1000
        return value(_read(self._cpu), b"usage_usec")

    def memory_peak_bytes(self) -> int | None:
        """The most memory that was held at once."""
        return _first(self._peak)

    def memory_bytes(self) -> int | None:
        """Memory held now, without what the kernel can drop at once."""
        if self._memory is None:
            return None
        word = b"total_inactive_file" if self._is_v1 else b"inactive_file"
        try:
            held = (self._memory / self._held).read_text().strip()
            stat = (self._memory / "memory.stat").read_bytes()
        except OSError:
            return None
        return int(held) - (value(stat, word) or 0)

    def oom_kills(self) -> int | None:
        """How often the out-of-memory killer struck."""
        return value(_read(self._oom), b"oom_kill")

    def close(self) -> None:
        """Give the descriptors back; from then on no counter is known. Idempotent."""
        for descriptor in (self._peak, self._oom, self._cpu):
            if descriptor is not None:
                os.close(descriptor)
        self._peak = self._oom = self._cpu = None

    def limit(self, limits: Limits) -> bool:
        """Set memory, cpu and processes; False when this host does not let us."""
        if self._memory is None or self._quota is None or self._pids is None:
            return False
        try:
            if self._is_v1:
                _limit_memory_v1(self._memory, str(limits.memory_bytes))
                period = int((self._quota / "cpu.cfs_period_us").read_text())
                quota = limits.cpu_millis * period // 1000
                (self._quota / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (self._memory / "memory.max").write_text(str(limits.memory_bytes))
                (self._quota / "cpu.max").write_text(f"{limits.cpu_millis * 100} 100000")
            (self._pids / "pids.max").write_text(str(limits.pids_max + PIDS_OF_OURS))
        except OSError:
            return False
        return True


def procs_files(pid: int) -> tuple[str, ...]:
    """Return the `cgroup.procs` of every group that a process is in and we are not; none where
    this host does not show them all."""
    ours = {line.split(":", 2)[1]: line for line in _lines("self")}
    lines = [line for line in _lines(str(pid)) if ours.get(line.split(":", 2)[1]) != line]
    has_v1 = any(line.split(":", 2)[1] for line in lines)
    found: list[str] = []
    for line in lines:
        _, names, path = line.split(":", 2)
        places = [names.removeprefix("name="), *names.split(",")] if names else [""]
        places = ["unified"] if has_v1 and not names else places
        files = (_ROOT / place / path.lstrip("/") / "cgroup.procs" for place in places)
        file = next((file for file in files if file.exists()), None)
        if file is None:
            return ()
        found.append(str(file))
    return tuple(found)


def _lines(process: str) -> list[str]:
    try:
        return Path(f"/proc/{process}/cgroup").read_text().splitlines()
    except OSError:
        return []


def _limit_memory_v1(group: Path, size: str) -> None:
    """Set memory, and memory with swap, to the same; the latter may at no time be the smaller."""
    alone, with_swap = group / "memory.limit_in_bytes", group / "memory.memsw.limit_in_bytes"
    if not with_swap.exists():
        alone.write_text(size)
        return
    order = [alone, with_swap] if int(size) < int(alone.read_text()) else [with_swap, alone]
    for file in order:
        file.write_text(size)


def _groups(pid: int) -> dict[str, Path]:
    """Return the directory of each controller; the key of cgroup2 is empty."""
    found: dict[str, Path] = {}
    for line in _lines(str(pid)):
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = _ROOT / name / path.lstrip("/")
    return found


def _open(group: Path | None, name: str) -> int | None:
    if group is None:
        return None
    try:
        return os.open(group / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _read(descriptor: int | None) -> bytes:
    try:
        return b"" if descriptor is None else os.pread(descriptor, _COUNTER_BYTES, 0)
    except OSError:  # the group is gone
        return b""


def _first(descriptor: int | None) -> int | None:
    return number(_read(descriptor))


def number(text: bytes) -> int | None:
    """Read a counter that stands alone."""
    return int(text) if text.strip().isdigit() else None


def value(text: bytes, key: bytes) -> int | None:
    """Read one of several counters, each on a line after its name."""
    for line in text.splitlines():
        name, _, count = line.partition(b" ")
        if name == key and count.isdigit():
            return int(count)
    return None
