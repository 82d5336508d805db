"""The durable record of executions: SQLite, one writer, commits shared by whoever asks in one round
of the loop. Who runs alone has a commit at once.

`begin`, `place` and `finish` return once what they wrote is committed, so an intent is on disk
before it is acted on and a result before it is told. With `synchronous=normal` a commit survives
the death of this process at any line, but the last few may be lost when the machine loses power;
`full` survives that too and pays an fsync a commit, in a thread. All SQL is in `ledger.sql`.

Idempotency keys live in the rows: unique for a tenant, written with the beginning, gone when the
row is trimmed or when the execution failed before its command can have started.
"""

import asyncio
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Literal

from faas.errors import InvalidConfigError, UnavailableError
from faas.executor.records import (
    Beginning,
    Row,
    Stored,
    beginning_from,
    beginning_row,
    encode_spec,
    is_bulky,
    outcome_row,
    stored_from,
    to_us,
)
from faas.executor.settings import Retention
from faas.ids import ExecutionId, SandboxId, TenantId
from faas.model import ExecutionRecord, ExecutionState

VERSION = 1

TRIM_STEP = 200
"""Rows trimmed in one go: about two milliseconds, so that no request waits longer for it."""

_AUTO_CHECKPOINT_PAGES = 16_384
"""64 MiB: only reached when the background checkpoint cannot keep up."""

_CACHE_KIB = 2048
"""Of each connection: 2,000 executions fill it. With more, the gateway grew for its first 7,500."""


def _statements() -> dict[str, str]:
    text = files("faas.executor").joinpath("ledger.sql").read_text("utf-8")
    blocks = text.split("-- name: ")[1:]
    return {name: body.strip() for name, _, body in (b.partition("\n") for b in blocks)}


_SQL = _statements()

_ORDER = ("begin", "keep_payload", "place", "finish", "release_key", "drop_payload")
"""Within one commit; an execution passes through them in this order."""


@dataclass(slots=True, eq=False)
class _Batch:
    """What waits for the next commit."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in _ORDER})
    waiters: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])


@dataclass(frozen=True, slots=True)
class Trimmed:
    """An execution that retention took away."""

    id: ExecutionId
    is_spooled: bool


class Ledger:
    """Open one with `Ledger.open`; one process at a time."""

    def __init__(self, path: Path, *, synchronous: Literal["normal", "full"] = "normal") -> None:
        self._path = path
        self._writer = _connect(path, synchronous)
        try:
            _migrate(self._writer)
        except BaseException:
            self._writer.close()
            raise
        self._reader = _connect(path, synchronous)
        self._thread = ThreadPoolExecutor(1, "ledger") if synchronous == "full" else None
        self._batch = _Batch()
        self._is_scheduled = False
        self._is_shared = False
        """Whether the last commit was of more than one: then many run, and nobody waits alone."""
        self._open = self._reader.execute(_SQL["count_live"]).fetchone()[0]
        """Executions that were numbered and have no end. One alone commits at once: a round of the
        loop is a tenth of a millisecond when all is cold."""
        self._is_frozen = False
        self._commits: set[asyncio.Future[None]] = set()
        self._seq: int = self._reader.execute(_SQL["last_seq"]).fetchone()[0]
        self.count, self.bytes = self._reader.execute(_SQL["totals"]).fetchone()

    def next_seq(self) -> int:
        """Number the next execution, which will be begun and finished."""
        self._open += 1
        self._seq += 1
        return self._seq

    def begin(self, entry: Beginning) -> asyncio.Future[None]:
        """Write the intent. The future is done when it is durable."""
        rows = self._batch.rows
        rows["begin"].append(beginning_row(entry))
        if entry.is_detached and is_bulky(entry.spec):
            rows["keep_payload"].append((entry.seq, encode_spec(entry.spec)))
        return self._committed()

    def place(
        self,
        seq: int,
        state: ExecutionState,
        *,
        runtime: str | None = None,
        sandbox_id: SandboxId | None = None,
        started_at: datetime | None = None,
    ) -> asyncio.Future[None]:
        """Write where an execution runs, or that it does not run yet."""
        started_us = None if started_at is None else to_us(started_at)
        self._batch.rows["place"].append((state.value, runtime, sandbox_id, started_us, seq))
        return self._committed()

    def finish(
        self,
        entry: Beginning,
        record: ExecutionRecord,
        *,
        stdout_bytes: int,
        stderr_bytes: int,
        is_spooled: bool,
        releases_key: bool,
    ) -> asyncio.Future[None]:
        """Write the end."""
        rows = self._batch.rows
        row = outcome_row(
            entry.seq,
            record,
            stdout_bytes=stdout_bytes,
            stderr_bytes=stderr_bytes,
            is_spooled=is_spooled,
        )
        rows["finish"].append(row)
        if releases_key and entry.idempotency_key is not None:
            rows["release_key"].append((entry.seq,))
        if entry.is_detached and is_bulky(entry.spec):
            rows["drop_payload"].append((entry.seq,))
        self.count += 1
        self.bytes += row[-1]
        done = self._committed()
        self._open -= 1
        return done

    def find_key(self, tenant: TenantId, key: str) -> tuple[ExecutionId, str] | None:
        """Return the execution that has this key, and the digest of its request."""
        row = self._reader.execute(_SQL["find_key"], (tenant, key)).fetchone()
        return None if row is None else (ExecutionId(row[0]), row[1])

    def get(self, execution_id: ExecutionId, tenant: TenantId) -> Stored | None:
        """Return what is stored of one execution."""
        row = self._reader.execute(_SQL["get"], (tenant, execution_id)).fetchone()
        return None if row is None else stored_from(row)

    def page(
        self,
        tenant: TenantId,
        *,
        limit: int,
        before: ExecutionId | None,
        state: ExecutionState | None,
    ) -> list[Stored]:
        """Return what is stored of a tenant's executions, newest first."""
        parameters = {
            "tenant": tenant,
            "before": before or "~",
            "state": None if state is None else state.value,
            "limit": limit,
        }
        return [stored_from(row) for row in self._reader.execute(_SQL["list"], parameters)]

    def live(self) -> Iterable[Beginning]:
        """Return every execution that has no end yet, oldest first."""
        return [beginning_from(row) for row in self._reader.execute(_SQL["live"])]

    def spooled(self) -> set[ExecutionId]:
        """Return the finished executions whose output is in the spool."""
        return {ExecutionId(row[0]) for row in self._reader.execute(_SQL["spooled"])}

    def trim(self, policy: Retention, *, now: datetime) -> list[Trimmed]:
        """Forget a bounded number of the oldest that are past the policy; return them."""
        if self._thread is not None and self._commits:
            return []
        too_old_us = to_us(now - timedelta(seconds=policy.age_seconds_max))
        gone: list[Row] = []
        for row in self._reader.execute(_SQL["oldest"], (TRIM_STEP,)):
            _, _, finished_us, size, _ = row
            is_over = self.count > policy.count_max or self.bytes > policy.bytes_max
            if not is_over and finished_us >= too_old_us:
                break
            self.count -= 1
            self.bytes -= size
            gone.append(row)
        if gone:
            with self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                for name in ("forget_execution", "forget_outcome"):
                    self._writer.executemany(_SQL[name], [(row[0],) for row in gone])
        return [Trimmed(ExecutionId(row[1]), is_spooled=bool(row[4])) for row in gone]

    def checkpoint(self) -> None:
        """Move the log into the file. May block for a disk: call it in a thread."""
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        finally:
            connection.close()

    def wal_bytes(self) -> int:
        """Return the size of the log that a checkpoint would move."""
        try:
            return self._path.with_name(self._path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def freeze(self) -> None:
        """Write nothing any more, not even what waits; for tests of a crash."""
        self._is_frozen = True
        self._batch = _Batch()

    async def aclose(self) -> None:
        """Commit what waits, then close."""
        while self._is_scheduled or self._commits:
            self._flush()
            if self._commits:
                await asyncio.wait(self._commits)
        if self._thread is not None:
            self._thread.shutdown()
        self._reader.close()
        self._writer.close()

    def _committed(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._batch.waiters.append(waiter)
        if self._is_frozen:
            self._batch = _Batch()
            return waiter
        if self._open <= 1 and not self._is_scheduled and self._thread is None:
            self._is_scheduled = True
            self._flush()
        elif not self._is_scheduled:
            self._is_scheduled = True
            if self._is_shared:
                # A round later, so that who arrives with the next look at the sockets joins: a
                # commit costs as much as a third of all else that an execution is to us.
                loop.call_soon(loop.call_soon, self._flush)
            else:
                loop.call_soon(self._flush)
        return waiter

    def _flush(self) -> None:
        if not self._is_scheduled:
            return
        if self._thread is not None and self._commits:
            return
        self._is_scheduled = False
        batch, self._batch = self._batch, _Batch()
        self._is_shared = len(batch.waiters) > 1
        if self._thread is None:
            try:
                self._commit(batch)
            except sqlite3.Error as failure:
                _tell(batch, failure)
            else:
                _tell(batch, None)
            return
        loop = asyncio.get_running_loop()
        commit = loop.run_in_executor(self._thread, self._commit, batch)
        self._commits.add(commit)
        commit.add_done_callback(lambda done: self._committed_in_thread(batch, done))

    def _committed_in_thread(self, batch: _Batch, commit: asyncio.Future[None]) -> None:
        self._commits.discard(commit)
        _tell(batch, commit.exception())
        if self._is_scheduled:
            self._flush()

    def _commit(self, batch: _Batch) -> None:
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            for name in _ORDER:
                if rows := batch.rows[name]:
                    self._writer.executemany(_SQL[name], rows)


def _tell(batch: _Batch, failure: BaseException | None) -> None:
    for waiter in batch.waiters:
        if waiter.done():
            continue
        if failure is None:
            waiter.set_result(None)
            continue
        error = UnavailableError("the ledger cannot be written", hint="faas doctor")
        error.__cause__ = failure
        waiter.set_exception(error)


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=5.0, cached_statements=64
    )
    path.chmod(0o600)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(f"PRAGMA wal_autocheckpoint={_AUTO_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    present: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if present > VERSION:
        raise InvalidConfigError(
            f"the ledger was written by a newer version (format {present}, known {VERSION})",
            hint="use the newer version, or another FAAS_DATA_DIR",
        )
    for version in range(present + 1, VERSION + 1):
        steps = _SQL[f"migrate_{version}"]
        connection.executescript(f"BEGIN; {steps} PRAGMA user_version={version}; COMMIT;")
