"""Named blobs of an image that is being imported: files of a directory, or members of a tar."""

import io
import os
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from faas.errors import InvalidImageError
from faas.images.tar import EntryKind, TarStream

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Shelf(Protocol):
    """Where an import finds its blobs."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file. Raises InvalidImageError when there is none."""
        ...


class DirectoryShelf:
    """Files below a directory. No link is followed: a layout from elsewhere may point anywhere."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, name: str) -> bool:
        path = self._path / name
        return path.is_file() and not path.is_symlink()

    def open(self, name: str) -> BinaryIO:
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts:
            raise InvalidImageError(f"the image names {name[:80]!r}, which leads outside of it")
        try:
            return os.fdopen(os.open(self._path / name, _FILE), "rb")
        except OSError as failure:
            raise InvalidImageError(
                f"the image lacks {name[:80]!r}, or it cannot be read"
            ) from failure


class TarShelf:
    """Members of a plain tar, found by one pass over its headers."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        file.seek(0)
        stream = TarStream(file)
        for entry in stream:
            name = _name(entry.path)
            if entry.kind is EntryKind.FILE:
                self._members[name] = (stream.position, entry.size)
            elif entry.kind in (EntryKind.SYMLINK, EntryKind.HARDLINK):
                self._links[name] = _link(name, entry.link, entry.kind)

    @property
    def file(self) -> BinaryIO:
        """The tar itself."""
        return self._file

    def has(self, name: str) -> bool:
        return name in self._members

    def open(self, name: str) -> BinaryIO:
        # Old versions of `docker save` write a layer once and link to it from the others.
        found = self._members.get(name) or self._members.get(self._links.get(name, ""))
        if found is None:
            raise InvalidImageError(f"the image lacks {name[:80]!r}")
        return cast("BinaryIO", io.BufferedReader(_Slice(self._file, *found), 1 << 18))


class _Slice(io.RawIOBase):
    """A part of a file, with a position of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._fd = file.fileno()
        self._start, self._size, self._at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(cast("bytearray", buffer))
        data = os.pread(
            self._fd, max(0, min(len(view), self._size - self._at)), self._start + self._at
        )
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _name(path: bytes) -> str:
    return os.fsdecode(path.removeprefix(b"./").rstrip(b"/"))


def _link(name: str, target: bytes, kind: EntryKind) -> str:
    text = os.fsdecode(target)
    if kind is EntryKind.SYMLINK:
        text = str(Path(name).parent / text)
    return os.path.normpath(text)
