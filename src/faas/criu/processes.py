"""The processes of a sandbox, seen from outside: found below its first one, never by a name.

Everything is read from the host's /proc. A sandbox may fork and die meanwhile; what is needed for
certain is read while its processes stand still.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROCESSES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Seen:
    """One process."""

    pid: int
    """The host's number."""
    inner_pid: int
    """Its own number in the sandbox."""
    parent: int
    state: str


def below(init: int) -> list[Seen]:
    """List every process below a sandbox's first one; parents come before their children."""
    found: list[Seen] = []
    waiting = list(_children(init))
    while waiting and len(found) < _PROCESSES_MAX:
        pid = waiting.pop(0)
        seen = _look(pid)
        if seen is not None:
            found.append(seen)
            waiting.extend(_children(pid))
    return found


def inner_pid_max(init: int) -> int:
    """The highest number of a process or thread in a sandbox."""
    numbers = [1]
    for seen in below(init):
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{seen.pid}/task").iterdir():
                inner = _inner_pid(thread / "status")
                numbers.append(inner or 1)
    return max(numbers)


def go_on(init: int, *, spared: set[int]) -> None:
    """Let stopped processes run on, but for those that the sandbox had stopped itself.

    Children first: a shell that saw its foreground job stopped would take the terminal from it.
    """
    for seen in reversed(below(init)):
        if seen.state == "T" and seen.inner_pid not in spared:
            with contextlib.suppress(ProcessLookupError):
                os.kill(seen.pid, signal.SIGCONT)


def descriptors(pid: int) -> Iterator[tuple[int, str]]:
    """Yield what a process has open: number, and what it leads to."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield int(link.name), str(link.readlink())


def terminal_of(pid: int) -> int:
    """Read the device number of the terminal that controls a process; 0 when none does."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # Field 7; signed, as the kernel prints it.
    return int(text.rpartition(")")[2].split()[4]) & 0xFFFF_FFFF


def is_ours(pid: int, init: int) -> bool:
    """Whether a process runs the agent's own program: its supervisors and workers do."""
    try:
        one, other = Path(f"/proc/{pid}/exe").stat(), Path(f"/proc/{init}/exe").stat()
    except OSError:
        return False
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def privileges(pid: int) -> dict[str, str]:
    """Read what a process may do: users, groups, capabilities, filter."""
    wanted = {"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    wanted |= {"NoNewPrivs", "Seccomp"}
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in wanted:
                found[name] = " ".join(value.split())
    return found


def groups(pid: int) -> str:
    """Read which control groups it is in; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def label(pid: int) -> str:
    """Read what a security module of the kernel (AppArmor, SELinux) holds it to; empty: nothing."""
    try:
        return Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n")
    except OSError:
        return ""


def has_ended(pid: int) -> bool:
    """Whether it is gone, or was only not waited for."""
    seen = _look(pid)
    return seen is None or seen.state == "Z"


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                yield from map(int, (thread / "children").read_text().split())


def _look(pid: int) -> Seen | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything; the fields count from after the last one.
    state, parent = text.rpartition(")")[2].split()[:2]
    inner = _inner_pid(Path(f"/proc/{pid}/status"))
    return None if inner is None else Seen(pid, inner, int(parent), state)


def _inner_pid(status: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in status.read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None
