"""What a snapshot is: canonical bytes that list every entry and where its content lies.

A snapshot has *sections*, each a file tree: `files` always; `memory` (the images of a process
tree) when processes were captured too. An entry's content is a list of chunks; a chunk is a run of
at most 64 KiB, named by the hash of its raw bytes, stored compressed inside a pack blob. The same
manifest always has the same bytes, so its digest names the state itself.

`whiteout` and `opaque` entries say what a layer takes away from what lies below it: they are how a
sandbox's writable layer is kept without the image under it.
"""

from enum import StrEnum
from typing import TypeVar

import msgspec

from faas.blobs.digest import Digest
from faas.errors import ManifestError

VERSION = 1
CHUNK_BYTES = 64 << 10
"""Small, so that 1 MB changed in a 100 MB file costs 1 MB and a little: forks share the rest."""
MANIFEST_BYTES_MAX = 512 << 20
_DIGEST_BYTES = 32


class EntryKind(StrEnum):
    """What an entry is."""

    FILE = "f"
    DIRECTORY = "d"
    SYMLINK = "l"
    WHITEOUT = "w"
    """What lies below under this name is gone."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run of raw bytes inside a pack."""

    digest: bytes
    """SHA-256 of the raw bytes."""
    pack: int
    """Index into `Manifest.packs`."""
    offset: int
    stored_bytes: int
    raw_bytes: int


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One path of a tree. Paths are relative, without `.` or `..`, sorted."""

    path: str
    kind: EntryKind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size_bytes: int = 0
    target: str = ""
    is_opaque: bool = False
    """A directory that hides whatever lies below it."""
    chunks: tuple[Chunk, ...] = ()

    def same_content(self, other: "Entry | None") -> bool:
        """Whether both say the same of this path, times and places of storage aside."""
        return other is not None and _identity(self) == _identity(other)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot, whole."""

    version: int = VERSION
    image_digest: str
    image: str = ""
    runtimes: tuple[str, ...] = ()
    """Which runtimes can restore it: any for files, one for memory."""
    config: dict[str, str] = {}
    """What a restore needs besides files: environment, working directory, command."""
    packs: tuple[Digest, ...] = ()
    sections: dict[str, tuple[Entry, ...]] = {}

    @property
    def has_memory(self) -> bool:
        """Whether processes were captured too."""
        return "memory" in self.sections

    @property
    def size_bytes(self) -> int:
        """Bytes of content, uncompressed."""
        return sum(e.size_bytes for entries in self.sections.values() for e in entries)


_Identity = tuple[EntryKind, int, int, int, int, str, bool, tuple[bytes, ...]]


def _identity(entry: Entry) -> _Identity:
    size = entry.size_bytes if entry.kind is EntryKind.FILE else 0
    hashes = tuple(chunk.digest for chunk in entry.chunks)
    return (
        entry.kind, entry.mode, entry.uid, entry.gid, size, entry.target, entry.is_opaque, hashes,
    )  # fmt: skip


_encoder = msgspec.msgpack.Encoder(order="sorted")
T = TypeVar("T")


def encode(manifest: Manifest) -> bytes:
    """Canonical bytes: sorted, so equal manifests are equal bytes."""
    return _encoder.encode(manifest)


def decode(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: it is not one, or one we do not understand.
    """
    try:
        manifest = msgspec.msgpack.decode(data, type=Manifest)
    except msgspec.MsgspecError as cause:
        raise ManifestError(f"not a snapshot manifest: {cause}") from cause
    if manifest.version != VERSION:
        raise ManifestError(
            f"this manifest has version {manifest.version}, this program reads {VERSION}",
            hint="restore it with the newer version that wrote it",
        )
    for entries in manifest.sections.values():
        _check_entries(entries, len(manifest.packs))
    return manifest


def _check_entries(entries: tuple[Entry, ...], packs: int) -> None:
    previous = ""
    for entry in entries:
        parts = entry.path.split("/")
        if entry.path <= previous or "" in parts or "." in parts or ".." in parts:
            raise ManifestError(f"entry {entry.path[:80]!r} is out of order or leads outside")
        if "\0" in entry.path or "\0" in entry.target:
            raise ManifestError("an entry's name holds a NUL")
        if any(not 0 <= chunk.pack < packs for chunk in entry.chunks):
            raise ManifestError(f"entry {entry.path[:80]!r} names a pack that is not listed")
        if not all(map(_is_sound, entry.chunks)):
            raise ManifestError(f"entry {entry.path[:80]!r} has a chunk that cannot be one")
        if sum(chunk.raw_bytes for chunk in entry.chunks) != (
            entry.size_bytes if entry.kind is EntryKind.FILE else 0
        ):
            raise ManifestError(f"entry {entry.path[:80]!r} does not add up")
        previous = entry.path


def _is_sound(chunk: Chunk) -> bool:
    return (
        len(chunk.digest) == _DIGEST_BYTES
        and 0 < chunk.raw_bytes <= CHUNK_BYTES
        and chunk.offset >= 0
        and chunk.stored_bytes > 0
    )
