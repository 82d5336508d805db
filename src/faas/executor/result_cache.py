"""Results of executions that ran before, by content or by the caller's key; per tenant.

Only successes are kept (the command exited 0 and nothing of its output was thrown away). One miss
runs, everybody else with the same key waits for it. Kept in SQLite, so restarts lose nothing; what
was asked for lately is also in memory. Bounded in bytes: what was used longest ago goes first.

What cannot be seen from a key: a command that reads the clock, random numbers or the network may
give another answer next time. The caller says so by not asking for mode `cached`; `verify_share`
re-runs a sample of hits and reports a difference.
"""

import asyncio
import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from faas.clock import Clock
from faas.ids import TenantId
from faas.model import ExecutionResult, ExecutionSpec, ExitReason

_MEMORY_BYTES_MAX = 16 << 20
"""Hits that need no database: a few thousand small results."""
_USED_MAX = 10_000
"""A megabyte of keys."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS result (
  key BLOB PRIMARY KEY, body BLOB NOT NULL, size INTEGER NOT NULL,
  expires_at REAL NOT NULL, used_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS result_used ON result (used_at);
"""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How much is kept, and for how long."""

    bytes_max: int = 1 << 30
    entry_bytes_max: int = 8 << 20
    ttl_seconds: float = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Flight:
    """What `ResultCache.flight` gives: a hit, or the duty to run."""

    hit: ExecutionResult | None


def cache_key(spec: ExecutionSpec, *, tenant: TenantId, image_digest: str, runtime: str) -> bytes:
    """Name everything that decides what an execution answers.

    A `cache_key` of the caller's stands for all of it but the tenant. Fields are encoded with
    their lengths, so no two different requests can run together into one key.
    """
    content: tuple[object, ...]
    if spec.cache_key is not None:
        content = ("own", tenant, spec.cache_key)
    else:
        files = [(f.path, hashlib.sha256(f.content).digest(), f.mode) for f in spec.files]
        content = (
            "content", tenant, image_digest, runtime, spec.argv, sorted(spec.env),
            spec.working_dir, _hash(spec.stdin), files, _hash(spec.archive), spec.limits,
            spec.network, spec.user, spec.tty, spec.isolation_min, spec.caches,
        )  # fmt: skip
    return hashlib.sha256(msgspec.msgpack.encode(content)).digest()


def _hash(data: bytes | None) -> bytes | None:
    return None if data is None else hashlib.sha256(data).digest()


class ResultCache:
    """The cache of mode `cached`."""

    def __init__(
        self, path: Path | None, *, clock: Clock, limits: CacheLimits | None = None
    ) -> None:
        self._clock = clock
        self._limits = limits or CacheLimits()
        self._db = sqlite3.connect(path or ":memory:")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        self._bytes = int(self._db.execute("SELECT ifnull(sum(size), 0) FROM result").fetchone()[0])
        self._recent: OrderedDict[bytes, tuple[ExecutionResult, float, int]] = OrderedDict()
        self._recent_bytes = 0
        self._flights: dict[bytes, asyncio.Lock] = {}
        self._used: dict[bytes, float] = {}
        """When what was asked for lately was; written down now and then, not at each hit."""

    def get(self, key: bytes) -> ExecutionResult | None:
        """Return what was kept under this key, if it is still good."""
        now = self._clock.now().timestamp()
        recent = self._recent.get(key)
        if recent is not None:
            if recent[1] > now:
                self._recent.move_to_end(key)
                self._note_use(key, now)
                return recent[0]
            self.drop(key)
            return None
        row = self._db.execute(
            "SELECT body, size, expires_at FROM result WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        if row[2] <= now:
            self.drop(key)
            return None
        result = msgspec.msgpack.decode(row[0], type=ExecutionResult)
        self._note_use(key, now)
        self._remember(key, result, expires_at=row[2], size=row[1])
        return result

    def put(self, key: bytes, result: ExecutionResult) -> bool:
        """Keep a result when it is one that may be given again; say whether it was kept."""
        if not is_keepable(result):
            return False
        body = msgspec.msgpack.encode(result)
        size = len(body)
        if size > self._limits.entry_bytes_max:
            return False
        now = self._clock.now().timestamp()
        expires_at = now + self._limits.ttl_seconds
        self.drop(key)
        with self._db:
            self._db.execute(
                "INSERT INTO result VALUES (?, ?, ?, ?, ?)", (key, body, size, expires_at, now)
            )
        self._bytes += size
        self._remember(key, result, expires_at=expires_at, size=size)
        self._make_room()
        return True

    def drop(self, key: bytes) -> None:
        """Forget a key. Harmless when it is not there."""
        self._forget(key)
        with self._db:
            gone = self._db.execute(
                "DELETE FROM result WHERE key = ? RETURNING size", (key,)
            ).fetchall()
        self._bytes -= sum(row[0] for row in gone)

    @asynccontextmanager
    async def flight(self, key: bytes) -> AsyncGenerator[Flight]:
        """Enter with a hit, or alone with the duty to run; others wait at the door meanwhile.

        When what the first brings back cannot be given to others, they all run, side by side.
        """
        hit = self.get(key)
        if hit is not None:
            yield Flight(hit)
            return
        lock = self._flights.setdefault(key, asyncio.Lock())
        is_first = not lock.locked()
        try:
            async with lock:
                hit = self.get(key)
                if hit is not None or is_first:
                    yield Flight(hit)
                    return
            yield Flight(None)
        finally:
            if not lock.locked() and self._flights.get(key) is lock and not _has_waiters(lock):
                del self._flights[key]

    @property
    def size_bytes(self) -> int:
        """Bytes kept."""
        return self._bytes

    def close(self) -> None:
        """Close the database."""
        self._write_used()
        self._db.close()

    def _note_use(self, key: bytes, now: float) -> None:
        self._used[key] = now
        if len(self._used) > _USED_MAX:
            self._write_used()

    def _write_used(self) -> None:
        if not self._used:
            return
        with self._db:
            self._db.executemany(
                "UPDATE result SET used_at = ? WHERE key = ?",
                [(at, key) for key, at in self._used.items()],
            )
        self._used.clear()

    def _remember(
        self, key: bytes, result: ExecutionResult, *, expires_at: float, size: int
    ) -> None:
        self._recent[key] = (result, expires_at, size)
        self._recent_bytes += size
        while self._recent_bytes > _MEMORY_BYTES_MAX and self._recent:
            self._forget(next(iter(self._recent)))

    def _forget(self, key: bytes) -> None:
        gone = self._recent.pop(key, None)
        if gone is not None:
            self._recent_bytes -= gone[2]

    def _make_room(self) -> None:
        if self._bytes > self._limits.bytes_max:
            self._write_used()
        while self._bytes > self._limits.bytes_max:
            row = self._db.execute("SELECT key FROM result ORDER BY used_at LIMIT 1").fetchone()
            if row is None:
                return
            self.drop(row[0])


def is_keepable(result: ExecutionResult) -> bool:
    """Whether a result may be given to somebody else who asks the same."""
    return (
        result.exit_code == 0
        and result.reason is ExitReason.EXITED
        and not result.stdout_truncated
        and not result.stderr_truncated
    )


def _has_waiters(lock: asyncio.Lock) -> bool:
    waiters = getattr(lock, "_waiters", None)
    return bool(waiters)
