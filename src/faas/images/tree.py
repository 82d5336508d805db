"""A directory tree as entries to unpack, and as a digest of its content.

The digest is over what a sandbox can tell apart: for each path in byte order its kind, mode, owner
(where owners are kept) and content, and the configuration the image runs with. Not times, not hard
links, not the shape of the layers it came from: the same content from a tar, a directory and a
registry has the same digest, and is stored once.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec

from faas.images.beneath import DIRECTORY, names
from faas.images.config import ImageConfig
from faas.images.tar import Entry, EntryKind

_CHUNK = 1 << 20
_FORMAT = b"faas-tree-1\n"
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DirectorySource:
    """An existing directory, read as a layer. Stays on the file system it started on."""

    def __init__(self, root: os.PathLike[str]) -> None:
        self._root = os.open(root, DIRECTORY)
        self._device = os.fstat(self._root).st_dev
        self._seen: dict[int, bytes] = {}
        self._present: tuple[int, bytes] | None = None

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._root)

    def __iter__(self) -> Iterator[Entry]:
        yield _entry(b"", os.fstat(self._root))
        for path, directory, name, info in walk(self._root):
            if info.st_dev != self._device:
                continue
            entry = _entry(path, info)
            if entry.kind is EntryKind.SYMLINK:
                entry = replace(entry, link=os.readlink(name, dir_fd=directory))
            elif entry.kind is EntryKind.FILE:
                entry = self._file(entry, info)
                self._present = (directory, name)
            yield entry

    def read_data(self) -> Iterator[bytes]:
        """Yield the content of the present file, exactly as long as its entry says."""
        assert self._present is not None  # noqa: S101  called for files only
        directory, name = self._present
        with os.fdopen(os.open(name, _FILE, dir_fd=directory), "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def _file(self, entry: Entry, info: os.stat_result) -> Entry:
        if info.st_nlink == 1:
            return entry
        first = self._seen.setdefault(info.st_ino, entry.path)
        if first == entry.path:
            return entry
        return replace(entry, kind=EntryKind.HARDLINK, link=first)


def walk(root: int) -> Iterator[tuple[bytes, int, bytes, os.stat_result]]:
    """Yield path, open parent, name and lstat of all below, parents first, names in order."""
    device = os.fstat(root).st_dev
    stack: list[tuple[bytes, int, list[bytes]]] = []
    try:
        stack.append((b"", os.dup(root), sorted(names(root), reverse=True)))
        while stack:
            above, directory, todo = stack[-1]
            if not todo:
                os.close(stack.pop()[1])
                continue
            name = todo.pop()
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            path = above + b"/" + name if above else name
            yield path, directory, name, info
            if stat.S_ISDIR(info.st_mode) and info.st_dev == device:
                below = os.open(name, DIRECTORY, dir_fd=directory)
                stack.append((path, below, sorted(names(below), reverse=True)))
    finally:
        for _, directory, _todo in stack:
            os.close(directory)


def tree_digest(root: int, config: ImageConfig, *, check: Callable[[], None]) -> str:
    """Return `sha256:…` of the content of a tree and its configuration."""
    keeps_owner = os.geteuid() == 0
    total = hashlib.sha256(_FORMAT + msgspec.json.encode(config, order="sorted") + b"\n")
    linked: dict[int, bytes] = {}
    for path, directory, name, info in walk(root):
        check()
        kind = _kind(info.st_mode)
        content = b""
        if kind is EntryKind.SYMLINK:
            content = os.readlink(name, dir_fd=directory)
        elif kind is EntryKind.FILE:
            content = linked.get(info.st_ino) or _hash_file(directory, name)
            if info.st_nlink > 1:
                linked[info.st_ino] = content
        mode = 0 if kind is EntryKind.SYMLINK else stat.S_IMODE(info.st_mode)
        owner = f"{info.st_uid}:{info.st_gid}" if keeps_owner else "0:0"
        head = f"{kind.value} {mode:o} {owner} {len(path)} {len(content)}\n".encode()
        total.update(head + path + content)
    return f"sha256:{total.hexdigest()}"


def _hash_file(directory: int, name: bytes) -> bytes:
    with os.fdopen(os.open(name, _FILE, dir_fd=directory), "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _entry(path: bytes, info: os.stat_result) -> Entry:
    kind = _kind(info.st_mode)
    return Entry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        size=info.st_size if kind is EntryKind.FILE else 0,
        mtime=int(info.st_mtime),
    )


def _kind(mode: int) -> EntryKind:
    if stat.S_ISREG(mode):
        return EntryKind.FILE
    if stat.S_ISDIR(mode):
        return EntryKind.DIRECTORY
    return EntryKind.SYMLINK if stat.S_ISLNK(mode) else EntryKind.SPECIAL
