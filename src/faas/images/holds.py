"""Who uses a tree: an advisory lock on a file beside it, shared among users, gone with the process.

The kernel drops it when a holder dies, so a crash never leaves a tree that nobody may remove.
"""

import fcntl
import os
from pathlib import Path


class TreeHolds:
    """The trees this process uses, each counted, each locked once."""

    def __init__(self) -> None:
        self._held: dict[Path, tuple[int, int]] = {}

    def take(self, tree: Path) -> None:
        """Keep a tree from being removed until `release`.

        Raises:
            FileNotFoundError: it is gone.
        """
        count, lock = self._held.get(tree, (0, -1))
        if not count:
            lock = os.open(tree / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
            except OSError:
                os.close(lock)
                raise
        self._held[tree] = (count + 1, lock)

    def release(self, tree: Path) -> None:
        """Give one hold back."""
        count, lock = self._held.pop(tree)
        if count > 1:
            self._held[tree] = (count - 1, lock)
        else:
            os.close(lock)


def is_held(tree: Path) -> bool:
    """Whether any living process uses the tree."""
    try:
        lock = os.open(tree / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
