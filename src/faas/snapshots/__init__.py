"""Committed state: manifests, chunks, diff, merge."""

from faas.snapshots.changes import Change, ChangeKind, Conflict, Merged, MergeStrategy
from faas.snapshots.portable import Export, exported, import_snapshot
from faas.snapshots.records import FORKED, SnapshotInfo, SnapshotRecord
from faas.snapshots.store import SnapshotStore
from faas.snapshots.tree import Folder, Tars

__all__ = [
    "FORKED",
    "Change",
    "ChangeKind",
    "Conflict",
    "Export",
    "Folder",
    "MergeStrategy",
    "Merged",
    "SnapshotInfo",
    "SnapshotRecord",
    "SnapshotStore",
    "Tars",
    "exported",
    "import_snapshot",
]
