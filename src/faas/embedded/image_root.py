"""The root of an imported image: its tree untouched, what is written on top of it in memory."""

from pathlib import Path

from faas.embedded.host_root import inodes_for
from faas.embedded.plan import Bind, Dev, Directory, Op, Proc, RootOverlay

_DIRECTORIES = (
    Directory("/proc"),
    Directory("/dev"),
    Directory("/sys"),
    Directory("/sys/devices"),
    Directory("/sys/devices/system"),
    Directory("/sys/devices/system/cpu"),
    Directory("/workspace", 0o777),
    Directory("/tmp", 0o1777),  # noqa: S108  the sandbox's own
)


def image_ops(tree: Path, *, disk_bytes: int, is_idmapped: bool) -> list[Op]:
    """List the steps that make the root of an imported image."""
    return [
        RootOverlay(tree, disk_bytes, inodes_for(disk_bytes), is_idmapped),
        *_DIRECTORIES,
        Bind(Path("/sys/devices/system/cpu"), "/sys/devices/system/cpu"),
        Proc(),
        Dev(),
    ]
