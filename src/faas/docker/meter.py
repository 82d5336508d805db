"""What a container used, read from its control groups on this host."""

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class Meter:
    """Counters of one container; each is None where this host does not show it."""

    def __init__(self, pid: int) -> None:
        groups = _groups(pid)
        unified = groups.get("")
        memory, cpu = groups.get("memory", unified), groups.get("cpuacct", unified)
        is_v1 = "memory" in groups
        self._peak = _file(memory, "memory.max_usage_in_bytes" if is_v1 else "memory.peak")
        self._oom = _file(memory, "memory.oom_control" if is_v1 else "memory.events")
        self._cpu = _file(cpu, "cpuacct.usage" if is_v1 else "cpu.stat")
        self._is_v1 = is_v1

    def cpu_us(self) -> int | None:
        """Processor time used."""
        if self._is_v1:
            nanoseconds = _first(self._cpu)
            return None if nanoseconds is None else nanoseconds // 1000
        return _keyed(self._cpu, "usage_usec")

    def memory_peak_bytes(self) -> int | None:
        """The most memory that was held at once."""
        return _first(self._peak)

    def oom_kills(self) -> int | None:
        """How often the out-of-memory killer struck."""
        return _keyed(self._oom, "oom_kill")


def _groups(pid: int) -> dict[str, Path]:
    """Return the directory of each controller; the key of cgroup2 is empty."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, Path] = {}
    for line in lines:
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = _ROOT / name / path.lstrip("/")
    return found


def _file(directory: Path | None, name: str) -> Path | None:
    return None if directory is None else directory / name


def _text(path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text()
    except OSError:
        return ""


def _first(path: Path | None) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _keyed(path: Path | None, key: str) -> int | None:
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return None
