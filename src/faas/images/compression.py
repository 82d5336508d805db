"""Plain bytes of a stream that may be compressed: gzip, zstd, xz, bzip2 or none."""

import bz2
import gzip
import lzma
import shutil
import subprocess
import threading
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

from faas.errors import InvalidImageError, UnsupportedError
from faas.images.tar import ByteStream

_MAGIC_BYTES = 6
_XZ_MEMORY_BYTES = 256 << 20
"""What `xz -9` needs to unpack is 65 MiB; a header may ask for gigabytes."""


@contextmanager
def decompressed(source: BinaryIO) -> Generator[ByteStream]:
    """Give the plain bytes of a seekable source, from its present position on.

    Raises:
        InvalidImageError: the compressed data is damaged (while reading).
        UnsupportedError: it is zstd and the `zstd` program is missing.
    """
    start = source.tell()
    magic = source.read(_MAGIC_BYTES)
    source.seek(start)
    try:
        if magic.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=source, mode="rb") as plain:
                yield cast("ByteStream", plain)
        elif magic.startswith(b"\x28\xb5\x2f\xfd"):
            with _zstd(source) as plain:
                yield plain
        elif magic.startswith(b"BZh"):
            with bz2.BZ2File(source) as plain:
                yield plain
        elif magic.startswith(b"\xfd7zXZ"):
            yield _Xz(source)
        else:
            yield source
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as failure:
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


@contextmanager
def _zstd(source: BinaryIO) -> Generator[ByteStream]:
    """Run the `zstd` program: Python before 3.14 has no zstd, and a child contains its faults."""
    program = shutil.which("zstd")
    if program is None:
        raise UnsupportedError(
            "this image has zstd layers and the zstd program is missing",
            hint="apt-get install zstd",
        )
    child = subprocess.Popen(
        [program, "-dcq"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None  # noqa: S101  PIPE was asked for
    assert child.stdout is not None  # noqa: S101
    feeder = threading.Thread(target=_feed, args=(source, child.stdin), daemon=True)
    feeder.start()
    try:
        yield _Checked(child, cast("BinaryIO", child.stdout))
    finally:
        child.kill()
        child.stdout.close()
        child.wait()
        feeder.join()


def _feed(source: BinaryIO, sink: BinaryIO) -> None:
    with suppress(BrokenPipeError, OSError):
        shutil.copyfileobj(source, sink, 1 << 18)
    with suppress(OSError):
        sink.close()


class _Checked:
    """A child's output whose end is only believed when the child succeeded."""

    def __init__(self, child: subprocess.Popen[bytes], output: BinaryIO) -> None:
        self._child = child
        self._output = output

    def read(self, size: int, /) -> bytes:
        data = self._output.read(size)
        if not data and self._child.wait() != 0:
            raise InvalidImageError("the compressed data of the image is damaged")
        return data
