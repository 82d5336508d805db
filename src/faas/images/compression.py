"""Plain bytes of a stream that may be compressed: gzip, zstd, xz, bzip2 or none."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import BinaryIO, cast

import zstandard

from faas.errors import InvalidImageError
from faas.images.tar import ByteStream

_MAGIC_BYTES = 6
_ZSTD_WINDOW_BYTES = 128 << 20
"""What `zstd --long` of the command line unpacks unasked."""
_XZ_MEMORY_BYTES = 256 << 20
"""What `xz -9` needs to unpack is 65 MiB; a header may ask for gigabytes."""


@contextmanager
def decompressed(source: BinaryIO) -> Generator[ByteStream]:
    """Give the plain bytes of a seekable source, from its present position on.

    Raises:
        InvalidImageError: the compressed data is damaged (while reading).
    """
    start = source.tell()
    magic = source.read(_MAGIC_BYTES)
    source.seek(start)
    try:
        if magic.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=source, mode="rb") as plain:
                yield cast("ByteStream", plain)
        elif magic.startswith(b"\x28\xb5\x2f\xfd"):
            unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
            with unpacker.stream_reader(source, read_across_frames=True, closefd=False) as plain:
                yield cast("ByteStream", plain)
        elif magic.startswith(b"BZh"):
            with bz2.BZ2File(source) as plain:
                yield plain
        elif magic.startswith(b"\xfd7zXZ"):
            yield _Xz(source)
        else:
            yield source
    except (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError) as failure:
        if isinstance(failure, OSError) and failure.errno is not None:
            raise  # the system's; those of gzip and bz2 carry no number
        raise InvalidImageError("the compressed data of the image is damaged") from failure


def is_compressed(source: BinaryIO) -> bool:
    """Whether the bytes from here on are of a compression known here."""
    start = source.tell()
    magic = source.read(_MAGIC_BYTES)
    source.seek(start)
    return magic.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"))


class _Xz:
    """xz with a bound on memory, which `lzma.LZMAFile` does not take."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._plain = lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)

    def read(self, size: int, /) -> bytes:
        while not self._plain.eof:
            more = self._source.read(1 << 16) if self._plain.needs_input else b""
            if self._plain.needs_input and not more:
                raise EOFError
            if plain := self._plain.decompress(more, size):
                return plain
        return b""
