"""The data directory: made private, held by one gateway at a time, and the places inside it."""

import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from faas.errors import ConflictError, InvalidConfigError


@dataclass(frozen=True, slots=True)
class DataDir:
    """A data directory that this process holds until `release`."""

    path: Path
    _lock_fd: int

    @classmethod
    def hold(cls, path: Path) -> Self:
        """Make it when it is missing, and keep every other gateway out of it.

        Raises:
            InvalidConfigError: it cannot be made or written.
            ConflictError: another gateway holds it.
        """
        path = path.expanduser().absolute()
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Closed on exec, so that no sandbox keeps the lock when the gateway dies.
            lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as failure:
            raise InvalidConfigError(
                f"the data directory {path} cannot be used: {failure.strerror}",
                hint="faas serve --data-dir DIRECTORY",
            ) from failure
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock_fd, 32, 0).decode("ascii", "replace").strip()
            os.close(lock_fd)
            raise ConflictError(
                f"another gateway (pid {holder or 'unknown'}) uses the data directory {path}",
                hint="stop it, or give this one its own: faas serve --data-dir DIRECTORY",
            ) from None
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
        held = cls(path, lock_fd)
        for place in (held.run_dir, held.images_dir, held.spool_dir):
            place.mkdir(exist_ok=True, mode=0o700)
        return held

    @property
    def run_dir(self) -> Path:
        """Directories and sockets of living sandboxes."""
        return self.path / "run"

    @property
    def images_dir(self) -> Path:
        """Imported images."""
        return self.path / "images"

    @property
    def spool_dir(self) -> Path:
        """What commands wrote."""
        return self.path / "spool"

    @property
    def tag(self) -> str:
        """Eight characters that tell this directory's things on the host from another's."""
        return hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:8]

    def release(self) -> None:
        """Let another gateway in."""
        os.close(self._lock_fd)
