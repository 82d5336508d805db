"""What travels about instances: requests and answers, as types. See `wire` for the rest."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from faas.gateway.wire import (
    EnvName,
    EnvPair,
    IsolationName,
    NetworkName,
    Path,
    Plain,
    PullPolicyName,
    RegistryAuth,
    RuntimeName,
)

IdleActionName = Literal["delete", "pause", "pause_to_disk", "stop"]
InstanceStatus = Literal["creating", "destroyed", "failed", "paused", "running", "stopped"]

NAME = r"^(?!inst-|exec-|sbx-|snap-)[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ABSOLUTE = r"^(/[^\u0000/]{0,255})+$"

Seconds = Annotated[float, Meta(ge=1, le=31_536_000)]


class InstanceRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An instance to be made. Everything has a default."""

    image: (
        Annotated[
            str, Meta(min_length=1, max_length=512, extra_json_schema={"pattern": "^[!-~]+$"})
        ]
        | None
    ) = None
    snapshot_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None,
        Meta(description="Begin with these files; the image is the snapshot's."),
    ] = None
    memory: Annotated[
        bool,
        Meta(
            description="Its processes and their memory can be kept, as a snapshot or on disk while"
            " nobody uses it; with `snapshot_id`, those of the snapshot go on."
        ),
    ] = False
    name: Annotated[
        Annotated[str, Meta(pattern=NAME)] | None,
        Meta(description="Unique among the tenant's instances; stands for the id everywhere."),
    ] = None
    runtime: RuntimeName | None = None
    memory_mb: Annotated[int, Meta(ge=8)] | None = None
    cpu_cores: Annotated[float, Meta(ge=0.01)] | None = None
    pids_max: Annotated[int, Meta(ge=4)] | None = None
    disk_mb: Annotated[int, Meta(ge=1)] | None = None
    disk_gb: Annotated[
        Annotated[float, Meta(ge=0.001)] | None, Meta(description="Instead of `disk_mb`.")
    ] = None
    env_vars: Annotated[
        Annotated[
            dict[str, Plain],
            Meta(extra_json_schema={"propertyNames": {"pattern": r"^[A-Za-z_][A-Za-z0-9_.\-]*$"}}),
        ]
        | list[tuple[EnvName, Plain] | EnvPair]
        | None,
        Meta(description="Of every command in it; a command's own win."),
    ] = None
    working_dir: Path | None = None
    user: Annotated[
        Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9]{1,4}(:[0-9]{1,4})?$"})] | None,
        Meta(description="`uid` or `uid:gid`, of commands that name none."),
    ] = None
    network: NetworkName | None = None
    pull_policy: PullPolicyName | None = None
    registry_auth: RegistryAuth | None = None
    isolation: Annotated[
        IsolationName | None, Meta(description="The least isolation accepted; never lowered.")
    ] = None
    ttl_seconds: Annotated[
        Seconds | None, Meta(description="Deleted that long after it was made, whatever it does.")
    ] = None
    idle_seconds: Annotated[
        Seconds | None, Meta(description="Put to sleep when no command ran in it for so long.")
    ] = None
    idle_action: Annotated[
        IdleActionName,
        Meta(description="How it is put to sleep. Its next use wakes it, unless deleted."),
    ] = "stop"
    lease_seconds: Annotated[
        Seconds | None,
        Meta(description="Put away by `idle_action` unless its lease is renewed in time."),
    ] = None
    persistent: Annotated[
        bool | None, Meta(description="Said by older clients; every instance is.")
    ] = None
    enable_ssh: Annotated[bool | None, Meta(description="Only false: there is no SSH.")] = None


class InstanceView(Struct, frozen=True, kw_only=True):
    """One instance."""

    id: str
    instance_id: str
    name: str | None
    status: InstanceStatus
    memory: bool
    """Whether its memory can be kept."""
    on_disk: bool
    """Paused with its memory on disk: it holds nothing of the machine."""
    asleep: bool
    """Stopped or paused for idleness; its next use wakes it."""
    problem: str | None
    """Why it failed."""
    image: str
    image_digest: str
    container_id: str | None
    runtime_used: str | None
    isolation: str
    network: NetworkName
    created_at: datetime
    changed_at: datetime
    cpu_cores: float
    memory_mb: int
    disk_mb: int
    snapshot_id: str | None
    """Its files while it is stopped."""
    from_snapshot: str | None
    """Its files at the beginning."""
    ttl_seconds: float | None
    idle_seconds: float | None
    idle_action: IdleActionName
    lease_seconds: float | None
    lease_until: datetime | None
    ports: list[int]
    """Those that are exposed."""


class ResizeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other limits; what is not named stays."""

    memory_mb: Annotated[int, Meta(ge=8)] | None = None
    cpu_cores: Annotated[float, Meta(ge=0.01)] | None = None
    pids_max: Annotated[int, Meta(ge=4)] | None = None
    disk_mb: Annotated[int, Meta(ge=1)] | None = None


class LeaseRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hold an instance for so long from now; null ends the lease."""

    seconds: Seconds | None


class InstanceResources(Struct, frozen=True):
    """What an instance may use."""

    cpu_cores: float
    memory_mb: int
    disk_gb: float


class InstanceInfoView(Struct, frozen=True, kw_only=True):
    """One instance in the operator API's shape."""

    id: str
    status: InstanceStatus
    created_at: datetime
    resources: InstanceResources
    exposed_ports: dict[str, str]


class FileView(Struct, frozen=True, kw_only=True):
    """One directory entry."""

    name: str
    kind: Literal["directory", "file", "other", "symlink"]
    size_bytes: int
    mode: str
    """Octal."""
    uid: int
    gid: int
    modified_at: datetime
    link_target: str | None


class DirectoryView(Struct, frozen=True):
    """What is in a directory, by name."""

    path: str
    entries: list[FileView]


class MoveRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give a file or directory another name."""

    source: Path
    target: Path


class MakeDirectoryRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a directory."""

    path: Path
    parents: bool = True


class WatchReadyEvent(Struct, frozen=True):
    """`ready` of a watch: from now on every change that lasts is told."""

    path: str


class WatchEndEvent(Struct, frozen=True):
    """`end` of a watch: nothing more comes."""

    reason: Literal["deleted"] = "deleted"
