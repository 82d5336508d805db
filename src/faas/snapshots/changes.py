"""What differs between two trees, what a layer makes of a tree, and how branches become one again.

All of this works on manifests alone: no content is read or moved, so a merge of two 100 MB states
that differ in ten files costs ten look-ups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from msgspec.structs import replace

from faas.snapshots.manifest import Entry, EntryKind

Tree = dict[str, Entry]


class ChangeKind(StrEnum):
    """What happened to a path."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs."""

    path: str
    kind: ChangeKind
    before: Entry | None
    after: Entry | None


class MergeStrategy(StrEnum):
    """What to do where branches changed the same path differently."""

    UNION = "union"
    """Keep every version: the first under its name, each other as `NAME.from-BRANCH`."""
    INTERSECTION = "intersection"
    """Take only what all branches changed alike; everything else stays as in the parent."""
    LATEST = "latest"
    """Take the version that was modified last."""
    OURS = "ours"
    """Take the first branch's."""
    THEIRS = "theirs"
    """Take the last branch's."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A path that branches changed differently, and what was done."""

    path: str
    branches: tuple[str, ...]
    resolution: str


@dataclass(frozen=True, slots=True)
class Merged:
    """The tree that came out, and what could not be decided by itself."""

    tree: Tree
    conflicts: tuple[Conflict, ...]
    applied: int
    """Paths that differ from the parent."""


def as_tree(entries: Sequence[Entry]) -> Tree:
    """Look up by path."""
    return {entry.path: entry for entry in entries}


def diff(before: Tree, after: Tree) -> list[Change]:
    """Every path that differs, sorted. Times alone are no difference; modes and owners are."""
    changes: list[Change] = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is None and new is not None:
            changes.append(Change(path, ChangeKind.ADDED, None, new))
        elif new is None:
            changes.append(Change(path, ChangeKind.DELETED, old, None))
        elif old is not None and not new.same_content(old):
            changes.append(Change(path, ChangeKind.MODIFIED, old, new))
    return changes


def apply_layer(below: Tree, layer: Tree) -> Tree:
    """Stack a writable layer on what it was written over, both relative to the same image.

    A whiteout hides what is below it and stays, because the image may have that path too.
    """
    hidden = [p for p, e in layer.items() if e.is_opaque or e.kind is not EntryKind.DIRECTORY]
    covers = set(hidden)
    kept = {p: e for p, e in below.items() if not _is_under(p, covers)}
    for path, entry in layer.items():
        old = below.get(path)
        if old is not None and entry.kind is EntryKind.DIRECTORY and _hides(old):
            kept[path] = replace(entry, is_opaque=True)
        else:
            kept[path] = entry
    return dict(sorted(kept.items()))


def _hides(old: Entry) -> bool:
    """Whether a folder made in its place hides what the image has there, as it did."""
    return old.is_opaque or old.kind is not EntryKind.DIRECTORY


def _is_under(path: str, covers: set[str]) -> bool:
    end = path.find("/")
    while end != -1:
        if path[:end] in covers:
            return True
        end = path.find("/", end + 1)
    return False


def merge(base: Tree, branches: Mapping[str, Tree], strategy: MergeStrategy) -> Merged:
    """Three-way merge of any number of branches against their common parent."""
    changes = {name: {c.path: c for c in diff(base, tree)} for name, tree in branches.items()}
    paths = sorted({path for changed in changes.values() for path in changed})
    result = dict(base)
    conflicts: list[Conflict] = []
    for path in paths:
        versions = {name: changed[path] for name, changed in changes.items() if path in changed}
        if not _agree(versions):
            conflicts.append(_resolve(result, path, versions, strategy))
        elif strategy is not MergeStrategy.INTERSECTION or len(versions) == len(branches):
            _put(result, path, next(iter(versions.values())).after)
    known = set(base).union(*branches.values())
    conflicts += _repair(result, known)
    tree = dict(sorted(result.items()))
    return Merged(tree, tuple(conflicts), len(diff(base, tree)))


def _agree(versions: dict[str, Change]) -> bool:
    first, *others = (change.after for change in versions.values())
    return all(other is None if first is None else first.same_content(other) for other in others)


def _resolve(
    result: Tree, path: str, versions: dict[str, Change], strategy: MergeStrategy
) -> Conflict:
    names = tuple(versions)
    if strategy is MergeStrategy.INTERSECTION:
        return Conflict(path, names, "kept the parent's")
    if strategy is MergeStrategy.UNION:
        return _keep_all(result, path, versions)
    if strategy is MergeStrategy.LATEST:
        winner = max(names, key=lambda n: _modified(versions[n]))
    else:
        winner = names[0] if strategy is MergeStrategy.OURS else names[-1]
    _put(result, path, versions[winner].after)
    return Conflict(path, names, f"took {winner}'s")


def _keep_all(result: Tree, path: str, versions: dict[str, Change]) -> Conflict:
    present = {name: c.after for name, c in versions.items() if c.after is not None}
    first, *others = present
    _put(result, path, present[first])
    kept = [path]
    for name in others:
        entry = present[name]
        if entry.same_content(present[first]) or entry.kind is EntryKind.DIRECTORY:
            continue
        aside = f"{path}.from-{name}"
        result[aside] = replace(entry, path=aside)
        kept.append(aside)
    return Conflict(path, tuple(versions), "kept " + ", ".join(kept))


def _modified(change: Change) -> int:
    return change.after.mtime_ns if change.after else 0


def _put(result: Tree, path: str, entry: Entry | None) -> None:
    if entry is None:
        result.pop(path, None)
    else:
        result[path] = entry


def _repair(result: Tree, known: set[str]) -> list[Conflict]:
    """A file whose folder another branch deleted or made a file: bring the folder back, say so.

    A folder that no tree lists is the image's own and is left to it.
    """
    conflicts: list[Conflict] = []
    for path in sorted(result):
        end = path.find("/")
        while end != -1:
            folder = path[:end]
            above = result.get(folder)
            if above is None and folder in known:
                result[folder] = Entry(folder, EntryKind.DIRECTORY, 0o755)
            elif above is not None and above.kind is not EntryKind.DIRECTORY:
                aside = f"{folder}.was-a-file"
                result[aside] = replace(above, path=aside)
                result[folder] = Entry(folder, EntryKind.DIRECTORY, 0o755)
                text = f"one branch made it a file, another a folder: kept {folder}, {aside}"
                conflicts.append(Conflict(folder, (), text))
            end = path.find("/", end + 1)
    return conflicts
