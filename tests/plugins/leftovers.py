"""What is on the host in the name of one gateway: processes, mounts, groups, directories."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

SETTLE_SECONDS = 5.0
"""Processes are reaped and descriptors closed a moment after the call that ended them."""


@dataclass(frozen=True)
class Leftovers:
    processes: frozenset[str] = frozenset()
    mounts: frozenset[str] = frozenset()
    cgroups: frozenset[str] = frozenset()
    run_dirs: frozenset[str] = frozenset()
    descriptors: int = 0

    def beyond(self, before: "Leftovers") -> dict[str, object]:
        """What is here now and was not before."""
        grown: dict[str, object] = {
            name: sorted(more)
            for name in ("processes", "mounts", "cgroups", "run_dirs")
            if (more := getattr(self, name) - getattr(before, name))
        }
        if self.descriptors > before.descriptors:
            grown["descriptors"] = self.descriptors - before.descriptors
        return grown


def look(*, tag: str, data_dir: Path) -> Leftovers:
    """Count what bears the tag, names the data directory, or descends from this process."""
    return Leftovers(
        frozenset(_processes(tag, str(data_dir))),
        frozenset(line for line in _mounts() if str(data_dir) in line),
        frozenset(str(path) for path in _cgroups(tag)),
        frozenset(str(path) for path in data_dir.glob("**/run/sbx-*")),
        sum(1 for _ in Path("/proc/self/fd").iterdir()),
    )


def settle(before: Leftovers, *, tag: str, data_dir: Path) -> dict[str, object]:
    """Look until nothing is left over, within bounds; return what is."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        left = look(tag=tag, data_dir=data_dir).beyond(before)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def _processes(tag: str, data_dir: str) -> list[str]:
    found: list[str] = []
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    parents = {pid: _parent(pid) for pid in pids}
    for pid in parents:
        words = _text(pid, "cmdline").replace("\0", " ")
        is_ours = f"faas-{tag}" in _text(pid, "cgroup") or data_dir in words
        if pid != os.getpid() and (is_ours or _descends(pid, parents)):
            found.append(f"{pid} {words or _text(pid, 'comm').strip()}")
    return found


def _descends(pid: int, parents: dict[int, int]) -> bool:
    seen = 0
    while pid in parents and seen < 100:
        pid, seen = parents[pid], seen + 1
        if pid == os.getpid():
            return True
    return False


def _parent(pid: int) -> int:
    fields = _text(pid, "stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _cgroups(tag: str) -> list[Path]:
    return [
        Path(directory, name)
        for directory, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if name == f"faas-{tag}" or Path(directory).name == f"faas-{tag}"
    ]


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
