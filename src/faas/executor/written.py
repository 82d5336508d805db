"""What a sandbox wrote, read from its layer, in the form that reading it as a tar gives.

A layer names folders that were only passed through and marks of what lies nowhere below; a snapshot
names what differs from the image and nothing else. So two states that are the same have the same
entries whichever way they were read, and a diff shows what was changed.
"""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from faas.executor.files_state import LINKS_OF_HOST, MADE_IN_HOST, OF_HOST, OF_THE_MACHINE
from faas.sandbox.layers import Written
from faas.sandbox.protocols import RootFilesystem
from faas.snapshots import Folder
from faas.snapshots.manifest import Entry, EntryKind

LENGTH_FACTOR = 4
"""A file with holes may say it is longer than the disk; past this it is refused."""


def folder_of(written: Written, root: RootFilesystem, *, disk_bytes: int) -> Folder:
    """What of a layer belongs to a snapshot."""
    return Folder(
        written.top,
        written.first_uid,
        skip=OF_THE_MACHINE if root.path is not None else OF_THE_MACHINE | OF_HOST,
        bytes_max=disk_bytes * LENGTH_FACTOR,
    )


def settled_by(root: RootFilesystem) -> Callable[[Mapping[str, Entry]], dict[str, Entry]]:
    """What brings a tree over that image into its one form."""

    def settle(tree: Mapping[str, Entry]) -> dict[str, Entry]:
        return _Settling(tree, Image(root.path)).done()

    return settle


class Image:
    """Looks at the tree a sandbox started from; a link in it leads nowhere."""

    def __init__(self, tree: Path | None) -> None:
        self._tree = tree
        self._folders: dict[str, bool] = {"": True}

    def find(self, path: str) -> tuple[int, int, int] | None:
        """Return the mode with its kind, the owner and the group of what is there."""
        if self._tree is None:
            mode = MADE_IN_HOST.get(path)
            return None if mode is None else (stat.S_IFDIR | mode, 0, 0)
        if not self._is_folder(path.rpartition("/")[0]):
            return None
        try:
            found = os.lstat(self._tree / path)
        except OSError:
            return None
        return found.st_mode, found.st_uid, found.st_gid

    def has_link(self, path: str, target: str) -> bool:
        """Whether it is a link that sandboxes of `host` have from the start."""
        return self._tree is None and LINKS_OF_HOST.get(path) == target

    def names(self, path: str) -> list[str]:
        """List what is in a folder."""
        if self._tree is None:
            return [p for p in MADE_IN_HOST if p.rpartition("/")[0] == path]
        if not self._is_folder(path):
            return []
        prefix = f"{path}/" if path else ""
        return [prefix + found.name for found in (self._tree / path).iterdir()]

    def folder(self, path: str) -> tuple[int, int, int]:
        """Return mode, owner and group of a folder; usual ones when it has none."""
        found = self.find(path)
        if found is None or not stat.S_ISDIR(found[0]):
            return 0o755, 0, 0
        return stat.S_IMODE(found[0]), found[1], found[2]

    def _is_folder(self, path: str) -> bool:
        known = self._folders.get(path)
        if known is None:
            found = self.find(path)
            known = self._folders[path] = found is not None and stat.S_ISDIR(found[0])
        return known


class _Settling:
    def __init__(self, tree: Mapping[str, Entry], image: Image) -> None:
        self._tree = tree
        self._image = image
        self._covered: set[str] = set()
        """Folders that hide what the image has in them."""
        self._result: dict[str, Entry] = {}

    def done(self) -> dict[str, Entry]:
        for path, entry in self._tree.items():
            if entry.kind is EntryKind.WHITEOUT:
                if self._image.find(path) is not None:
                    self._result[path] = entry
            elif entry.kind is EntryKind.DIRECTORY:
                self._take_folder(path, entry)
            elif not self._image.has_link(path, entry.target):
                self._result[path] = entry
        return self._result

    def _take_folder(self, path: str, entry: Entry) -> None:
        if entry.is_opaque or path.rpartition("/")[0] in self._covered:
            self._covered.add(path)
            for name in self._image.names(path):
                if name not in self._tree:
                    self._result[name] = Entry(name, EntryKind.WHITEOUT)
        found = self._image.find(path)
        is_the_images = found == (stat.S_IFDIR | entry.mode, entry.uid, entry.gid)
        if not is_the_images:
            self._result[path] = replace(entry, is_opaque=False)
