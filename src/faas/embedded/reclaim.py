"""Takes away what a killed gateway left: processes, control groups, directories."""

import contextlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from faas.embedded.cgroups import Cgroups, Leaf
from faas.embedded.freezer import Freezer
from faas.embedded.run_dir import run_dirs
from faas.launcher import SPARE_PREFIX
from faas.sandbox.protocols import ReclaimReport


@dataclass(slots=True)
class _Count:
    sandboxes: int = 0
    processes: int = 0
    cgroups: int = 0
    files: int = 0


def reclaim(
    run_parent: Path,
    cgroups: Cgroups,
    freezer: Freezer,
    *,
    keep: AbstractSet[str],
    spare_prefix: str | None = None,
) -> ReclaimReport:
    """Take away every sandbox below `run_parent` and every group of ours that is not kept.

    Groups with the prefix of the living launcher's spares are its own.

    The directory goes last: a crash in here is found and finished by the next start.
    """
    count = _Count()
    for run_dir in run_dirs(run_parent):
        if run_dir.sandbox_id in keep:
            continue
        count.sandboxes += 1
        meta = run_dir.meta()
        freezer.thaw(run_dir.sandbox_id, meta.leaf if meta else Leaf())
        count.processes += run_dir.kill()
        for leaf in (meta.leaf if meta else Leaf(), cgroups.leaf(run_dir.sandbox_id)):
            _remove(cgroups, leaf, count)
        count.files += run_dir.remove()
    for name in cgroups.names() - set(keep):
        is_spare = name.startswith(SPARE_PREFIX)
        if is_spare and spare_prefix is not None and name.startswith(spare_prefix):
            continue
        # Spares of a launcher that is gone were nobody's processes.
        _remove(cgroups, cgroups.leaf(name), _Count() if is_spare else count)
    freezer.forget_others(keep)
    # Mounts live in the sandboxes' own namespaces and have gone with their last process.
    return ReclaimReport(count.sandboxes, count.processes, count.cgroups, 0, count.files)


def _remove(cgroups: Cgroups, leaf: Leaf, count: _Count) -> None:
    there = {path for path in map(Path, leaf.directories.values()) if path.is_dir()}
    if not there:
        return
    count.processes += cgroups.kill(leaf)
    if cgroups.remove(leaf):
        count.cgroups += len(there)
    ours = {Path(path).parent for path in cgroups.leaf("any").directories.values()}
    for parent in {path.parent for path in there} - ours:
        # A gateway that was started from another group left its own parent there.
        with contextlib.suppress(OSError):
            parent.rmdir()
