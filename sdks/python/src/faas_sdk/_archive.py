"""Tars for `archive=`: a directory, packed the same way every time."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Iterable, Iterator, Union

LEFT_OUT = (".git", "__pycache__", ".venv", "node_modules")
"""What `pack_directory` leaves out unless told otherwise: big, and made again where needed."""

Archive = Union[bytes, str, "os.PathLike[str]"]


def read_archive(archive: Archive) -> bytes:
    """Return a plain tar from tar bytes, a tar file (also gzipped), or a directory.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(archive, (bytes, bytearray, memoryview)):
        data = bytes(archive)
    else:
        path = Path(archive)
        if path.is_dir():
            return pack_directory(path)
        data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if not _looks_like_tar(data):
        raise ValueError("archive= takes a directory, a tar file, or the bytes of a tar")
    return data


def pack_directory(
    directory: Union[str, os.PathLike[str]], *, leave_out: Iterable[str] = LEFT_OUT
) -> bytes:
    """Pack what is below a directory: names sorted, owners and times zeroed, modes kept."""
    root = Path(directory)
    buffer = io.BytesIO()
    # PAX, so that any name and any size fits.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _walk(root, frozenset(leave_out)):
            info = tar.gettarinfo(str(path), arcname=path.relative_to(root).as_posix())
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = 0
            if info.isreg():
                with path.open("rb") as content:
                    tar.addfile(info, content)
            elif info.isdir() or info.issym():
                tar.addfile(info)
    return buffer.getvalue()


def _walk(directory: Path, left_out: frozenset[str]) -> Iterator[Path]:
    for entry in sorted(directory.iterdir()):
        if entry.name in left_out:
            continue
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, left_out)


def _looks_like_tar(data: bytes) -> bool:
    # Every tar since POSIX.1-1988 has its magic at 257; one without entries is two blocks of zeros.
    return data[257:262] == b"ustar" or data[:1024] == bytes(1024)
