"""Packs that several manifests name, in the one numbering of a new manifest."""

from collections.abc import Callable

import msgspec

from faas.blobs.digest import Digest
from faas.snapshots.changes import apply_layer, as_tree
from faas.snapshots.manifest import Entry, Manifest

Trees = dict[str, tuple[Entry, ...]]
"""Sections by name."""
Packed = tuple[Trees, tuple[Digest, ...]]
"""Sections, and the packs that their chunks' numbers mean."""


class PackNumbers:
    """Gives the packs of several manifests one numbering."""

    def __init__(self) -> None:
        self._numbers: dict[Digest, int] = {}

    def renumber(self, manifest: Manifest, section: str) -> dict[str, Entry]:
        """The section's tree, its chunks numbered alike."""
        numbers = [self._numbers.setdefault(p, len(self._numbers)) for p in manifest.packs]
        return {
            entry.path: _renumbered(entry, lambda old: numbers[old])
            for entry in manifest.sections.get(section, ())
        }

    def names(self) -> tuple[Digest, ...]:
        """The packs in their new order."""
        return tuple(self._numbers)


def _renumbered(entry: Entry, number: Callable[[int], int]) -> Entry:
    if not entry.chunks:
        return entry
    chunks = tuple(msgspec.structs.replace(c, pack=number(c.pack)) for c in entry.chunks)
    return msgspec.structs.replace(entry, chunks=chunks)


def stack(parent: Manifest, trees: Trees, packs: tuple[Digest, ...]) -> Packed:
    """Lay trees over the files of a parent, and name the packs of both."""
    below = as_tree(parent.sections.get("files", ()))
    offset = len(parent.packs)
    shifted = {
        name: tuple(_renumbered(entry, lambda old: old + offset) for entry in entries)
        for name, entries in trees.items()
    }
    layer = as_tree(shifted.get("files", ()))
    stacked = tuple(apply_layer(below, layer).values())
    return {**shifted, "files": stacked}, parent.packs + packs


def only_used(trees: Trees, packs: tuple[Digest, ...]) -> Packed:
    """Name each pack once, and none that is not needed: else a line of forks keeps all forever."""
    used = {
        packs[chunk.pack]
        for entries in trees.values()
        for entry in entries
        for chunk in entry.chunks
    }
    names = [name for name in dict.fromkeys(packs) if name in used]
    if len(names) == len(packs):
        return trees, packs
    numbers = {name: number for number, name in enumerate(names)}
    renumbered = {
        section: tuple(_renumbered(entry, lambda old: numbers[packs[old]]) for entry in entries)
        for section, entries in trees.items()
    }
    return renumbered, tuple(names)
