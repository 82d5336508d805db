"""Write layers into a directory, wherever their names try to lead.

Every path is resolved the way a process chrooted into the tree would see it: one component at a
time below an open directory, links followed by hand and clamped at the tree's root. No call is ever
given a path with a slash in it, so nothing a layer says can reach outside. What is kept: files,
directories, symlinks and hard links with owner (as root), mode and time. What is not: device nodes
and FIFOs (skipped, counted), setuid and setgid bits (sandboxes run with `no_new_privs`, and a tree
on the host must not hold a way to root), extended attributes.

White-outs are those of the OCI image specification: `.wh.NAME` removes what lower layers put at
NAME, `.wh..wh..opq` empties the directory of what lower layers put there.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn, Self

from faas.errors import InvalidImageError, TooLargeError
from faas.images.beneath import DIRECTORY, clear, lstat, names, open_beneath, open_exact
from faas.images.tar import Entry, EntryKind

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_OWNER_MAX = 2**32 - 2
"""The largest user id; one more means "leave it" to chown."""
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """How large an image may be; counts run over all its layers."""

    bytes_max: int = 16 << 30
    """Content of all files. The largest images people run (PyTorch) unpack to about 10 GiB."""
    archive_bytes_max: int = 32 << 30
    """The plain bytes of a compressed archive: all layers, and what upper ones replace."""
    entries_max: int = 1_000_000
    layers_max: int = 128
    """The Docker Engine stops at 127."""


@dataclass(slots=True)
class UnpackCounts:
    """What was written so far."""

    entries: int = 0
    size_bytes: int = 0
    skipped: int = 0
    """Device nodes and FIFOs."""


class TreeWriter:
    """Applies layers, lowest first, to one empty directory. Use as a context manager."""

    def __init__(
        self,
        root: os.PathLike[str],
        *,
        limits: UnpackLimits | None = None,
        keep_owner: bool | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called at every entry and may raise to stop the work."""
        self._root = os.open(root, DIRECTORY)
        self._limits = limits or UnpackLimits()
        self._keep_owner = os.geteuid() == 0 if keep_owner is None else keep_owner
        self._check = check
        self._made: set[bytes] = set()
        self._directory_modes: dict[bytes, tuple[int, int]] = {}
        self._cached: tuple[bytes, int, tuple[bytes, ...]] | None = None
        self.counts = UnpackCounts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_parent()
        os.close(self._root)

    def apply(self, entries: Iterable[Entry], read_data: Callable[[], Iterator[bytes]]) -> None:
        """Write one layer; `read_data` yields the content of the entry just given.

        Raises:
            InvalidImageError: an entry that has no safe meaning.
            TooLargeError: the image is larger than the limits.
        """
        self._made.clear()
        for entry in entries:
            self._check()
            self._admit(entry)
            parts = _components(entry.path)
            if parts:
                self._write(entry, parts, read_data)
            elif entry.kind is EntryKind.DIRECTORY:
                self._directory_modes[b""] = (self._mode(entry), entry.mtime)
        self._forget_parent()

    def finish(self) -> None:
        """Give directories their modes and times; last, because writing inside changes them."""
        for path in sorted(self._directory_modes, key=len, reverse=True):
            mode, mtime = self._directory_modes[path]
            directory = open_exact(self._root, path)
            if directory is None:
                continue
            try:
                os.fchmod(directory, mode)
                os.utime(directory, (mtime, mtime))
            finally:
                os.close(directory)

    def _admit(self, entry: Entry) -> None:
        self.counts.entries += 1
        if max(entry.uid, entry.gid) > _OWNER_MAX:
            _refuse(entry.path, "an owner that is no user id")
        if self.counts.entries > self._limits.entries_max:
            raise TooLargeError(
                f"the image has more than {self._limits.entries_max} entries",
                details={"limit": "image_entries_max"},
            )

    def _write(
        self, entry: Entry, parts: tuple[bytes, ...], read_data: Callable[[], Iterator[bytes]]
    ) -> None:
        name = parts[-1]
        if name.startswith(_WHITEOUT):
            self._white_out(parts)
            return
        if entry.kind is EntryKind.SPECIAL:
            self.counts.skipped += 1
            return
        parent, real = self._parent(parts[:-1])
        path = b"/".join((*real, name))
        if entry.kind is EntryKind.DIRECTORY:
            self._directory(entry, parent, path, name)
        elif entry.kind is EntryKind.HARDLINK:
            self._hard_link(entry, parent, name)
        else:
            clear(name, at=parent)
            if entry.kind is EntryKind.SYMLINK:
                self._symlink(entry, parent, name)
            else:
                self._file(entry, parent, name, read_data())
        self._mark(path)

    def _mark(self, path: bytes) -> None:
        """Remember that this layer made the path, so that its own opaque marker spares it."""
        while path and path not in self._made:
            self._made.add(path)
            path = path.rpartition(b"/")[0]

    def _directory(self, entry: Entry, parent: int, path: bytes, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                clear(name, at=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
        self._own(entry, parent, name)
        self._directory_modes[path] = (self._mode(entry), entry.mtime)

    def _file(self, entry: Entry, parent: int, name: bytes, data: Iterator[bytes]) -> None:
        if self.counts.size_bytes + entry.size > self._limits.bytes_max:
            self._too_large()
        file = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            for chunk in data:
                self.counts.size_bytes += len(chunk)
                if self.counts.size_bytes > self._limits.bytes_max:
                    self._too_large()
                view = memoryview(chunk)
                while view:
                    view = view[os.write(file, view) :]
            if self._keep_owner:
                os.fchown(file, entry.uid, entry.gid)
            os.fchmod(file, self._mode(entry))
            os.utime(file, (entry.mtime, entry.mtime))
        finally:
            os.close(file)

    def _too_large(self) -> NoReturn:
        raise TooLargeError(
            f"the image unpacks to more than {self._limits.bytes_max} bytes",
            details={"limit": "image_bytes_max"},
        )

    def _symlink(self, entry: Entry, parent: int, name: bytes) -> None:
        if not entry.link or b"\0" in entry.link:
            _refuse(entry.path, "a symlink without a usable target")
        os.symlink(entry.link, name, dir_fd=parent)
        self._own(entry, parent, name)

    def _hard_link(self, entry: Entry, parent: int, name: bytes) -> None:
        target = _components(entry.link)
        if not target:
            _refuse(entry.path, "a hard link without a target")
        found = open_beneath(self._root, target[:-1], create=False)
        if found is None:
            _refuse(entry.path, "a hard link to what is not in the image")
        source, _ = found
        try:
            info = os.stat(target[-1], dir_fd=source, follow_symlinks=False)
            there = lstat(name, at=parent)
            if there is not None and os.path.samestat(info, there):
                return
            if stat.S_ISDIR(info.st_mode):
                _refuse(entry.path, "a hard link to a directory")
            clear(name, at=parent)
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            _refuse(entry.path, "a hard link to what is not in the image")
        finally:
            os.close(source)

    def _mode(self, entry: Entry) -> int:
        """The entry's mode; where the tree is an ordinary user's, that user can always read it."""
        own = 0o700 if entry.kind is EntryKind.DIRECTORY else 0o400
        return entry.mode & 0o1777 | (0 if self._keep_owner else own)

    def _own(self, entry: Entry, parent: int, name: bytes) -> None:
        if self._keep_owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)

    def _white_out(self, parts: tuple[bytes, ...]) -> None:
        self._forget_parent()
        found = open_beneath(self._root, parts[:-1], create=False)
        if found is None:
            return
        parent, real = found
        try:
            if parts[-1] == _OPAQUE:
                self._empty(parent, real)
                return
            name = parts[-1].removeprefix(_WHITEOUT)
            if name in (b"", b".", b".."):
                _refuse(b"/".join(parts), "a white-out of nothing")
            self._remove_lower(parent, name, (*real, name))
        finally:
            os.close(parent)

    def _empty(self, directory: int, real: tuple[bytes, ...]) -> None:
        """Remove what lower layers put below, sparing what this layer already made."""
        for name in names(directory):
            self._remove_lower(directory, name, (*real, name))

    def _remove_lower(self, parent: int, name: bytes, path: tuple[bytes, ...]) -> None:
        if b"/".join(path) not in self._made:
            clear(name, at=parent)
        elif stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            below = os.open(name, DIRECTORY, dir_fd=parent)
            try:
                self._empty(below, path)
            finally:
                os.close(below)

    def _parent(self, parts: tuple[bytes, ...]) -> tuple[int, tuple[bytes, ...]]:
        """Open the directory an entry goes into, made if missing. Neighbours share it."""
        key = b"/".join(parts)
        if self._cached is None or self._cached[0] != key:
            self._forget_parent()
            found = open_beneath(self._root, parts, create=True)
            assert found is not None  # noqa: S101  create=True either opens or raises
            self._cached = (key, *found)
        return self._cached[1], self._cached[2]

    def _forget_parent(self) -> None:
        if self._cached is not None:
            os.close(self._cached[1])
            self._cached = None


def _components(path: bytes) -> tuple[bytes, ...]:
    """Split a name; a leading slash is dropped, `..` and NUL are refused."""
    parts = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
    if b"\0" in path or b".." in parts:
        _refuse(path, "its name leads outside")
    if len(path) > 4095 or any(len(part) > 255 for part in parts):  # noqa: PLR2004  PATH_MAX, NAME_MAX
        _refuse(path, "its name is too long")
    return parts


def _refuse(path: bytes, why: str) -> NoReturn:
    shown = path[:120].decode("utf-8", "backslashreplace")
    raise InvalidImageError(f"the image cannot be unpacked: {shown!r}: {why}")
