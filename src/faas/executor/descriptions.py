"""What is known of a snapshot that is to be made of an execution."""

from dataclasses import dataclass

import msgspec

from faas.executor.active import Active
from faas.executor.keeping import Subject
from faas.executor.parking import Parked
from faas.ids import SnapshotId
from faas.model import ExecutionSpec
from faas.sandbox.protocols import RootFilesystem
from faas.snapshots import SnapshotInfo


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a snapshot that is to be made."""

    name: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()


def of_parked(parked: Parked, wanted: Wanted) -> SnapshotInfo:
    """Describe the files of one that has ended."""
    return SnapshotInfo(
        tenant=parked.tenant,
        image_digest=parked.root.digest,
        image=parked.spec.image,
        runtimes=(parked.sandbox.runtime,),
        name=wanted.name,
        description=wanted.description,
        tags=wanted.tags,
        parent=_snapshot_id(parked.spec.snapshot_id),
    )


def of_active(active: Active, wanted: Wanted) -> SnapshotInfo:
    """Describe the files of one that has its sandbox."""
    sandbox, spec = active.sandbox, active.entry.spec
    assert sandbox is not None  # noqa: S101  the callers looked
    return SnapshotInfo(
        tenant=active.entry.tenant,
        image_digest=sandbox.image_digest,
        image=spec.image,
        runtimes=(sandbox.runtime,),
        name=wanted.name,
        description=wanted.description,
        tags=wanted.tags,
        parent=_snapshot_id(spec.snapshot_id),
    )


def subject_of(
    root: RootFilesystem, spec: ExecutionSpec, info: SnapshotInfo, alias: str | None = None
) -> Subject:
    """Say what is to be kept of it."""
    info = msgspec.structs.replace(info, config=config_of(spec))
    return Subject(root, info, spec.limits.disk_bytes, alias)


def config_of(spec: ExecutionSpec) -> dict[str, str]:
    """Return what a child inherits besides files."""
    config = {"env": msgspec.json.encode(spec.env).decode()}
    if spec.working_dir is not None:
        config["working_dir"] = spec.working_dir
    if spec.user is not None:
        config["user"] = spec.user
    return config


def _snapshot_id(text: str | None) -> SnapshotId | None:
    return None if text is None else SnapshotId(text)
