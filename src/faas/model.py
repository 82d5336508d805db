"""Frozen values that everybody speaks: made whole at the door, never half-filled."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from faas.ids import ExecutionId, SandboxId, TenantId


class Mode(StrEnum):
    """How an execution uses its sandbox."""

    EPHEMERAL = "ephemeral"
    """Fresh sandbox, destroyed afterwards. Never answered from a cache."""
    CACHED = "cached"
    """Answered from the result cache when the same thing ran before."""
    CHECKPOINTED = "checkpointed"
    """Its state becomes a snapshot afterwards."""
    BRANCHED = "branched"
    """Starts from the state of a parent."""
    PERSISTENT = "persistent"
    """Runs in a named, long-lived instance."""


class RuntimeChoice(StrEnum):
    """What the caller asked for. `auto` lets the registry choose."""

    AUTO = "auto"
    EMBEDDED = "embedded"
    DOCKER = "docker"
    MICROVM = "microvm"


class PullPolicy(StrEnum):
    """When an image is fetched from its registry."""

    MISSING = "missing"
    """When it is not here."""
    ALWAYS = "always"
    """Every time, so that a moved tag is noticed."""
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class PullStep:
    """How far the fetching of an image has come."""

    status: str
    """In the words of whoever fetches: `Downloading`, `Extracting`, `Pull complete`."""
    layer: str | None = None
    """The start of the layer's digest; None is said of the whole image."""
    current_bytes: int | None = None
    total_bytes: int | None = None


class NetworkMode(StrEnum):
    """What a sandbox may reach."""

    NONE = "none"
    """Its own loopback and nothing else."""
    EGRESS = "egress"
    """Public addresses; never the host, private ranges or cloud metadata."""


class ExitReason(StrEnum):
    """Why a command ended. The command's failure is data, never an exception."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELLED = "cancelled"
    CHECKPOINTED = "checkpointed"
    """It has not ended: its memory and files are a snapshot, from which it goes on."""


class ExecutionState(StrEnum):
    """Where an execution stands. `queued → running → finished | failed`; the last two are final."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    """The command ended, however it ended; there is a result."""
    FAILED = "failed"
    """We failed; there is an error code instead of a result."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution may use."""

    timeout_ms: int = 30_000
    memory_bytes: int = 512 << 20
    cpu_millis: int = 1_000
    """Thousandths of a core."""
    pids_max: int = 256
    disk_bytes: int = 256 << 20
    """Bytes the sandbox may write to its own file system."""
    output_bytes_max: int = 16 << 20
    """Kept of stdout, and of stderr; the rest is read and thrown away, and the result says so."""


@dataclass(frozen=True, slots=True)
class FileInput:
    """One file placed in the sandbox before the command starts."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class ExecutionSpec:
    """One execution as asked for, every default filled in."""

    argv: tuple[str, ...]
    image: str
    mode: Mode = Mode.EPHEMERAL
    runtime: RuntimeChoice = RuntimeChoice.AUTO
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str | None = None
    stdin: bytes | None = None
    stdin_open: bool = False
    """Keep stdin open for `POST /executions/{id}/stdin` after `stdin` was delivered."""
    files: tuple[FileInput, ...] = ()
    archive: bytes | None = None
    """A tar unpacked into the working directory before the command starts."""
    limits: Limits = field(default_factory=Limits)
    network: NetworkMode = NetworkMode.NONE
    user: str | None = None
    """`uid`, `uid:gid`; None is the image's own default."""
    tty: bool = False
    isolation_min: str | None = None
    """The least rung of `faas.sandbox.isolation` accepted; refused where nothing reaches it."""
    cache_key: str | None = None
    caches: tuple[str, ...] = ()
    """Dependency caches of its tenant put in before the command: `pip`, `npm`, `cargo`, `go`."""
    cache_write: bool = True
    """Whether what the command adds to them is kept for the tenant's next runs."""
    snapshot_id: str | None = None
    branch_from: str | None = None
    memory: bool = False
    """Processes and their memory can be kept, and are what a parent gives."""
    checkpoint_after_ms: int | None = None
    """Its slice: after so long it is kept with its memory, and ends here."""
    instance_id: str | None = None
    """Of mode `persistent`: the instance it runs in, by id or by name."""
    pull_policy: PullPolicy = PullPolicy.MISSING

    @property
    def is_resumption(self) -> bool:
        """Whether it runs nothing new, but goes on from a memory checkpoint."""
        return self.memory and not self.argv


@dataclass(frozen=True, slots=True)
class Usage:
    """What an execution used."""

    cpu_us: int = 0
    memory_peak_bytes: int | None = None
    """None where the host cannot tell."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, microseconds by phase."""

    queue_us: int = 0
    sandbox_us: int = 0
    exec_us: int = 0
    collect_us: int = 0


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What came of one dependency cache after a run."""

    name: str
    added: int = 0
    """Files that were new and are kept."""
    added_bytes: int = 0
    refused: int = 0
    """Links, devices and the like, which are never kept."""
    problem: str | None = None
    """Why nothing was kept."""


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """How a command ended, and what it said."""

    execution_id: ExecutionId
    exit_code: int
    """The command's own; 128+n when signal n ended it, 124 when our time limit did."""
    signal: int | None
    reason: ExitReason
    stdout: bytes
    stderr: bytes
    stdout_total_bytes: int
    """Bytes the command wrote; more than `len(stdout)` when truncated."""
    stderr_total_bytes: int
    duration_ms: int
    """Wall time of the command, rounded up, at least 1."""
    usage: Usage
    timings: Timings
    runtime_used: str
    isolation: str
    image_digest: str
    sandbox_id: SandboxId
    cache_hit: bool = False
    snapshot_id: str | None = None
    runtime_reason: str = ""
    """Why it ran on `runtime_used`."""
    caches: tuple[CacheReport, ...] = ()

    @property
    def stdout_truncated(self) -> bool:
        """Whether some of stdout was thrown away."""
        return self.stdout_total_bytes > len(self.stdout)

    @property
    def stderr_truncated(self) -> bool:
        """Whether some of stderr was thrown away."""
        return self.stderr_total_bytes > len(self.stderr)


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Our own failure, kept with the execution: enough to raise it again for a repeated request."""

    code: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """What the ledger keeps of one execution."""

    id: ExecutionId
    tenant: TenantId
    state: ExecutionState
    spec: ExecutionSpec
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: ExecutionResult | None = None
    failure: FailureRecord | None = None
