"""Committed state: manifests, chunks, diff, merge."""

from faas.snapshots.changes import Change, ChangeKind, Conflict, Merged, MergeStrategy
from faas.snapshots.portable import export_snapshot, import_snapshot
from faas.snapshots.store import SnapshotInfo, SnapshotRecord, SnapshotStore
from faas.snapshots.tree import Folder, Tars

__all__ = [
    "Change",
    "ChangeKind",
    "Conflict",
    "Folder",
    "MergeStrategy",
    "Merged",
    "SnapshotInfo",
    "SnapshotRecord",
    "SnapshotStore",
    "Tars",
    "export_snapshot",
    "import_snapshot",
]
