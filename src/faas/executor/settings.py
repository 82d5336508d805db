"""What the executor may be told; `config` fills it in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
    pool_limits: Limits = field(default_factory=Limits)
    """What pooled sandboxes are made with; requests that differ have theirs applied when taken."""
    create_seconds_max: float = 60.0
    """A cold Docker Engine may need most of it; past this the attempt is given up."""
    ledger_synchronous: Literal["normal", "full"] = "normal"
    """`normal` survives the death of the gateway; `full` also that of the machine, by an fsync."""
    retention: Retention = field(default_factory=Retention)

    @property
    def ledger_path(self) -> Path:
        """The SQLite file."""
        return self.data_dir / "ledger.sqlite"

    @property
    def spool_dir(self) -> Path:
        """Where output is appended while commands run."""
        return self.data_dir / "spool"
