"""Sockets between trees of processes: each tree is taken by itself, so these would be torn.

CRIU refuses a Unix socket whose other end it does not keep, but takes one end of a TCP connection
without a word, and a socket that two trees share twice. Looked at while all stands still.
"""

from collections.abc import Iterable
from pathlib import Path

from faas.criu import processes
from faas.criu.memory import Tree
from faas.errors import UnsupportedError

_TABLES = ("tcp", "tcp6")
_NO_INODE = "0"
_V4_IN_V6 = "0000000000000000FFFF0000"


def refuse_torn(init: int, trees: Iterable[Tree]) -> None:
    """Refuse sockets that lead from one tree to another.

    Raises:
        UnsupportedError: there are some.
    """
    owners = _owners(init, {tree.root for tree in trees})
    is_torn = any(len(trees_of) > 1 for trees_of in owners.values())
    inodes = _connections(init)
    for (ours, theirs), inode in inodes.items():
        other = inodes.get((theirs, ours), _NO_INODE)
        if inode in owners and other in owners:
            is_torn = is_torn or owners[inode] != owners[other]
    if is_torn:
        raise UnsupportedError(
            "the memory cannot be kept: commands, or what they left behind, share a socket or a"
            " connection",
            hint="let one command start both ends and outlive them, or keep the files only"
            " (memory: false)",
        )


def _owners(init: int, roots: set[int]) -> dict[str, set[int]]:
    """List by each socket's inode the trees that have it, by the number of their root."""
    tree_of: dict[int, int] = {}
    found: dict[str, set[int]] = {}
    for one in processes.below(init):
        root = one.inner_pid if one.inner_pid in roots else tree_of.get(one.parent)
        if root is None:
            continue
        tree_of[one.pid] = root
        for _, target in processes.descriptors(one.pid):
            if target.startswith("socket:["):
                found.setdefault(target[8:-1], set()).add(root)
    return found


def _connections(init: int) -> dict[tuple[str, str], str]:
    """Read both ends of every connection in the sandbox's network, and its socket's inode."""
    found: dict[tuple[str, str], str] = {}
    for table in _TABLES:
        try:
            lines = Path(f"/proc/{init}/net/{table}").read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            found[_plain(fields[1]), _plain(fields[2])] = fields[9]
    return found


def _plain(address: str) -> str:
    """A socket for both families sees an address of the old one in the form of the new."""
    return address.removeprefix(_V4_IN_V6)
