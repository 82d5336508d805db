"""The small files of the store, each replaced in one step.

`refs/<name>.json` says which tree a name stands for; `trees/<digest>/config.json` says how to run
in that tree. A reader sees the old file or the new one, also when the machine stops in between.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from faas.errors import ManifestError
from faas.images.config import ImageConfig
from faas.images.reference import HOST

T = TypeVar("T")


class TreeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept beside a tree."""

    digest: str
    config: ImageConfig
    size_bytes: int
    entries: int
    skipped: int = 0
    """Device nodes and FIFOs that were left out."""


class RefRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a name."""

    name: str
    """The normal form."""
    digest: str
    """The tree's."""
    source: str
    """What it was imported from: `directory`, `tar`, `oci-layout`, `docker-save`, `registry`."""
    imported_at: datetime
    manifest_digest: str | None = None
    """The registry's, where it came from one."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image as listed."""

    reference: str
    """The short form people know."""
    digest: str
    size_bytes: int | None = None
    created_at: datetime | None = None
    source: str = HOST
    manifest_digest: str | None = None


@dataclass(frozen=True, slots=True)
class ImageReclaim:
    """What a start found half done and took away."""

    imports: int = 0
    trees: int = 0


def ref_path(refs: Path, name: str) -> Path:
    """Where the record of a name lives."""
    return refs / f"{quote(name, safe='')}.json"


def read_record(path: Path, kind: type[T]) -> T | None:
    """Read a record; None when there is none.

    Raises:
        ManifestError: there is one, and it is damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as failure:
        raise ManifestError(
            f"the image record {path.name} is damaged",
            hint="faas images remove NAME, then import it again",
        ) from failure


def all_refs(refs: Path) -> Iterator[RefRecord]:
    """Read the record of every name, in order."""
    for path in sorted(refs.glob("*.json")):
        record = read_record(path, RefRecord)
        if record is not None:
            yield record


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Put a record in place of the one before, durably."""
    fresh = path.with_name(f".{path.name[-200:]}.new")
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
