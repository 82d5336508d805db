"""A tree written down as it is, fast: what will be a snapshot's section when there is time to pack.

    <folder>/content   the content of all files, one after the other
             entries   what is where; its chunks say where in `content`

Nothing is hashed or compressed, so it is for the machine that wrote it alone.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from faas.errors import DataLossError
from faas.snapshots.listed import Listed
from faas.snapshots.manifest import CHUNK_BYTES, Chunk, Entry
from faas.snapshots.tree import Folder, from_directory

_decode = msgspec.msgpack.Decoder(tuple[Entry, ...]).decode
_ZEROS = bytes(CHUNK_BYTES)


def write_plain(source: Folder, target: Path) -> None:
    """Write down a folder into the new folder `target`.

    Raises:
        TooLargeError: it holds more than it may.
        InvalidArgumentError: it is too deep, or a name in it cannot be kept.
    """
    target.mkdir(mode=0o700)
    with (target / "content").open("wb", buffering=0) as content:
        entries = from_directory(source, _Appending(content))
    (target / "entries").write_bytes(msgspec.msgpack.encode(entries))


@contextmanager
def plain_opened(target: Path) -> Generator[Listed]:
    """Open what `write_plain` wrote; it is read to its end even when it is removed meanwhile.

    Raises:
        FileNotFoundError: it is gone.
        DataLossError: it cannot be read.
    """
    with (target / "content").open("rb", buffering=0) as content:
        try:
            entries = _decode((target / "entries").read_bytes())
        except msgspec.MsgspecError as damage:
            raise DataLossError("what a checkpoint says of its files is damaged") from damage
        yield Listed(entries, _Places(content))


class _Appending:
    """Takes content in."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self._end = 0

    def add(self, read: Callable[[int], bytes]) -> tuple[int, tuple[Chunk, ...]]:
        """Read to the end; what is only zeros stays a hole."""
        start = self._end
        while data := read(CHUNK_BYTES):
            if data != _ZEROS[: len(data)]:
                _write_at(self._content.fileno(), data, self._end)
            self._end += len(data)
        size = self._end - start
        os.ftruncate(self._content.fileno(), self._end)
        return size, (Chunk(b"", 0, start, size, size),) if size else ()


class _Places:
    """Gives content back."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    def read(self, chunks: tuple[Chunk, ...]) -> Iterator[bytes]:
        """Yield the bytes of each chunk, in pieces.

        Raises:
            DataLossError: they are not all there.
        """
        for chunk in chunks:
            at, end = chunk.offset, chunk.offset + chunk.raw_bytes
            while at < end:
                data = os.pread(self._content.fileno(), min(CHUNK_BYTES, end - at), at)
                if not data:
                    raise DataLossError("the files of a memory checkpoint are cut off")
                yield data
                at += len(data)


def _write_at(descriptor: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(descriptor, rest, at)
        rest, at = rest[done:], at + done
