"""Limits and usage of one sandbox over cgroup v1, v2, or nothing, and which of them hold.

Ours is one group a gateway, `<own group>/faas-<tag>`, with one leaf a sandbox:

* v1: a leaf in each controller's own hierarchy (memory, pids, cpu, cpuacct, as mounted).
* v2: one leaf in the delegated subtree. A group that has members cannot hand controllers down, so
  we move ourselves into a leaf of our own first.
* none: rlimits and the deadline are all there is; `label` says so.

Everything here is a few small file operations and blocks; callers on the event loop use a thread.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from faas import launcher
from faas.errors import RuntimeUnavailableError
from faas.model import Limits

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_V2_CONTROLLERS = ("memory", "pids", "cpu")
_CPU_PERIOD_US = 100_000
"""The kernel's default; shorter periods cost more than they smooth."""
_CPU_QUOTA_US_MIN = 1_000
_V1_SWAP = "memory.memsw.limit_in_bytes"
_USED_V1 = ("memory.usage_in_bytes", "total_inactive_file")
_USED_V2 = ("memory.current", "inactive_file")
_REMOVE_TRIES = 40
"""With pauses of up to 20 ms each: a group is busy until its last process is reaped."""
_KERNEL_MEMORY_BYTES = 8 << 20
"""Added to what was asked: the agent and the kernel's own structures are charged too."""
_KERNEL_PIDS = 4
"""The agent and its short-lived workers count too."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The groups of one sandbox: by controller (v1), or one for all under the name `unified`."""

    directories: Mapping[str, str] = field(default_factory=dict[str, str])
    """Plain strings, here and below: making paths was half the cost of making a sandbox."""

    @property
    def procs_files(self) -> list[str]:
        """Where the launcher writes the new sandbox's pid."""
        return [f"{path}/cgroup.procs" for path in self.directories.values()]


class Cgroups:
    """Makes leaves; made by `open_cgroups`."""

    def __init__(self, version: int, parents: Mapping[str, Path]) -> None:
        self._version = version
        self._parents = {name: str(path) for name, path in parents.items()}
        """Our group by controller: it holds the leaves."""
        self._held = self._find_held()
        memory = self._parents.get("memory")
        self._counts_swap = memory is not None and _exists(f"{memory}/{_V1_SWAP}")

    @property
    def version(self) -> int:
        """1, 2, or 0 when there are none."""
        return self._version if self._parents else 0

    @property
    def label(self) -> str:
        """Which limits hold, and by what."""
        if not self._parents:
            return "rlimits only"
        return f"cgroup-v{self._version} {','.join(self._held)}"

    def _find_held(self) -> list[str]:
        if self._version == 2:  # noqa: PLR2004  a version is a version
            return _v2_held(Path(self._parents["unified"]))
        return [name for name in ("cpu", "memory", "pids") if name in self._parents]

    @property
    def parents(self) -> list[str]:
        """Our groups that hold the leaves, in the order of a leaf's directories."""
        return list(self._parents.values())

    def leaf(self, name: str) -> Leaf:
        """Name a sandbox's leaf, made or not."""
        return Leaf({key: f"{parent}/{name}" for key, parent in self._parents.items()})

    def create(self, name: str, limits: Limits) -> Leaf:
        """Make a leaf with limits; on failure nothing stays."""
        leaf = self.leaf(name)
        try:
            for path in leaf.directories.values():
                os.mkdir(path)  # noqa: PTH102  see Leaf
            self.limit(leaf, limits)
        except OSError as error:
            self.remove(leaf)
            raise RuntimeUnavailableError(
                "the control group of a sandbox could not be made",
                hint="run `faas doctor`",
                details={"errno": errno.errorcode.get(error.errno or 0, "?")},
            ) from error
        return leaf

    def limit(self, leaf: Leaf, limits: Limits) -> None:
        """Set memory, cpu and pids."""
        for path, text in self._settings(leaf, limits):
            _write(path, text)
        for path, text in self._wishes(leaf, limits):
            with contextlib.suppress(OSError):
                _write(path, text)

    def _settings(self, leaf: Leaf, limits: Limits) -> Iterator[tuple[str, str]]:
        memory = str(limits.memory_bytes + _KERNEL_MEMORY_BYTES)
        pids = str(limits.pids_max + _KERNEL_PIDS)
        quota = max(_CPU_QUOTA_US_MIN, limits.cpu_millis * _CPU_PERIOD_US // 1000)
        where = leaf.directories
        if "unified" not in where:
            if "memory" in where:
                if self._counts_swap:  # the memory limit may not pass it: lift it first
                    yield f"{where['memory']}/{_V1_SWAP}", "-1"
                yield f"{where['memory']}/memory.limit_in_bytes", memory
            if "pids" in where:
                yield f"{where['pids']}/pids.max", pids
            if "cpu" in where:
                yield f"{where['cpu']}/cpu.cfs_quota_us", str(quota)
        else:
            held, path = self._held, where["unified"]
            if "memory" in held:
                yield f"{path}/memory.max", memory
            if "pids" in held:
                yield f"{path}/pids.max", pids
            if "cpu" in held:
                yield f"{path}/cpu.max", f"{quota} {_CPU_PERIOD_US}"

    def _wishes(self, leaf: Leaf, limits: Limits) -> Iterator[tuple[str, str]]:
        """Settings that some kernels lack: no swap, and the whole group dies of memory at once."""
        where = leaf.directories
        if "unified" in where:
            yield f"{where['unified']}/memory.swap.max", "0"
        elif "memory" in where:
            if self._counts_swap:
                total = str(limits.memory_bytes + _KERNEL_MEMORY_BYTES)
                yield f"{where['memory']}/{_V1_SWAP}", total
            else:
                yield f"{where['memory']}/memory.swappiness", "0"

    def limiting(self, leaf: Leaf, limits: Limits) -> list[bytes]:
        """Return the chores that set memory, cpu and pids."""
        settings = [launcher.write(path, text) for path, text in self._settings(leaf, limits)]
        wishes = self._wishes(leaf, limits)
        return settings + [launcher.write(path, text, is_wish=True) for path, text in wishes]

    def removal(self, leaf: Leaf) -> list[bytes]:
        """Return the chores that remove a leaf whose processes are gone."""
        return [launcher.rmdir(path) for path in leaf.directories.values()]

    def kill(self, leaf: Leaf) -> int:
        """Kill every process of a leaf; return how many there were to see."""
        if "unified" in leaf.directories:
            with contextlib.suppress(OSError):
                _write(f"{leaf.directories['unified']}/cgroup.kill", "1")
        pids = {pid for path in leaf.procs_files for pid in _pids(path)} - {os.getpid()}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def remove(self, leaf: Leaf) -> bool:
        """Remove a leaf, killing what is still in it; False when it would not go."""
        gone = [self._remove_directory(leaf, path) for path in leaf.directories.values()]
        return all(gone)

    def _remove_directory(self, leaf: Leaf, path: str) -> bool:
        for attempt in range(_REMOVE_TRIES):
            try:
                os.rmdir(path)  # noqa: PTH106  see Leaf
            except FileNotFoundError:
                return True
            except OSError as error:
                if error.errno != errno.EBUSY:
                    return False
                self.kill(leaf)
                time.sleep(min(0.001 * 2**attempt, 0.02))
            else:
                return True
        return False

    def names(self) -> set[str]:
        """Name every leaf that exists, of whatever controller."""
        return {
            entry.name
            for parent in map(Path, self._parents.values())
            for entry in (parent.iterdir() if parent.is_dir() else ())
            if entry.is_dir()
        }

    def close(self) -> None:
        """Remove our group when it is empty."""
        for parent in self._parents.values():
            with contextlib.suppress(OSError):
                os.rmdir(parent)  # noqa: PTH106  see Leaf


class Meter:
    """Reads a leaf's counters; the files stay open, because this is on the hot path."""

    __slots__ = ("_cpu", "_is_v1", "_memory", "_names", "_oom", "_peak")

    def __init__(self, leaf: Leaf) -> None:
        where = leaf.directories
        self._is_v1 = "unified" not in where
        memory = where.get("memory" if self._is_v1 else "unified")
        cpu = (where.get("cpuacct") or where.get("cpu")) if self._is_v1 else where.get("unified")
        self._cpu = _open(cpu, "cpuacct.usage" if self._is_v1 else "cpu.stat")
        self._peak = _open(memory, "memory.max_usage_in_bytes" if self._is_v1 else "memory.peak")
        self._oom = _open(memory, "memory.oom_control" if self._is_v1 else "memory.events")
        self._memory = memory
        self._names = _USED_V1 if self._is_v1 else _USED_V2

    def cpu_us(self) -> int | None:
        """Processor time used."""
        if self._is_v1:
            value = _number(self._cpu)
            return None if value is None else value // 1000
        return _keyed(self._cpu, b"usage_usec")

    def memory_peak_bytes(self) -> int | None:
        """The most memory that was held at once."""
        return _number(self._peak)

    def memory_bytes(self) -> int | None:
        """Memory held now, without what the kernel can drop at once.

        Asked for too seldom to keep its files open.
        """
        if self._memory is None:
            return None
        held = "".join(_lines(Path(self._memory, self._names[0])))
        droppable = dict(x.split(" ", 1) for x in _lines(Path(self._memory, "memory.stat")))
        return int(held) - int(droppable.get(self._names[1], 0)) if held.isdigit() else None

    def oom_kills(self) -> int | None:
        """How often the out-of-memory killer struck."""
        return _keyed(self._oom, b"oom_kill")

    def close(self) -> None:
        """Give the descriptors back. Idempotent."""
        for descriptor in (self._cpu, self._peak, self._oom):
            if descriptor is not None:
                os.close(descriptor)
        self._cpu = self._peak = self._oom = None


def open_cgroups(tag: str, *, policy: str = "auto", root: Path = Path("/")) -> Cgroups:
    """Find what this host offers and make our group in it.

    `policy` is `auto`, `v1`, `v2` or `none`; `root` is where /proc and the mounts are seen.
    """
    if policy in {"auto", "v1"}:
        parents = _v1_parents(tag, root)
        if parents:
            return Cgroups(1, parents)
    if policy in {"auto", "v2"}:
        parent = _v2_parent(tag, root)
        if parent:
            return Cgroups(2, {"unified": parent})
    return Cgroups(0, {})


def _v1_parents(tag: str, root: Path) -> dict[str, Path]:
    parents: dict[str, Path] = {}
    for controller, own in _v1_own_groups(root).items():
        path = own / f"faas-{tag}"
        with contextlib.suppress(OSError):
            path.mkdir(exist_ok=True)
            parents[controller] = path
    return parents if "memory" in parents or "pids" in parents else {}


def _v1_own_groups(root: Path) -> dict[str, Path]:
    """Return our own group by controller; co-mounted controllers share one hierarchy."""
    own: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        own.update(dict.fromkeys(names.split(","), path))
    found: dict[str, Path] = {}
    for kind, mount_root, point, options in _mounts(root):
        if kind != "cgroup":
            continue
        for name in (name for name in CONTROLLERS if name in options and name in own):
            inside = _below(own[name], mount_root)
            path = root / point.lstrip("/") / (inside or "")
            if inside is not None and path not in found.values():
                found[name] = path
    return found


def _v2_parent(tag: str, root: Path) -> Path | None:
    own = next((x[3:] for x in _lines(root / "proc/self/cgroup") if x.startswith("0::")), None)
    for kind, mount_root, point, _ in _mounts(root):
        inside = _below(own, mount_root) if kind == "cgroup2" and own else None
        if inside is None:
            continue
        here = root / point.lstrip("/") / inside
        offered = set(_words(here / "cgroup.controllers")) & set(_V2_CONTROLLERS)
        parent = here / f"faas-{tag}"
        if offered and _hand_down(here, offered) and _make_group(parent, offered):
            return parent
    return None


def _hand_down(group: Path, controllers: set[str]) -> bool:
    """Enable controllers for a group's children, moving ourselves out of the way if need be."""
    try:
        _enable(group, controllers)
    except OSError as error:
        if error.errno != errno.EBUSY:
            return False
    else:
        return True
    try:
        own = group / "faas-gateway"
        own.mkdir(exist_ok=True)
        _write(f"{own}/cgroup.procs", str(os.getpid()))
        _enable(group, controllers)
    except OSError:
        return False
    return True


def _make_group(path: Path, controllers: set[str]) -> bool:
    try:
        path.mkdir(exist_ok=True)
        _enable(path, controllers)
    except OSError:
        return False
    return True


def _enable(group: Path, controllers: set[str]) -> None:
    missing = controllers - set(_words(group / "cgroup.subtree_control"))
    if missing:
        _write(f"{group}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))


def _v2_held(parent: Path) -> list[str]:
    return sorted(set(_words(parent / "cgroup.subtree_control")) & set(_V2_CONTROLLERS))


def _mounts(root: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield (type, root, mount point, super options) of each mount."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        yield kinds[0], fields[3], fields[4], kinds[-1].split(",")


def _below(path: str, mount_root: str) -> str | None:
    """Return where our group is below the mount, which may show only part of the hierarchy."""
    base = "" if mount_root == "/" else mount_root
    if base and path != base and not path.startswith(base + "/"):
        return None
    return path[len(base) :].lstrip("/")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _pids(path: str) -> list[int]:
    return [int(word) for word in _words(Path(path)) if int(word) > 0]


def _exists(path: str) -> bool:
    return Path(path).exists()


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _open(group: str | None, name: str) -> int | None:
    if group is None:
        return None
    try:
        return os.open(f"{group}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _number(descriptor: int | None) -> int | None:
    text = _read(descriptor)
    return int(text) if text.isdigit() else None


def _keyed(descriptor: int | None, key: bytes) -> int | None:
    for line in _read(descriptor).splitlines():
        name, _, value = line.partition(b" ")
        if name == key and value.isdigit():
            return int(value)
    return None


def _read(descriptor: int | None) -> bytes:
    if descriptor is None:
        return b""
    try:
        return os.pread(descriptor, 4096, 0).strip()
    except OSError:
        return b""
