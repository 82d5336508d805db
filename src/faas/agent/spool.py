"""Reads a command's output by byte offset, live or long after the fact.

The agent appends to the file, this side only reads it, so a reader needs nobody's help to come
back at any offset.
"""

import os
from pathlib import Path
from typing import Self

READ_BYTES_MAX = 16 << 20
"""Of one read; as much as one stream keeps by default, so a whole default output is one call."""


class Spool:
    """One output stream of one command. A file that is not there yet reads as empty."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def size(self) -> int:
        """Return the bytes kept so far."""
        descriptor = self._open()
        return 0 if descriptor is None else os.fstat(descriptor).st_size

    def read(self, *, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; empty past the end."""
        if offset < 0 or length < 0:
            raise ValueError("offset and length count from zero")
        descriptor = self._open()
        if descriptor is None:
            return b""
        return os.pread(descriptor, min(length, READ_BYTES_MAX), offset)

    def close(self) -> None:
        """Give the descriptor back. The spool may be used again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int | None:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
        return self._descriptor


def open_for_agent(path: Path | str) -> int:
    """Open a spool for the agent to write; what it holds stays."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)
