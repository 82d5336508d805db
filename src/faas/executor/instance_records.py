"""Instances as values, and the table that keeps them.

Every step writes its intent before it acts and its outcome after, each committed before it returns.
The table lies in the ledger's file and has a connection of its own: instances change rarely, so
nothing is gained by sharing the executions' commits.
"""

import sqlite3
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec

from faas.errors import AlreadyExistsError, DataLossError, UnavailableError
from faas.executor.port_tokens import ExposedPort
from faas.ids import InstanceId, SandboxId, SnapshotId, TenantId
from faas.lifecycle import InstanceState
from faas.model import Limits, NetworkMode, PullPolicy, RuntimeChoice

_SCHEMA = """
CREATE TABLE IF NOT EXISTS instances (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT,
    record BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS instances_by_name ON instances (tenant, name)
    WHERE name IS NOT NULL;
"""
_PUT = """
INSERT INTO instances (id, tenant, name, record) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET record = excluded.record
"""


class IdleAction(StrEnum):
    """What is done with an instance that nobody used for `idle_seconds`."""

    STOP = "stop"
    PAUSE = "pause"
    PAUSE_TO_DISK = "pause_to_disk"
    DELETE = "delete"


class Intent(StrEnum):
    """A step that was begun and has no outcome yet."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    PAUSE = "pause"
    """To disk; freezing needs no intent."""
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """An instance as asked for, every default filled in."""

    image: str
    name: str | None = None
    runtime: RuntimeChoice = RuntimeChoice.AUTO
    limits: Limits = field(default_factory=Limits)
    network: NetworkMode = NetworkMode.NONE
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str | None = None
    user: str | None = None
    snapshot_id: str | None = None
    """Its files at the beginning; None: those of the image."""
    memory: bool = False
    """Its processes and their memory can be kept; those of its snapshot go on at the beginning."""
    ttl_seconds: float | None = None
    """After this long it is deleted, whatever it does."""
    isolation_min: str | None = None
    """The least isolation accepted, also when it is started anew."""
    idle_seconds: float | None = None
    idle_action: IdleAction = IdleAction.STOP
    pull_policy: PullPolicy = PullPolicy.MISSING
    lease_seconds: float | None = None
    """Unless its lease is renewed within that time it is put away by `idle_action`, used or not."""


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """What is kept of one instance."""

    id: InstanceId
    tenant: TenantId
    state: InstanceState
    spec: InstanceSpec
    created_at: datetime
    changed_at: datetime
    intent: Intent | None = None
    runtime: str | None = None
    isolation: str = ""
    image_digest: str = ""
    sandbox_id: SandboxId | None = None
    """Its sandbox, alive or being made."""
    snapshot_id: SnapshotId | None = None
    """Its files while it is stopped, with its memory while it is paused to disk; with the intent
    to do so, the snapshot that is being made."""
    is_asleep: bool = False
    """Stopped or paused for idleness: the next use wakes it."""
    problem: str | None = None
    """Why it failed."""
    ports: tuple[ExposedPort, ...] = ()
    """Those that may be reached from outside, lowest first."""
    lease_until: datetime | None = None

    @property
    def is_on_disk(self) -> bool:
        """Whether it is paused without a sandbox, to go on from its snapshot."""
        return self.state is InstanceState.PAUSED and self.sandbox_id is None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(InstanceRecord).decode


class InstanceLedger:
    """The durable table. One process at a time."""

    def __init__(self, path: Path, *, synchronous: Literal["normal", "full"] = "normal") -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={synchronous}")
        self._db.executescript(_SCHEMA)
        self._is_frozen = False

    def put(self, record: InstanceRecord) -> None:
        """Write a record; it is committed when this returns.

        Raises:
            AlreadyExistsError: another instance of the tenant has the name.
        """
        if self._is_frozen:
            return
        row = (record.id, record.tenant, record.spec.name, _encode(record))
        try:
            self._db.execute(_PUT, row)
        except sqlite3.IntegrityError as taken:
            raise AlreadyExistsError(
                f"there is an instance {record.spec.name!r} already",
                details={"name": record.spec.name},
            ) from taken
        except sqlite3.Error as failure:
            raise UnavailableError("the ledger cannot be written", hint="faas doctor") from failure

    def forget(self, instance_id: InstanceId) -> None:
        """Take a record away."""
        if not self._is_frozen:
            self._db.execute("DELETE FROM instances WHERE id = ?", (instance_id,))

    def all(self) -> list[InstanceRecord]:
        """Return every record, oldest first."""
        rows = self._db.execute("SELECT record FROM instances ORDER BY id").fetchall()
        try:
            return [_decode(row[0]) for row in rows]
        except msgspec.MsgspecError as damage:
            raise DataLossError("the record of an instance cannot be read") from damage

    def freeze(self) -> None:
        """Write nothing any more; for tests of a crash."""
        self._is_frozen = True

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def settled(record: InstanceRecord, **changes: object) -> InstanceRecord:
    """Return the record with an outcome: no intent is left."""
    return replace(record, intent=None, **changes)  # type: ignore[arg-type]
