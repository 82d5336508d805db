"""How much memory the machine has left, and whether that is too little to keep anything ready."""

from collections.abc import Callable
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def shortage(reserve_share: float, *, meminfo: Path = _MEMINFO) -> Callable[[], bool]:
    """Return a check that says whether less than that share of all memory is available.

    A machine that does not tell is never short.
    """

    def is_short() -> bool:
        values = read(meminfo)
        total, available = values.get("MemTotal"), values.get("MemAvailable")
        return total is not None and available is not None and available < reserve_share * total

    return is_short


def read(meminfo: Path) -> dict[str, int]:
    """Return what the kernel says of memory, in bytes; empty where it says nothing."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, int] = {}
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found
