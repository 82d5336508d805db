"""What travels: the JSON of requests and answers, as types.

`strict` decodes requests and names every fault; `specs` turns a request into a
`model.ExecutionSpec`; `views` turns a record into an answer. `openapi` reads the same types, so the
document cannot differ. Both spellings of the original are answered: `stdout`/`output`,
`stderr`/`logs`, `request_id`/`execution_id`.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

RuntimeName = Literal["auto", "docker", "embedded", "firecracker", "microvm"]
ModeName = Literal["branched", "cached", "checkpointed", "ephemeral", "persistent"]
NetworkName = Literal["egress", "none"]
DependencyCacheName = Literal["cargo", "go", "npm", "pip"]
IsolationName = Literal["container", "gvisor", "microvm", "none", "userns"]
StateName = Literal["failed", "finished", "queued", "running"]
StreamName = Literal["stderr", "stdout"]
PullPolicyName = Literal["always", "missing", "never"]
ReasonName = Literal[
    "cancelled", "checkpointed", "exited", "out_of_memory", "signalled", "timed_out"
]

_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_NO_NUL = r"^[^\u0000]*$"
_ABSOLUTE = r"^(/[^\u0000/]{0,255})+$"
_FILE = r"^/?([^\u0000/.][^\u0000/]{0,254}/)*[^\u0000/.][^\u0000/]{0,254}$"
_NAME = r"^[!-~]+$"
_ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_.\-]*$"
_ENV_PAIR = r"^[A-Za-z_][A-Za-z0-9_.\-]*=[^\u0000]*$"
_USER = "^[0-9]{1,4}(:[0-9]{1,4})?$"
_OCTAL = "^[0-7]{1,4}$"


def _says(pattern: str, **more: object) -> dict[str, object]:
    return {"pattern": pattern, **more}


Path = Annotated[str, Meta(min_length=1, max_length=4096, extra_json_schema=_says(_ABSOLUTE))]
Count = Annotated[int, Meta(ge=0)]
Base64 = Annotated[str, Meta(extra_json_schema=_says(_BASE64, contentEncoding="base64"))]
EnvName = Annotated[str, Meta(extra_json_schema=_says(_ENV_NAME))]
EnvPair = Annotated[str, Meta(extra_json_schema=_says(_ENV_PAIR))]
Plain = Annotated[str, Meta(extra_json_schema=_says(_NO_NUL))]
"""Text without NUL. What `_says` adds is for the document; `specs` refuses in better words."""
Byte = Annotated[int, Meta(ge=0, le=255)]


class Base64Payload(Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that are not text."""

    base64: Base64


class FileField(Struct, frozen=True, forbid_unknown_fields=True):
    """One file placed in the sandbox before the command starts. Give `content` or
    `content_base64`."""

    path: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=4096,
            description="Absolute, or relative to the working directory; no `..`.",
            extra_json_schema=_says(_FILE),
        ),
    ]
    content: str | None = None
    content_base64: Base64 | None = None
    mode: Annotated[
        Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": 0o7777})]
        | Annotated[str, Meta(extra_json_schema=_says(_OCTAL))],
        Meta(description='Permission bits: a number, or octal text such as "0755".'),
    ] = 0o644


class RegistryAuth(Struct, frozen=True, forbid_unknown_fields=True):
    """Credentials for the image's registry, used once and kept nowhere."""

    username: Annotated[str, Meta(min_length=1, max_length=256)]
    password: Annotated[str, Meta(min_length=1, max_length=65536)]

    def __repr__(self) -> str:
        return "RegistryAuth(...)"


Command = (
    Annotated[Plain, Meta(min_length=1)]
    | Annotated[
        list[Plain],
        Meta(
            min_length=1,
            extra_json_schema={
                "prefixItems": [{"type": "string", "minLength": 1, "pattern": _NO_NUL}]
            },
        ),
    ]
)


class ExecuteRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One command to run. Everything but `command` has a default."""

    command: Annotated[
        Command | None,
        Meta(
            description="Text is run by `sh -c`; a list is the argument vector itself. Left out"
            " only with `memory` and a parent: then the parent's processes go on."
        ),
    ] = None
    image: (
        Annotated[str, Meta(min_length=1, max_length=512, extra_json_schema=_says(_NAME))] | None
    ) = None
    runtime: Annotated[
        RuntimeName | None, Meta(description="`firecracker` is another word for `microvm`.")
    ] = None
    mode: ModeName | None = None
    timeout_ms: Annotated[int, Meta(ge=1)] | None = None
    memory_mb: Annotated[int, Meta(ge=8)] | None = None
    cpu_cores: Annotated[float, Meta(ge=0.01)] | None = None
    pids_max: Annotated[int, Meta(ge=4)] | None = None
    disk_mb: Annotated[int, Meta(ge=1)] | None = None
    output_limit: (
        Annotated[int, Meta(ge=0, description="Bytes kept of stdout, and of stderr.")] | None
    ) = None
    env_vars: Annotated[
        Annotated[
            dict[str, Plain], Meta(extra_json_schema={"propertyNames": {"pattern": _ENV_NAME}})
        ]
        | list[tuple[EnvName, Plain] | EnvPair]
        | None,
        Meta(description="An object, a list of pairs, or a list of `K=V`."),
    ] = None
    working_dir: Path | None = None
    payload: Annotated[
        str | list[Byte] | Base64Payload | None,
        Meta(description="Given to the command as stdin: text, a list of bytes, or base64."),
    ] = None
    payload_base64: Base64 | None = None
    stdin_open: Annotated[
        bool, Meta(description="Keep stdin open for `POST /api/v1/executions/{id}/stdin`.")
    ] = False
    files: Annotated[list[FileField], Meta(max_length=1000)] | None = None
    archive_base64: Annotated[
        Base64 | None,
        Meta(description="A tar unpacked into the working directory before the command starts."),
    ] = None
    cache_key: Annotated[
        str | None, Meta(description="Has no effect in mode `ephemeral`, which is never cached.")
    ] = None
    caches: Annotated[
        Annotated[list[DependencyCacheName], Meta(max_length=16)] | None,
        Meta(
            description="What these tools fetched in this tenant's earlier runs is put in; what a"
            " command that succeeds adds is kept. Not in mode `persistent`."
        ),
    ] = None
    cache_write: Annotated[
        bool, Meta(description="False: nothing of this run is kept in `caches`.")
    ] = True
    snapshot_id: str | None = None
    branch_from: str | None = None
    memory: Annotated[
        bool,
        Meta(
            description="Keep live memory and processes too: they can be checkpointed while it"
            " runs, and those of a parent go on when no command is given."
        ),
    ] = False
    checkpoint_after_ms: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Of mode `checkpointed` with `memory`: run for so long, then keep memory"
            " and files and end with reason `checkpointed`."
        ),
    ] = None
    instance_id: Annotated[
        Annotated[
            str, Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
        ]
        | None,
        Meta(
            description="Of mode `persistent`: the instance it runs in, by id or name. A name that"
            " nobody has, or none at all, makes one."
        ),
    ] = None
    user: Annotated[
        Annotated[str, Meta(extra_json_schema=_says(_USER))] | None,
        Meta(description="`uid` or `uid:gid`, numbers below 65536."),
    ] = None
    tty: bool = False
    network: NetworkName | None = None
    isolation: Annotated[
        IsolationName | None, Meta(description="The least isolation accepted; never lowered.")
    ] = None
    pull_policy: Annotated[
        PullPolicyName | None,
        Meta(description="When the image is fetched: `missing`, `always` or `never`."),
    ] = None
    pull_timeout_ms: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="How long finding and fetching the image may take."),
    ] = None
    registry_auth: RegistryAuth | None = None
    wait: Annotated[
        bool, Meta(description="False: answer 202 as soon as the execution is stored.")
    ] = True


class StdinRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Input for a running command. Give `data` (text) or `data_base64`, or neither to only
    close."""

    data: str | None = None
    data_base64: Base64 | None = None
    offset: Annotated[
        Count | None,
        Meta(description="Where `data` begins, counted from the start; a repeat is harmless."),
    ] = None
    last: Annotated[bool, Meta(description="Close stdin afterwards.")] = False


class StdinView(Struct, frozen=True):
    """How far the command has now been given its input."""

    execution_id: str
    offset: int


class TimingsView(Struct, frozen=True):
    """Where the time went, milliseconds by phase."""

    queue_ms: float
    sandbox_ms: float
    exec_ms: float
    collect_ms: float


class FailureView(Struct, frozen=True):
    """Why we failed; the command is not to blame."""

    code: str
    message: str
    hint: str | None


class CacheReportView(Struct, frozen=True):
    """What came of one dependency cache after the run."""

    name: DependencyCacheName
    added: int
    """Files that were new and are kept."""
    added_bytes: int
    refused: int
    """Links, devices and the like, which are never kept."""
    problem: str | None
    """Why nothing was kept."""


class ExecutionView(Struct, frozen=True, kw_only=True):
    """One execution. The fields of the result are null until it is `finished`."""

    request_id: str
    execution_id: str
    container_id: str | None = None
    state: StateName
    mode: ModeName
    exit_code: int | None = None
    signal: int | None = None
    reason: ReasonName | None = None
    stdout: str | None = None
    output: str | None = None
    stderr: str | None = None
    logs: str | None = None
    stdout_base64: Base64 | UnsetType = UNSET
    """Only when stdout is not valid UTF-8; `stdout` then has U+FFFD in places."""
    stderr_base64: Base64 | UnsetType = UNSET
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    stdout_total_bytes: int | None = None
    stderr_total_bytes: int | None = None
    duration_ms: int | None = None
    error: str | None = None
    cpu_ms: float | None = None
    memory_peak_bytes: int | None = None
    runtime_used: str | None = None
    runtime_reason: str | None = None
    """Why it ran there: `asked for`, or how `auto` chose."""
    isolation: str | None = None
    image: str
    image_digest: str | None = None
    cache_hit: bool = False
    snapshot_id: str | None = None
    instance_id: str | None = None
    caches: list[CacheReportView] | UnsetType = UNSET
    """Only when the request named some."""
    timings: TimingsView | None = None
    failure: FailureView | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class ExecutionSummary(Struct, frozen=True, kw_only=True):
    """One execution in a list: everything but what it said."""

    request_id: str
    execution_id: str
    state: StateName
    mode: ModeName
    command: list[str]
    """Cut to 200 characters an argument and 8 arguments."""
    image: str
    exit_code: int | None
    reason: ReasonName | None
    duration_ms: int | None
    runtime_used: str | None
    failure: FailureView | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class ExecutionPage(Struct, frozen=True):
    """Some executions, newest first."""

    executions: list[ExecutionSummary]
    next_cursor: str | None
    """Give it as `cursor` to go on; null at the end."""


class LogsView(Struct, frozen=True, kw_only=True):
    """A piece of one output stream."""

    execution_id: str
    stream: StreamName
    offset: int
    next_offset: int
    ended: bool
    """Whether this piece reaches the end and nothing will follow it."""
    data: Base64
    text: str
    """The same with U+FFFD where it is not UTF-8."""


class OutputEvent(Struct, frozen=True):
    """`stdout` and `stderr` events of a log stream."""

    stream: StreamName
    offset: int
    data: Base64
    text: str


class ExitEvent(Struct, frozen=True, kw_only=True):
    """The last event of a log stream, `exit`."""

    execution_id: str
    state: StateName
    exit_code: int | None
    signal: int | None
    reason: ReasonName | None
    duration_ms: int | None
    stdout_total_bytes: int | None
    stderr_total_bytes: int | None
    stdout_truncated: bool
    stderr_truncated: bool
    error: str | None
    failure: FailureView | None


class Component(Struct, frozen=True, omit_defaults=True):
    """One runtime's last probe. The details are for those who have a key."""

    status: Literal["available", "unavailable"]
    isolation: str = ""
    limits: str = ""
    detail: str = ""
    hint: str | None = None


class HealthView(Struct, frozen=True, kw_only=True):
    """Whether this gateway can run anything."""

    status: Literal["healthy", "unhealthy"]
    timestamp: datetime
    version: str
    uptime_ms: int
    embedded: bool
    docker: bool
    firecracker: bool
    components: dict[str, Component]


class PrewarmRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sandboxes to be made ready before they are asked for."""

    image: Annotated[str, Meta(min_length=1, max_length=512, extra_json_schema=_says(_NAME))]
    count: Annotated[
        Annotated[int, Meta(ge=0)],
        Meta(description="How many; it replaces what this tenant asked for before. 0 ends it."),
    ]
    runtime: RuntimeName | None = None
    network: NetworkName | None = None
    isolation: Annotated[
        IsolationName | None, Meta(description="The least isolation accepted; never lowered.")
    ] = None
    disk_mb: Annotated[int, Meta(ge=1)] | None = None
    keep_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=86_400)],
        Meta(description="So long that many are kept ready; what is taken is made again."),
    ] = 600
    timeout_ms: Annotated[
        Annotated[int, Meta(ge=0, le=600_000)],
        Meta(description="Answer 202 with what is ready when it takes longer; 0: at once."),
    ] = 60_000


class PrewarmView(Struct, frozen=True, kw_only=True):
    """How a pre-warming stands."""

    image: str
    image_digest: str
    runtime: str
    runtime_reason: str
    isolation: IsolationName | None
    """The demand its sandboxes are made by; null for the runtime's ordinary way."""
    requested: int
    ready: int
    """Of the template, whoever wanted them."""
    making: int
    target: int
    complete: bool
    """Whether all that was asked for was ready at once."""
    why: str
    duration_ms: float
    expires_at: datetime


class PoolView(Struct, frozen=True, kw_only=True):
    """Warm sandboxes of one template."""

    runtime: str
    image: str
    """The name it was last asked for by; empty when it was not asked for by name."""
    image_digest: str
    network: NetworkName
    isolation: IsolationName | None
    disk_mb: int
    ready: int
    making: int
    busy: int
    """Of this template, in use by an execution."""
    target: int
    kept: int
    """Held whatever the demand: kept from the start, or pre-warmed."""
    why: str


class PoolsView(Struct, frozen=True, kw_only=True):
    """The warm pools and the queue before them."""

    pools: list[PoolView]
    queued: int
    running: int


class MetricsView(Struct, frozen=True, kw_only=True):
    """The original's two shapes of metrics in one. Counted since this gateway started."""

    total_requests: int
    """Executions that ended, however they ended."""
    total_executions: int
    cache_hits: int
    cache_hit_rate: float
    embedded_executions: int
    docker_executions: int
    vm_executions: int
    avg_execution_time_ms: float
    active_containers: int
    active_instances: int
    memory_usage_mb: float
    """Of the gateway process."""
    cpu_usage_percent: float
    """Of the machine, since the last look."""


class MetricsSummaryView(Struct, frozen=True):
    """The head of the detailed metrics."""

    total_requests: int
    cache_hits: int
    cache_hit_rate: float


class RuntimeMetricsView(Struct, frozen=True):
    """One runtime in the detailed metrics."""

    executions: int
    available: bool


class PerformanceView(Struct, frozen=True, kw_only=True):
    """Measured, never constants; 0 where nothing was measured yet. Percentiles are read off
    buckets."""

    avg_cold_start_ms: float
    avg_warm_start_ms: float
    avg_latency_ms: float
    p50_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float


class DetailedMetricsView(Struct, frozen=True, kw_only=True):
    """The detailed metrics."""

    summary: MetricsSummaryView
    runtimes: dict[str, RuntimeMetricsView]
    performance: PerformanceView
    exits: dict[str, int]
    rejected: dict[str, int]


class ProblemView(Struct, frozen=True, kw_only=True):
    """Every answer that is not a success (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str | None
    retryable: bool
    trace_id: str
    details: dict[str, Any] | UnsetType = UNSET
