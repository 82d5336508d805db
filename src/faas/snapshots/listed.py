"""A tree whose entries are known, and what takes content in and gives it back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from faas.snapshots.manifest import Chunk, Entry


class Packing(Protocol):
    """Takes content in, as `Packer` does."""

    def add(self, read: Callable[[int], bytes]) -> tuple[int, tuple[Chunk, ...]]:
        """Read to the end; return the size and the chunks."""
        ...


class Unpacking(Protocol):
    """Gives content back, as `Unpacker` does."""

    def read(self, chunks: tuple[Chunk, ...]) -> Iterator[bytes]:
        """Yield the bytes of each chunk, at most `CHUNK_BYTES` at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """A tree whose entries are known already."""

    entries: tuple[Entry, ...]
    content: Unpacking
