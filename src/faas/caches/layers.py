"""One layer of a cache: a tar of files that one run added. Written here, never by a sandbox.

`sift` reads what a sandbox gives, which is hostile: it takes plain files under clean relative names
that are new, and writes them anew with modes of ours. Links, devices, names that lead outside,
names taken twice, contents that belie their name, and files where a directory is kept or the other
way round are refused; what is there already stays as it is. Nothing is ever unpacked on the host.
"""

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from faas.caches.kinds import CacheKind, Check
from faas.errors import InvalidArgumentError, TooLargeError
from faas.images.tar import BLOCK, Entry, EntryKind, TarStream
from faas.snapshots.tree import clean_path

FILES_MAX = 100_000
"""Of one run; npm's cache of a large project has twenty thousand."""

NAME_BYTES_MAX = 1024
_PART_BYTES_MAX = 255
_EXECUTABLE = 0o111


@dataclass(slots=True)
class Sifted:
    """What came of one run's files."""

    added: int = 0
    added_bytes: int = 0
    refused: int = 0
    """Links, devices, names that lead outside, contents that belie their name."""
    names: dict[str, int] = field(default_factory=dict[str, int])


class Names:
    """The files that are kept, and the directories they lie in."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._files: set[str] = set()
        self._directories: set[str] = set()
        for name in names:
            self.add(name)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def add(self, name: str) -> None:
        """Note a file."""
        self._files.add(name)
        self._directories.update(_above(name))

    def clashes(self, name: str) -> bool:
        """Whether it could not lie beside them: a file in the way, or a directory of its name."""
        return name in self._directories or any(above in self._files for above in _above(name))


def sift(
    source: IO[bytes], target: IO[bytes], kind: CacheKind, *, known: Names, bytes_max: int
) -> Sifted:
    """Copy the new plain files of a sandbox's tar into a layer.

    Raises:
        InvalidImageError: it is not a tar.
        TooLargeError: it has more files or bytes than may be added.
    """
    found, own, layer = Sifted(), Names(), _Layer(target)
    given = TarStream(source)
    for entries, entry in enumerate(given):
        if entries >= 2 * FILES_MAX:
            raise TooLargeError("the cache has too many entries to be kept")
        if entry.kind is EntryKind.DIRECTORY:
            continue
        name = _clean(entry.path)
        if name is None or entry.kind is not EntryKind.FILE or name in own:
            found.refused += 1
        elif kind.keeps(name) and name not in known:
            if known.clashes(name) or own.clashes(name):
                found.refused += 1
                continue
            if found.added >= FILES_MAX or found.added_bytes + entry.size > bytes_max:
                raise TooLargeError("the run added more to the cache than may be kept")
            if layer.add(given, entry, name, kind.check_of(name)):
                own.add(name)
                found.names[name] = entry.size
                found.added += 1
                found.added_bytes += entry.size
            else:
                found.refused += 1
    layer.end()
    return found


def names_of(layer: Path) -> dict[str, int]:
    """List the files of a layer, which is ours, with their sizes; only its headers are read."""
    with tarfile.open(layer, "r:") as opened:
        return {member.name: member.size for member in opened if member.isreg()}


def join(layers: Sequence[Path], target: IO[bytes]) -> None:
    """Write one layer of several; of a name in two the first stays."""
    seen: set[bytes] = set()
    layer = _Layer(target)
    for path in layers:
        with path.open("rb") as file:
            given = TarStream(file)
            for entry in given:
                if entry.kind is EntryKind.FILE and entry.path not in seen:
                    seen.add(entry.path)
                    layer.add(given, entry, entry.path.decode(), None)
    layer.end()


class _Layer:
    """A layer that is being written: directories before what lies in them, open to any user."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._directories: set[str] = set()

    def add(self, given: TarStream, entry: Entry, name: str, check: Check | None) -> bool:
        """Copy one file; one that is not what its name says is taken back."""
        for above in reversed(list(_above(name))):
            if above not in self._directories:
                self._directories.add(above)
                self._head(above, tarfile.DIRTYPE, 0o777)
        began = self._target.tell()
        mode = 0o777 if entry.mode & _EXECUTABLE else 0o666
        self._head(name, tarfile.REGTYPE, mode, size=entry.size, mtime=min(entry.mtime, 2**32))
        for chunk in given.read_data():
            self._target.write(chunk)
            if check is not None:
                check.hash.update(chunk)
        self._target.write(bytes(-entry.size % BLOCK))
        if check is None or check.hash.hexdigest() == check.expected:
            return True
        self._target.seek(began)
        self._target.truncate()
        return False

    def end(self) -> None:
        """Close the tar."""
        self._target.write(bytes(2 * BLOCK))

    def _head(self, name: str, kind: bytes, mode: int, *, size: int = 0, mtime: int = 0) -> None:
        header = tarfile.TarInfo(name)
        header.type, header.mode, header.size, header.mtime = kind, mode, size, mtime
        self._target.write(header.tobuf(tarfile.PAX_FORMAT))


def _above(name: str) -> Iterator[str]:
    """Yield the directories a file lies in, the innermost first."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _clean(path: bytes) -> str | None:
    """Return a name that is ours to write; None: it is refused."""
    try:
        cleaned = clean_path(path.decode())
    except (InvalidArgumentError, UnicodeDecodeError):
        return None
    is_long = len(path) > NAME_BYTES_MAX or any(
        len(part) > _PART_BYTES_MAX for part in path.split(b"/")
    )
    return None if not cleaned or path.startswith(b"/") or is_long else cleaned
