"""Walk below an open directory without ever leaving it.

A path is resolved as a process chrooted there would see it: one component at a time, links read and
followed by hand, `..` and absolute targets clamped at the top. No system call gets a path with a
slash in it. The tree is ours alone while this runs, so there is no race to win; the point is that
no content can lead outside.
"""

import errno
import os
import stat
from typing import NoReturn

from faas.errors import InvalidImageError

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS_MAX = 40
"""Links followed in one path: the kernel's own number."""
_DEPTH_MAX = 256
"""Directories below each other: removal holds one descriptor for each."""

RealPath = tuple[bytes, ...]
"""The components of a path of which none is a link."""


def open_beneath(root: int, parts: RealPath, *, create: bool) -> tuple[int, RealPath] | None:
    """Open the directory `parts` names as seen from inside, and say where it really is.

    Returns None when it is missing and not to be made.

    Raises:
        InvalidImageError: too deep, too many links, or a file in the way.
    """
    walk = _Walk(root)
    try:
        todo = list(reversed(parts))
        while todo:
            part = todo.pop()
            step = b".." if part == b".." else _step(walk.present, part, create=create)
            if step is None:
                return None
            if isinstance(step, int):
                walk.enter(part, step)
            elif part == b"..":
                walk.leave()
            else:
                todo.extend(walk.follow(step))
        return walk.take()
    finally:
        walk.close()


class _Walk:
    """Where a walk stands: the open directories from the top down."""

    def __init__(self, root: int) -> None:
        self._names: list[bytes] = []
        self._open = [os.dup(root)]
        self._links = 0

    @property
    def present(self) -> int:
        return self._open[-1]

    def enter(self, name: bytes, directory: int) -> None:
        self._names.append(name)
        self._open.append(directory)
        if len(self._names) > _DEPTH_MAX:
            _refuse(name, f"more than {_DEPTH_MAX} directories deep")

    def leave(self) -> None:
        if self._names:
            self._names.pop()
            os.close(self._open.pop())

    def follow(self, target: bytes) -> list[bytes]:
        """Return the components of a link's target, last first."""
        self._links += 1
        if self._links > _LINKS_MAX:
            _refuse(target, "too many links on the way")
        if target.startswith(b"/"):
            while self._names:
                self.leave()
        return [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]

    def take(self) -> tuple[int, RealPath]:
        return self._open.pop(), tuple(self._names)

    def close(self) -> None:
        for directory in self._open:
            os.close(directory)


def _step(at: int, part: bytes, *, create: bool) -> int | bytes | None:
    """Open one component: a descriptor, the target of a link, or None when it is missing."""
    try:
        return os.open(part, DIRECTORY, dir_fd=at)
    except FileNotFoundError:
        if not create:
            return None
        os.mkdir(part, dir_fd=at)
        os.chmod(part, 0o755, dir_fd=at)  # noqa: S103  directories no layer names are open to all
        return os.open(part, DIRECTORY, dir_fd=at)
    except OSError as failure:
        if failure.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
    try:
        return os.readlink(part, dir_fd=at)
    except OSError:
        if create:
            _refuse(part, "a file where a directory is needed")
        return None


def open_exact(root: int, path: bytes) -> int | None:
    """Open a directory no part of which is a link; None when there is none."""
    at = os.dup(root)
    for part in path.split(b"/") if path else ():
        try:
            below = os.open(part, DIRECTORY, dir_fd=at)
        except OSError:
            os.close(at)
            return None
        os.close(at)
        at = below
    return at


def read_beneath(
    root: int, parts: tuple[bytes, ...], name: bytes, *, bytes_max: int
) -> bytes | None:
    """Read a file of the tree; None when there is none. A link as the last part is none."""
    found = open_beneath(root, parts, create=False)
    if found is None:
        return None
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, dir_fd=found[0]), "rb") as file:
            return file.read(bytes_max)
    except OSError:
        return None
    finally:
        os.close(found[0])


def lstat(name: bytes, *, at: int) -> os.stat_result | None:
    """Look at a name; None when there is nothing."""
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None


def names(directory: int) -> list[bytes]:
    """List an open directory, as bytes."""
    return [os.fsencode(name) for name in os.listdir(directory)]


def clear(name: bytes, *, at: int) -> None:
    """Take away what is at a name, whatever it is, or nothing."""
    info = lstat(name, at=at)
    if info is None:
        return
    if stat.S_ISDIR(info.st_mode):
        _remove_tree(name, at)
    else:
        os.unlink(name, dir_fd=at)


def _remove_tree(name: bytes, at: int) -> None:
    """Remove a directory, links not followed, whatever the modes below."""
    stack = [(name, _enter(name, at), at)]
    try:
        while stack:
            present, directory, parent = stack[-1]
            below = _remove_files(directory)
            if below is None:
                stack.pop()
                os.close(directory)
                os.rmdir(present, dir_fd=parent)
            else:
                stack.append((below, _enter(below, directory), directory))
    finally:
        for _, directory, _parent in stack:
            os.close(directory)


def _enter(name: bytes, at: int) -> int:
    os.chmod(name, 0o700, dir_fd=at)
    return os.open(name, DIRECTORY, dir_fd=at)


def _remove_files(directory: int) -> bytes | None:
    """Unlink every file here; return a subdirectory that is still to do."""
    subdirectory: bytes | None = None
    for name in names(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except OSError as failure:
            if failure.errno not in (errno.EISDIR, errno.EPERM):
                raise
            subdirectory = name
    return subdirectory


def _refuse(part: bytes, why: str) -> NoReturn:
    shown = part[:120].decode("utf-8", "backslashreplace")
    raise InvalidImageError(f"the image cannot be unpacked: {shown!r}: {why}")
