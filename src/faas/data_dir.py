"""The data directory: made private, held by one gateway at a time, and the places inside it."""

import contextlib
import fcntl
import hashlib
import os
import stat
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
                hint="stop it, or give this one its own: --data-dir DIRECTORY",
            ) from None
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
        held = cls(path, lock_fd)
        _place_run_dir(path / "run", held.tag)
        for place in (held.images_dir, held.spool_dir):
            place.mkdir(exist_ok=True, mode=0o700)
        return held

    @property
    def run_dir(self) -> Path:
        """Directories and sockets of living sandboxes: `run`, or what it points at."""
        return (self.path / "run").resolve()

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
        _remove_if_empty(self.run_dir)
        os.close(self._lock_fd)


_MEMORY = (Path("/run"), Path("/dev/shm"))  # noqa: S108  checked before it is used
_OWNER = "owner"


def _place_run_dir(link: Path, tag: str) -> None:
    """Put `run` into memory where there is a tmpfs, else make it a plain directory.

    A sandbox's directory lives as long as its sandbox and is gone with the machine anyway. Making
    and removing one took 1.5 ms on ext4 and 0.15 ms on tmpfs (`benchmarks/RESULTS.md`).
    """
    if link.is_dir() and not link.is_symlink() and any(link.iterdir()):
        return  # an older gateway's sandboxes live there
    parent = next((place for place in _MEMORY if _is_writable_tmpfs(place)), None)
    if parent is None or not _is_free_or_ours(parent / f"faas-{tag}"):
        if link.is_symlink():
            link.unlink()
        link.mkdir(exist_ok=True, mode=0o700)
        return
    _sweep(parent)
    target = parent / f"faas-{tag}"
    _point(link, target)
    # The link first: a directory that names a link which is not there is swept away by others.
    target.mkdir(mode=0o700, exist_ok=True)
    (target / _OWNER).write_text(str(link))


def _point(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    with contextlib.suppress(OSError):
        link.rmdir()
    staged = link.with_name("run.new")
    staged.unlink(missing_ok=True)
    staged.symlink_to(target)
    staged.replace(link)


def _is_writable_tmpfs(place: Path) -> bool:
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    kinds = {fields[1]: fields[2] for line in mounts if len(fields := line.split()) > 2}  # noqa: PLR2004
    return kinds.get(str(place)) == "tmpfs" and os.access(place, os.W_OK)


def _is_free_or_ours(path: Path) -> bool:
    """Whether it can be made, or is ours alone: others may write beside it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return True
    is_private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    return is_private and found.st_uid == os.geteuid()


def _sweep(parent: Path) -> None:
    """Take away empty directories of data directories that are gone."""
    for path in parent.glob("faas-*"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.lstat().st_uid != os.geteuid():
                continue
            if not Path((path / _OWNER).read_text()).is_symlink():
                _remove_if_empty(path)


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        (path / "live").rmdir()
    with contextlib.suppress(OSError):
        if [entry.name for entry in path.iterdir()] == [_OWNER]:
            (path / _OWNER).unlink()
            path.rmdir()
