"""Read a tar as a stream of entries, believing nothing it says.

The standard library's reader keeps every member in memory and reads extension headers whole, so a
small hostile layer could ask for gigabytes. This one is strict and bounded: it knows ustar, pax
(path, linkpath, size, uid, gid, mtime) and GNU long names, and refuses the rest by name. Paths are
bytes, as the kernel's are. Where an entry may be written is the business of `layers`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, Protocol

from faas.errors import InvalidImageError

BLOCK = 512
_EXTENSION_BYTES_MAX = 1 << 20
"""Longest pax or long-name header believed; real ones hold a few paths of at most 4 KiB."""
_CHUNK = 1 << 18
_BASE_256 = 0x80
"""First byte of a number too large for octal text."""


class EntryKind(StrEnum):
    """What one entry makes."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    SPECIAL = "special"
    """A device node or FIFO; nobody unpacks these."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to make in a tree."""

    path: bytes
    kind: EntryKind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""


class ByteStream(Protocol):
    """What is read from: a file, a decompressor, a pipe."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; empty means the end."""
        ...


_KINDS = {
    b"0": EntryKind.FILE,
    b"\0": EntryKind.FILE,
    b"7": EntryKind.FILE,
    b"1": EntryKind.HARDLINK,
    b"2": EntryKind.SYMLINK,
    b"3": EntryKind.SPECIAL,
    b"4": EntryKind.SPECIAL,
    b"5": EntryKind.DIRECTORY,
    b"6": EntryKind.SPECIAL,
}


class TarStream:
    """Iterate entries; between two steps, `read_data` yields the content of the present one."""

    def __init__(self, source: ByteStream) -> None:
        self._source = source
        self._left = 0
        self._padding = 0
        self.position = 0
        """Bytes of the tar consumed so far: where the data of the present entry starts."""

    def __iter__(self) -> Iterator[Entry]:
        pax: dict[bytes, bytes] = {}
        while True:
            self._skip()
            header = self._take(BLOCK, may_end=True)
            if not header or header == bytes(BLOCK):
                return
            kind = header[156:157]
            _check_sum(header)
            if kind in (b"x", b"L", b"K"):
                self._extension(kind, _number(header[124:136]), pax)
            elif kind == b"g":
                self._read_extension(_number(header[124:136]))
            else:
                entry = _entry(header, pax)
                self._expect(entry.size if entry.kind is EntryKind.FILE else 0)
                pax = {}
                yield entry

    def read_data(self) -> Iterator[bytes]:
        """Yield the content of the present file."""
        while self._left:
            chunk = self._source.read(min(_CHUNK, self._left))
            if not chunk:
                _refuse("the archive ends in the middle of a file")
            self._left -= len(chunk)
            self.position += len(chunk)
            yield chunk

    def _expect(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _skip(self) -> None:
        for _ in self.read_data():
            pass
        self._take(self._padding)
        self._padding = 0

    def _take(self, size: int, *, may_end: bool = False) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing:
            chunk = self._source.read(missing)
            if not chunk:
                if may_end and missing == size:
                    return b""
                _refuse("the archive ends in the middle of a header")
            parts.append(chunk)
            missing -= len(chunk)
        self.position += size
        return b"".join(parts)

    def _read_extension(self, size: int) -> bytes:
        if size > _EXTENSION_BYTES_MAX:
            _refuse(f"an extension header claims {size} bytes")
        data = self._take(size)
        self._take(-size % BLOCK)
        return data

    def _extension(self, kind: bytes, size: int, pax: dict[bytes, bytes]) -> None:
        data = self._read_extension(size)
        if kind == b"x":
            pax.update(_pax_records(data))
        else:
            pax[b"path" if kind == b"L" else b"linkpath"] = data.split(b"\0", 1)[0]


def _check_sum(header: bytes) -> None:
    unsigned = sum(header) - sum(header[148:156]) + 8 * 32
    if unsigned != _number(header[148:156]):
        _refuse("a header has a wrong checksum")


def _number(field: bytes) -> int:
    """Octal text, or base 256 when the first bit is set (sizes from 8 GiB)."""
    if field[0] & _BASE_256:
        if field[0] != _BASE_256:
            _refuse("a header holds a negative number")
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if text.strip(b"01234567"):
        _refuse("a header holds a number that is none")
    return int(text or b"0", 8)


def _entry(header: bytes, pax: dict[bytes, bytes]) -> Entry:
    kind = _KINDS.get(header[156:157])
    if kind is None or any(key.startswith(b"GNU.sparse.") for key in pax):
        _refuse("an entry is of a kind that is not supported (sparse file, volume label…)")
    path = pax.get(b"path") or _path(header)
    if kind is EntryKind.FILE and path.endswith(b"/"):
        kind = EntryKind.DIRECTORY
    return Entry(
        path=path,
        kind=kind,
        mode=_number(header[100:108]) & 0o7777,
        uid=_pax_number(pax, b"uid", header[108:116]),
        gid=_pax_number(pax, b"gid", header[116:124]),
        size=_pax_number(pax, b"size", header[124:136]),
        mtime=_mtime(pax, header[136:148]),
        link=pax.get(b"linkpath") or header[157:257].split(b"\0", 1)[0],
    )


def _path(header: bytes) -> bytes:
    name = header[0:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax_number(pax: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    text = pax.get(key)
    if text is None:
        return _number(field)
    if not text.isdigit() or len(text) > 19:  # noqa: PLR2004  a 64-bit number has at most 19 digits
        _refuse("a pax header holds a number that is none")
    return int(text)


def _mtime(pax: dict[bytes, bytes], field: bytes) -> int:
    whole = pax.get(b"mtime", b"").split(b".", 1)[0]
    if whole.isdigit() and len(whole) <= 11:  # noqa: PLR2004  eleven digits last until the year 5138
        return int(whole)
    return 0 if field[0] & _BASE_256 else _number(field)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Split `LENGTH KEY=VALUE\\n` records."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 8)
        digits = data[at:space] if space > at else b""
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(data) or data[end - 1 : end] != b"\n" or not equals:
            _refuse("a pax header is malformed")
        records[key] = value
        at = end
    return records


def _refuse(what: str) -> NoReturn:
    raise InvalidImageError(
        f"the archive cannot be unpacked: {what}",
        hint="`tar -tf FILE` shows whether it is a tar; others are a directory, an OCI layout and"
        " what `docker save` writes",
    )
