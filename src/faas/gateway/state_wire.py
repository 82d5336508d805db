"""What travels about snapshots, forks and merges: requests and answers, as types."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from faas.gateway.wire import ExecuteRequest, ExecutionView, Plain

REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SNAPSHOT = r"^(snap|exec)-[0-9a-hjkmnp-tv-z]{26}$"
CURSOR = r"^snap-[0-9a-hjkmnp-tv-z]{26}$"
CHILDREN_MAX = 100

StrategyName = Literal["intersection", "latest", "ours", "theirs", "union"]
Reference = Annotated[
    str, Meta(min_length=1, max_length=64, extra_json_schema={"pattern": REFERENCE})
]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Keep = Annotated[
    float,
    Meta(ge=1, le=10**10, description="Seconds until it is forgotten, unless a child lives."),
]
Tags = Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=32)]

Children = Annotated[list[ExecuteRequest], Meta(min_length=1, max_length=CHILDREN_MAX)]


class SnapshotRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A snapshot to be made."""

    container_id: Annotated[
        Reference,
        Meta(description="What to take it of: an execution, its sandbox, or an instance, by id."),
    ]
    memory: Annotated[
        bool,
        Meta(description="Its processes and their memory too; it must have been made for that."),
    ] = False
    name: Name | None = None
    description: Annotated[str, Meta(max_length=4096)] | None = None
    tags: Tags = []
    keep_seconds: Keep | None = None


class CheckpointRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a running execution is to be kept."""

    memory: Annotated[
        bool, Meta(description="Its processes and their memory too; else its files only.")
    ] = True
    stop: Annotated[
        bool,
        Meta(description="End it here, with reason `checkpointed`; it goes on from the snapshot."),
    ] = False
    name: Name | None = None
    description: Annotated[str, Meta(max_length=4096)] | None = None
    tags: Tags = []
    keep_seconds: Keep | None = None


class TagsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a snapshot shall be known by; what is not given stays."""

    name: Name | None = None
    description: Annotated[str, Meta(max_length=4096)] | None = None
    tags: Tags | None = None
    keep_seconds: (
        Annotated[
            float,
            Meta(ge=0, le=10**10, description="From now on, as when it was made; 0 keeps it."),
        ]
        | None
    ) = None


class SnapshotView(Struct, frozen=True, kw_only=True):
    """One snapshot."""

    id: str
    snapshot_id: str
    container_id: str
    """What it was taken of."""
    name: str | None
    description: str | None
    tags: list[str]
    parent: str | None
    image: str
    image_digest: str
    runtimes: list[str]
    has_memory: bool
    size_bytes: int
    stored_bytes: int
    """Bytes it added to the store, compressed."""
    created_at: datetime
    expires_at: datetime | None
    """When it is forgotten, unless a child of it lives."""


class ChangeView(Struct, frozen=True):
    """One path that differs."""

    path: str
    kind: Literal["added", "deleted", "modified"]
    size_before: int | None
    size_after: int | None


class DiffView(Struct, frozen=True):
    """What differs between the files of two snapshots."""

    before: str
    after: str
    changes: list[ChangeView]


class MergeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Branches to be made one."""

    branches: Annotated[
        list[Reference],
        Meta(min_length=2, max_length=CHILDREN_MAX, description="Executions or snapshots, by id."),
    ]
    strategy: Annotated[
        StrategyName, Meta(description="What to do where they changed the same path differently.")
    ] = "union"
    name: Name | None = None


class ConflictView(Struct, frozen=True):
    """A path that branches changed differently, and what was done."""

    path: str
    branches: list[str]
    resolution: str


class MergeView(Struct, frozen=True, kw_only=True):
    """What came of a merge: a snapshot to start from."""

    snapshot_id: str
    snapshot: SnapshotView
    parent: str | None
    applied: int
    """Paths that differ from the common parent."""
    conflicts: list[ConflictView]


class ForkRequest(ExecuteRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Children of one parent. Give `children`, or the fields of a single one here."""

    branch_from: Reference  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    """The parent: an execution, snapshot or instance."""
    children: (
        Annotated[list[ExecuteRequest], Meta(min_length=1, max_length=CHILDREN_MAX)] | None
    ) = None


class RaceRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Children of one parent, of which the first that passes wins."""

    branch_from: Reference
    children: Children
    check: Annotated[
        Annotated[Plain, Meta(min_length=1)] | None,
        Meta(description="A shell command run in a copy of a child's files: exit 0 is passing."),
    ] = None


class RaceView(Struct, frozen=True, kw_only=True):
    """Who won, and everybody as they ended."""

    winner: str | None
    """Id of the execution; null when nobody passed."""
    snapshot_id: str | None
    """The winner's files."""
    children: list[ExecutionView]


class GarbageView(Struct, frozen=True):
    """What a collection took away."""

    deleted: int


class VerifyView(Struct, frozen=True):
    """Every byte of it was read and is what it was."""

    snapshot_id: str
    ok: bool
