"""File trees in and out: a folder (or an overlay's upper folder), a tar, and back.

Trees come from sandboxes, so every name in them is hostile. A folder is walked by directory
descriptors without following a link; written the same way, into a folder made for it. What is no
file, directory or symlink is left out (an overlay's whiteouts, 0/0 character devices, are kept as
what they mean). Setuid and setgid bits are dropped: nothing in a sandbox may gain rights by them.
"""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from msgspec.structs import replace

from faas.errors import InvalidArgumentError, ManifestError, TooLargeError
from faas.snapshots.listed import Listed, Packing, Unpacking
from faas.snapshots.manifest import CHUNK_BYTES, Entry, EntryKind

ENTRIES_MAX = 2_000_000
DEPTH_MAX = 256
"""As deep as the agent goes; each level is an open descriptor while it is walked."""
BYTES_MAX = 1 << 40
_PERMISSIONS = 0o1777
_ID_MAX = 65_534
"""A sandbox has no more users; an imported snapshot may claim any."""
_ZEROS = bytes(CHUNK_BYTES)
GONE = "FAAS.gone"
"""The pax header that marks, in our own tars, a path of the image that is no more (`1`), or a
directory that hides what the image has in it (`below`)."""
_OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")


def from_listed(tree: Listed, packer: Packing) -> tuple[Entry, ...]:
    """Take the content of every entry in."""
    return tuple(
        replace(entry, chunks=packer.add(_Stream(tree.content.read(entry.chunks)).read)[1])
        if entry.chunks
        else entry
        for entry in tree.entries
    )


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder to be read."""

    top: Path | int
    """Its path, or a descriptor of it."""
    shift: int = 0
    """Taken from every owner: a user namespace's first host id."""
    skip: frozenset[str] = frozenset()
    """Names directly in it that are left out."""
    bytes_max: int = BYTES_MAX
    """Of content; a file with holes counts as long as it says it is."""


def from_directory(folder: Folder, packer: Packing) -> tuple[Entry, ...]:
    """Read a folder.

    Raises:
        TooLargeError: it holds more than it may.
        InvalidArgumentError: it is too deep, or a name in it cannot be kept.
    """
    walk = _Walk(packer, folder.shift, folder.bytes_max)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    if isinstance(folder.top, int):
        handle = os.open(".", flags, dir_fd=folder.top)
    else:
        handle = os.open(folder.top, flags)
    try:
        walk.enter(handle, "", folder.skip, depth=0)
    finally:
        os.close(handle)
    return tuple(sorted(walk.entries, key=lambda e: e.path))


class _Walk:
    """Goes down by descriptors, so that a folder moved meanwhile leads nowhere else."""

    def __init__(self, packer: Packing, shift: int, bytes_max: int) -> None:
        self._packer = packer
        self._shift = shift
        self._bytes_left = bytes_max
        self.entries: list[Entry] = []

    def enter(self, folder: int, prefix: str, skip: frozenset[str], *, depth: int) -> None:
        """Read everything below a folder."""
        if depth > DEPTH_MAX:
            raise InvalidArgumentError(f"folders deeper than {DEPTH_MAX} cannot be kept")
        for name in sorted(os.listdir(folder)):
            if len(self.entries) >= ENTRIES_MAX:
                raise TooLargeError(f"a snapshot holds at most {ENTRIES_MAX} entries")
            if name not in skip:
                with suppress(FileNotFoundError):  # it runs on, and removed it just now
                    self._read(folder, name, prefix + _text(name), depth)

    def _read(self, folder: int, name: str, path: str, depth: int) -> None:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        base = Entry(
            path,
            EntryKind.FILE,
            stat.S_IMODE(found.st_mode) & _PERMISSIONS,
            max(0, found.st_uid - self._shift),
            max(0, found.st_gid - self._shift),
            found.st_mtime_ns,
        )
        if stat.S_ISDIR(found.st_mode):
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                opaque = _is_opaque(child)
                self.entries.append(replace(base, kind=EntryKind.DIRECTORY, is_opaque=opaque))
                self.enter(child, path + "/", frozenset(), depth=depth + 1)
            finally:
                os.close(child)
        elif stat.S_ISREG(found.st_mode):
            self.entries.append(self._read_file(folder, name, base))
        elif stat.S_ISLNK(found.st_mode):
            target = _text(os.readlink(name, dir_fd=folder))
            self.entries.append(replace(base, kind=EntryKind.SYMLINK, target=target))
        elif stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            self.entries.append(Entry(path, EntryKind.WHITEOUT))

    def _read_file(self, folder: int, name: str, base: Entry) -> Entry:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with os.fdopen(handle, "rb", buffering=0) as source:
            if os.fstat(handle).st_size > self._bytes_left:
                raise TooLargeError(
                    f"{base.path[:80]} is too long to be kept",
                    hint="make it shorter; a file with holes counts as long as it says it is",
                )
            size, chunks = self._packer.add(lambda wanted: self._more(source, wanted))
        return replace(base, size_bytes=size, chunks=chunks)

    def _more(self, source: IO[bytes], wanted: int) -> bytes:
        data = source.read(wanted)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise TooLargeError("the files are too long to be kept: one of them grows meanwhile")
        return data


def from_tar(source: IO[bytes], packer: Packing) -> tuple[Entry, ...]:
    """Read a tar stream (as the agent writes it); the last word on a path wins.

    Raises:
        InvalidArgumentError: it is no tar, or an entry's name leads outside.
    """
    entries: dict[str, Entry] = {}
    try:
        with tarfile.open(fileobj=source, mode="r:") as archive:
            for member in archive:
                if len(entries) >= ENTRIES_MAX:
                    raise TooLargeError(f"a snapshot holds at most {ENTRIES_MAX} entries")
                if member.pax_headers.get(GONE) == "1":
                    entry = Entry(_text(clean_path(member.name)), EntryKind.WHITEOUT)
                else:
                    entry = _from_member(archive, member, packer, entries)
                if entry is not None:
                    entries[entry.path] = entry
    except tarfile.TarError as cause:
        raise InvalidArgumentError(f"not a tar: {cause}") from cause
    return tuple(entries[path] for path in sorted(entries))


def _from_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, packer: Packing, seen: dict[str, Entry]
) -> Entry | None:
    path = _text(clean_path(member.name))
    if not path:
        return None
    mtime_ns = int(float(member.mtime) * 1e9)
    base = Entry(path, EntryKind.FILE, member.mode & _PERMISSIONS, member.uid, member.gid, mtime_ns)
    if member.isdir():
        return replace(base, kind=EntryKind.DIRECTORY)
    if member.issym():
        return replace(base, kind=EntryKind.SYMLINK, target=_text(member.linkname))
    if member.islnk():
        linked = seen.get(clean_path(member.linkname))
        return replace(linked, path=path) if linked else None
    if member.issparse():  # a few bytes of it may say that it is as long as they like
        raise InvalidArgumentError(f"{path[:80]} is a sparse file, which no agent of ours packs")
    if member.isreg():
        content = archive.extractfile(member)
        size, chunks = packer.add(content.read) if content else (0, ())
        return replace(base, size_bytes=size, chunks=chunks)
    return None


@dataclass(frozen=True, slots=True)
class Tars:
    """Tars of places in one tree, as a sandbox's agent packs them."""

    parts: tuple[tuple[str, IO[bytes]], ...]
    """Where each lies in the tree, and the opened tar."""


def from_tars(source: Tars, packer: Packing) -> tuple[Entry, ...]:
    """Read each tar into its place. A mark of what is gone is not believed: a sandbox made it.

    Raises:
        InvalidArgumentError: one is no tar, or a name in it leads outside.
    """
    entries: dict[str, Entry] = {}
    for place, part in source.parts:
        try:
            with tarfile.open(fileobj=part, mode="r:") as archive:
                for member in archive:
                    if len(entries) >= ENTRIES_MAX:
                        raise TooLargeError(f"a snapshot holds at most {ENTRIES_MAX} entries")
                    # Cleaned before it is joined, so that it cannot lead out of its place.
                    member.name = f"{place}/{clean_path(member.name)}"
                    if member.islnk():
                        member.linkname = f"{place}/{clean_path(member.linkname)}"
                    entry = _from_member(archive, member, packer, entries)
                    if entry is not None:
                        entries[entry.path] = entry
        except tarfile.TarError as cause:
            raise InvalidArgumentError(f"not a tar: {cause}") from cause
    return tuple(entries[path] for path in sorted(entries))


Missing = Callable[[str], tuple[int, int, int]]
"""Mode, owner and group of a folder that a tree writes into and does not list."""


def to_directory(
    entries: tuple[Entry, ...],
    root: Path,
    unpacker: Unpacking,
    *,
    missing: Missing = lambda _: (0o755, 0, 0),
) -> None:
    """Write a tree into the empty folder `root`, owners and times included where we may."""
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    late: list[Entry] = []
    for entry in _with_folders(entries, missing):
        parent = _open_parent(root, entry.path)
        name = PurePosixPath(entry.path).name
        try:
            _write_entry(parent, name, entry, unpacker)
            if entry.kind is EntryKind.DIRECTORY:
                late.append(entry)
            elif entry.kind is not EntryKind.WHITEOUT:
                _set_meta(parent, name, entry)
        finally:
            os.close(parent)
    for entry in reversed(late):  # after their content, which would change their times
        parent = _open_parent(root, entry.path)
        try:
            _set_meta(parent, PurePosixPath(entry.path).name, entry)
        finally:
            os.close(parent)


def _with_folders(entries: tuple[Entry, ...], missing: Missing) -> Iterator[Entry]:
    """The entries in order, each after the folders it lies in."""
    listed: dict[str, bool] = {}
    for entry in entries:
        end = entry.path.find("/")
        is_in_folders = True
        while end != -1 and is_in_folders:
            folder = entry.path[:end]
            if folder not in listed:
                listed[folder] = True
                yield Entry(folder, EntryKind.DIRECTORY, *missing(folder))
            is_in_folders = listed[folder]
            end = entry.path.find("/", end + 1)
        if is_in_folders:
            listed[entry.path] = entry.kind is EntryKind.DIRECTORY
            yield entry
        elif entry.kind is not EntryKind.WHITEOUT:  # what took its folder's place hides it anyway
            raise ManifestError(f"{entry.path[:80]} lies in what is no folder")


def _write_entry(parent: int, name: str, entry: Entry, unpacker: Unpacking) -> None:
    if entry.kind is EntryKind.DIRECTORY:
        os.mkdir(name, 0o700, dir_fd=parent)
        if entry.is_opaque:
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            try:
                os.setxattr(handle, _OPAQUE[0], b"y")
            finally:
                os.close(handle)
    elif entry.kind is EntryKind.SYMLINK:
        os.symlink(entry.target, name, dir_fd=parent)
    elif entry.kind is EntryKind.WHITEOUT:
        os.mknod(name, stat.S_IFCHR | 0o600, 0, dir_fd=parent)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=parent), "wb", buffering=0) as target:
            for data in unpacker.read(entry.chunks):
                _write_or_skip(target, data)
            target.truncate(entry.size_bytes)


def _write_or_skip(target: IO[bytes], data: bytes) -> None:
    """What is only zeros stays a hole."""
    if data == _ZEROS[: len(data)]:
        target.seek(len(data), os.SEEK_CUR)
        return
    rest = memoryview(data)
    while rest:
        rest = rest[target.write(rest) :]


def _set_meta(parent: int, name: str, entry: Entry) -> None:
    if os.geteuid() == 0:
        uid, gid = (min(own, _ID_MAX) for own in (entry.uid, entry.gid))
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
    if entry.kind is not EntryKind.SYMLINK:
        os.chmod(name, entry.mode & _PERMISSIONS, dir_fd=parent)
    times = (entry.mtime_ns, entry.mtime_ns)
    os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)


def _open_parent(root: Path, path: str) -> int:
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in PurePosixPath(path).parts[:-1]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            child = os.open(part, flags, dir_fd=handle)
        finally:
            os.close(handle)
        handle = child
    return handle


def to_tar(entries: tuple[Entry, ...], sink: IO[bytes], unpacker: Unpacking) -> None:
    """Write a tree as a pax tar; what is gone is an empty entry with the header `GONE`."""
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            if entry.is_opaque:
                archive.addfile(_mark_of(entry, "below"))
            member = _mark_of(entry, "1") if entry.kind is EntryKind.WHITEOUT else _member_of(entry)
            content = _Stream(unpacker.read(entry.chunks)) if entry.chunks else None
            archive.addfile(member, content)  # pyright: ignore[reportArgumentType]


def _mark_of(entry: Entry, what: str) -> tarfile.TarInfo:
    mark = tarfile.TarInfo(entry.path)
    mark.pax_headers = {GONE: what}
    return mark


def _member_of(entry: Entry) -> tarfile.TarInfo:
    member = tarfile.TarInfo(entry.path)
    member.mode, member.uid, member.gid = entry.mode, entry.uid, entry.gid
    member.mtime = entry.mtime_ns // 10**9
    member.size = entry.size_bytes
    if entry.kind is EntryKind.DIRECTORY:
        member.type = tarfile.DIRTYPE
    elif entry.kind is EntryKind.SYMLINK:
        member.type, member.linkname = tarfile.SYMTYPE, entry.target
    return member


class _Stream:
    """A file-like face for an iterator of bytes."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            part = next(self._parts, None)
            if part is None:
                break
            self._rest += part
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def clean_path(name: str) -> str:
    """A tar's name as a relative path; the top itself is the empty string.

    Raises:
        InvalidArgumentError: it leads outside.
    """
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts or "\0" in name:
        raise InvalidArgumentError(f"entry {name[:80]!r} leads outside the tree")
    return "/".join(parts)


def _is_opaque(folder: int) -> bool:
    for name in _OPAQUE:
        with suppress(OSError):
            if os.getxattr(folder, name) == b"y":
                return True
    return False


def _text(name: str) -> str:
    """File names as text that msgpack can hold; undecodable bytes are refused by name."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as cause:
        shown = name.encode("utf-8", "surrogateescape")[:80]
        raise InvalidArgumentError(
            f"the file name {shown!r} is not UTF-8 and cannot be kept", hint="rename it first"
        ) from cause
    return name
