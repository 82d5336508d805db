"""What was signed, kept before it is sent: asking again with the same key never submits twice.

One SQLite file, or memory. A transaction is here before a node sees it, so a program that died in
between finds its bytes again and looks for them on the chain before it signs anything new.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Generator, List, Optional, Union

from faas_sdk._errors import IdempotencyConflictError

KEPT_MAX = 100_000
"""Submissions kept; older ones are forgotten first. Some 50 MB of small jobs."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS submissions (
    id INTEGER PRIMARY KEY, chain INTEGER NOT NULL, sender TEXT NOT NULL, name TEXT NOT NULL,
    target TEXT NOT NULL, data BLOB NOT NULL, value TEXT NOT NULL,
    UNIQUE (chain, sender, name)
);
CREATE TABLE IF NOT EXISTS attempts (
    hash BLOB PRIMARY KEY, submission INTEGER NOT NULL REFERENCES submissions ON DELETE CASCADE,
    nonce INTEGER NOT NULL, gas INTEGER NOT NULL, max_fee TEXT NOT NULL, priority_fee TEXT NOT NULL,
    raw BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS attempts_of ON attempts (submission);
"""


@dataclass(frozen=True)
class Attempt:
    """One signed transaction."""

    hash: bytes
    nonce: int
    gas: int
    max_fee: int
    priority_fee: int
    raw: bytes


@dataclass(frozen=True)
class Submission:
    """What is to be sent, whatever transaction carries it."""

    name: str
    to: str
    data: bytes
    value: int


class Submissions:
    """The submissions of one account on one chain."""

    def __init__(self, path: Union[str, Path, None], *, chain_id: int, sender: str) -> None:
        # One thread uses it, though not always the one that made it.
        self._database = sqlite3.connect(
            str(path or ":memory:"), isolation_level=None, timeout=10, check_same_thread=False
        )
        self._owner = (chain_id, sender.lower())
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def find(self, wanted: Submission) -> List[Attempt]:
        """List what was signed under this name, newest first.

        Raises:
            IdempotencyConflictError: the name was used for something else.
        """
        row = self._row(wanted.name)
        if row is None:
            return []
        number, target, data, value = row
        if (target, data, int(value)) != (wanted.to.lower(), wanted.data, wanted.value):
            raise IdempotencyConflictError(
                f"the key {wanted.name!r} was used for another submission",
                hint="use a new key for a new submission",
            )
        rows = self._database.execute(
            "SELECT hash, nonce, gas, max_fee, priority_fee, raw FROM attempts"
            " WHERE submission = ? ORDER BY rowid DESC",
            (number,),
        )
        return [Attempt(r[0], r[1], r[2], int(r[3]), int(r[4]), r[5]) for r in rows]

    def known(self, name: str) -> Optional[Submission]:
        """Recall what is to be sent under this name; None when nothing is."""
        row = self._row(name)
        return Submission(name, row[1], row[2], int(row[3])) if row else None

    def add(self, wanted: Submission, attempt: Attempt, *, is_first: bool = False) -> bool:
        """Keep a signed transaction that is about to be sent; whether it may be.

        The first one of a submission may not when somebody else was quicker, in this program or in
        another with the same file.
        """
        with self._step():
            if is_first and self.find(wanted):
                return False
            self._database.execute(
                "INSERT OR IGNORE INTO submissions (chain, sender, name, target, data, value)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (*self._owner, wanted.name, wanted.to.lower(), wanted.data, str(wanted.value)),
            )
            row = self._row(wanted.name)
            assert row is not None  # noqa: S101  it was put there two lines above
            fees = (str(attempt.max_fee), str(attempt.priority_fee))
            self._database.execute(
                "INSERT OR IGNORE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?)",
                (attempt.hash, row[0], attempt.nonce, attempt.gas, *fees, attempt.raw),
            )
            self._database.execute(
                "DELETE FROM submissions WHERE id <= (SELECT max(id) FROM submissions) - ?",
                (KEPT_MAX,),
            )
        return True

    def is_known(self, digest: bytes) -> bool:
        """Whether a transaction of this hash was signed before, under whatever name."""
        row = self._database.execute("SELECT 1 FROM attempts WHERE hash = ?", (digest,)).fetchone()
        return row is not None

    def drop(self, attempt: Attempt) -> None:
        """Forget a transaction that no chain can ever take."""
        self._database.execute("DELETE FROM attempts WHERE hash = ?", (attempt.hash,))

    def forget(self, name: str) -> None:
        """Forget a submission: it was refused before any node took it."""
        self._database.execute(
            "DELETE FROM submissions WHERE chain = ? AND sender = ? AND name = ?",
            (*self._owner, name),
        )

    def _row(self, name: str) -> Optional[tuple[int, str, bytes, str]]:
        return self._database.execute(
            "SELECT id, target, data, value FROM submissions"
            " WHERE chain = ? AND sender = ? AND name = ?",
            (*self._owner, name),
        ).fetchone()

    @contextlib.contextmanager
    def _step(self) -> Generator[None, None, None]:
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield
