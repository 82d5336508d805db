"""What the executor may be told; `config` fills it in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from faas.caches import CacheBounds
from faas.executor.result_cache import CacheLimits
from faas.model import Limits


@dataclass(frozen=True, slots=True)
class Retention:
    """How long finished executions are kept; the first bound that is reached trims."""

    count_max: int = 100_000
    age_seconds_max: float = 7 * 86_400.0
    bytes_max: int = 4 << 30
    """Of results and spooled output together."""


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """Bounds and places. Every default works on a laptop."""

    data_dir: Path
    running_max: int = 64
    queued_max: int = 1024
    default_image: str = "host"
    pool_size: int = 8
    """Ready sandboxes of the default image, kept from the start."""
    pool_max: int = 64
    """Ready sandboxes of all images together."""
    pool_idle_seconds: float = 60.0
    """A template nobody asked for that long gives its sandboxes back."""
    pool_memory_bytes: int | None = None
    """What ready sandboxes may hold of the machine's memory, as their runtimes say; None: any."""
    pool_reserve_share: float = 0.0
    """When less of the machine's memory is available, nothing is made ready, and what is goes."""
    pool_limits: Limits = field(default_factory=Limits)
    """What pooled sandboxes are made with; requests that differ have theirs applied when taken."""
    create_seconds_max: float = 60.0
    """A cold Docker Engine may need most of it; past this the attempt is given up."""
    ledger_synchronous: Literal["normal", "full"] = "normal"
    """`normal` survives the death of the gateway; `full` also that of the machine, by an fsync."""
    retention: Retention = field(default_factory=Retention)

    cache: CacheLimits = field(default_factory=CacheLimits)
    dependency_caches: CacheBounds = field(default_factory=CacheBounds)
    """What pip, npm, cargo and go fetched, for a tenant's next runs."""
    cache_verify_share: float = 0.0
    """Share of the cache's answers that are run again and compared."""
    parked_max: int = 8
    """Sandboxes of ended executions kept for a fork of them."""
    parked_seconds: float = 120.0
    layers_bytes_max: int = 1 << 30
    """Memory for states kept ready for children; what is in use beyond it stays."""
    forked_seconds_max: float = 86_400.0
    """Snapshots taken only for a fork are forgotten at this age, unless a child of them lives."""
    unnamed_seconds_max: float = 0.0
    """The same of executions' snapshots that have neither name nor tag; 0: they stay."""

    collects_garbage: bool = False
    """Take away, once an hour, what was kept for forks and what no snapshot needs any more."""

    instances_max: int = 64
    """Of one tenant, in whatever state."""
    instance_idle_seconds: float = 900.0
    """Of an instance made by an execution in mode `persistent`: unused that long it sleeps."""

    ports_url: str = "http://*.localhost:8080"
    """Where exposed ports of instances are; `*` stands for the name of one."""

    @property
    def dependency_caches_dir(self) -> Path:
        """Layers of dependency caches, by tenant and tool."""
        return self.data_dir / "dependency-caches"

    @property
    def dependency_scratch_dir(self) -> Path:
        """Where the caches of runs lie for the moment between sandbox and layer."""
        return self.data_dir / "dependency-scratch"

    @property
    def pools_path(self) -> Path:
        """What the warm pools are to hold again after a restart."""
        return self.data_dir / "pools.json"

    memory_key: bytes = b""
    """Signs memory checkpoints in the store; empty is a key of this data directory's own."""

    @property
    def memory_dir(self) -> Path:
        """Where memory checkpoints lie."""
        return self.data_dir / "memory"

    @property
    def results_path(self) -> Path:
        """The SQLite file of the result cache."""
        return self.data_dir / "results.sqlite"

    @property
    def staging_dir(self) -> Path:
        """Where tars of sandboxes are while they are taken or put back."""
        return self.data_dir / "snapshot-staging"

    @property
    def ledger_path(self) -> Path:
        """The SQLite file."""
        return self.data_dir / "ledger.sqlite"

    @property
    def spool_dir(self) -> Path:
        """Where output too large for the ledger is kept."""
        return self.data_dir / "spool"

    @property
    def live_dir(self) -> Path:
        """Where output is appended while commands run: in memory, where there is a tmpfs.

        Making and removing two files took 1.6 ms on a busy ext4 and 0.03 ms there; it outlives the
        gateway, and a command does not outlive the machine either.
        """
        return self.data_dir / "run" / "live"
