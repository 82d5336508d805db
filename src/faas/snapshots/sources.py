"""What a snapshot's sections are read from."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO

from faas.snapshots.listed import Listed, Packing
from faas.snapshots.manifest import Entry
from faas.snapshots.tree import Folder, Tars, from_directory, from_listed, from_tar, from_tars

Source = Path | Folder | Listed | Tars | IO[bytes]
"""A folder, a tree that was read already, an opened tar, or one for each place."""


def read(source: Source, packer: Packing, *, shift: int) -> tuple[Entry, ...]:
    """Take a source in; `shift` is taken from every owner in a folder given by its path."""
    if isinstance(source, Path):
        return from_directory(Folder(source, shift), packer)
    if isinstance(source, Folder):
        return from_directory(source, packer)
    if isinstance(source, Listed):
        return from_listed(source, packer)
    if isinstance(source, Tars):
        return from_tars(source, packer)
    return from_tar(source, packer)


def rewind(sources: Mapping[str, Source]) -> None:
    """Have them read once more from their beginning."""
    for source in sources.values():
        if isinstance(source, (Path, Folder, Listed)):
            continue
        for tar in (part for _, part in source.parts) if isinstance(source, Tars) else (source,):
            tar.seek(0)
