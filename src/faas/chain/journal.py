"""What the operator knows of its jobs: on restart this, and not memory, says what to do.

    seen → running → ran → sent → confirmed
                                └→ rejected        every state but the ends → expired | dropped

Each method is one transaction, so a kill between two of them loses nothing. Intent comes first: a
result is here before it is signed, a signed transaction before it is sent. A reorg makes its jobs
`dropped`; when the same call comes back with the same inputs its result is still good.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from faas.chain.journal_rows import (
    COLUMNS,
    SCHEMA,
    Block,
    CallKey,
    JobState,
    JournalEntry,
    Move,
    SeenCall,
    SignedTransaction,
    entry_of,
)
from faas.chain.quote_book import QuoteBook
from faas.errors import InvalidConfigError, WrongStateError

__all__ = [
    "BLOCKS_KEPT",
    "Block",
    "CallKey",
    "JobState",
    "Journal",
    "JournalEntry",
    "Move",
    "SeenCall",
    "SignedTransaction",
]

BLOCKS_KEPT: Final = 256
"""Hashes kept to find the common ancestor after a reorg: eight times the depth of `safe`."""

_NONCES_KEPT: Final = 1024
"""Transactions of no job that are kept: one of the last may still be mined after a reorg."""

_ENDS: Final = frozenset({JobState.CONFIRMED, JobState.REJECTED, JobState.EXPIRED})
_BEFORE: Final = {
    JobState.RUNNING: frozenset({JobState.SEEN}),
    JobState.SEEN: frozenset({JobState.RUNNING}),
    JobState.RAN: frozenset({JobState.RUNNING, JobState.SENT}),
    JobState.SENT: frozenset({JobState.RAN, JobState.SENT}),
    JobState.CONFIRMED: frozenset({JobState.SENT, JobState.RAN}),
    JobState.REJECTED: frozenset({JobState.SENT, JobState.RAN}),
    JobState.EXPIRED: frozenset(JobState) - _ENDS,
}


class Journal:
    """The operator's jobs on one chain and one manager. Not for use from two threads at once."""

    def __init__(self, path: Path, *, chain_id: int, manager: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(SCHEMA)
        self._complete()
        self.quotes = QuoteBook(self._database)
        self._bind(chain_id, manager.lower())

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def head(self) -> Block | None:
        """Say up to which block everything is in here."""
        row = self._database.execute(
            "SELECT number, hash FROM blocks ORDER BY number DESC LIMIT 1"
        ).fetchone()
        return Block(*row) if row else None

    def block_hash(self, number: int) -> bytes | None:
        """Recall a block we have read, to compare with the node's."""
        row = self._database.execute(
            "SELECT hash FROM blocks WHERE number = ?", (number,)
        ).fetchone()
        return row[0] if row else None

    def block_at_most(self, number: int) -> Block | None:
        """Recall the newest block up to that number."""
        row = self._database.execute(
            "SELECT number, hash FROM blocks WHERE number <= ? ORDER BY number DESC LIMIT 1",
            (number,),
        ).fetchone()
        return Block(*row) if row else None

    def blocks(self) -> list[Block]:
        """List the blocks that are remembered, newest first."""
        rows = self._database.execute("SELECT number, hash FROM blocks ORDER BY number DESC")
        return [Block(*row) for row in rows]

    def see(self, calls: Iterable[SeenCall], *, head: Block) -> None:
        """Take new calls and the cursor in one step. A second sight of a call is no work."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for call in calls:
                self._see(call)
            self._database.execute(
                "INSERT OR REPLACE INTO blocks VALUES (?, ?)", (head.number, head.hash)
            )
            self._database.execute(
                "DELETE FROM blocks WHERE number <= ?", (head.number - BLOCKS_KEPT,)
            )

    def rewind(self, to: int) -> list[CallKey]:
        """Forget blocks above `to`; their jobs are dropped, and returned for whoever runs them.

        Ends that were reached above `to` by jobs below it are undone.
        """
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("DELETE FROM blocks WHERE number > ?", (to,))
            self._database.execute(
                "UPDATE jobs SET settled = NULL, reason = NULL, state = CASE"
                " WHEN result IS NULL THEN ? WHEN transaction_hash IS NULL THEN ? ELSE ? END"
                " WHERE settled > ?",
                (JobState.SEEN, JobState.RAN, JobState.SENT, to),
            )
            # A batch with a call that is gone would answer whoever gets the call's number next.
            self._database.execute(
                "UPDATE jobs SET transaction_hash = NULL, state = iif(state = ?, ?, state)"
                " WHERE transaction_hash IN (SELECT transaction_hash FROM jobs"
                " GROUP BY transaction_hash HAVING count(*) > 1 AND max(block_number) > ?)",
                (JobState.SENT, JobState.RAN, to),
            )
            rows = self._database.execute(
                "UPDATE jobs SET state = ? WHERE block_number > ? RETURNING service, call",
                (JobState.DROPPED, to),
            ).fetchall()
            dropped = sorted(CallKey(*row) for row in rows)
            self.quotes.give_back(dropped)
        return dropped

    def get(self, key: CallKey) -> JournalEntry | None:
        """Look one call up."""
        row = self._database.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE service = ? AND call = ?",  # noqa: S608  our own constant
            (key.service, key.call),
        ).fetchone()
        return entry_of(row) if row else None

    def in_state(self, state: JobState, *, limit: int = 1000) -> list[JournalEntry]:
        """List calls in one state, the nearest deadline first."""
        rows = self._database.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE state = ? ORDER BY deadline, call LIMIT ?",  # noqa: S608  our own constant
            (state, limit),
        ).fetchall()
        return [entry_of(row) for row in rows]

    def started(self, key: CallKey) -> None:
        """It runs from now on."""
        self._move([key], JobState.RUNNING)

    def interrupted(self, key: CallKey) -> None:
        """It ran when we died; it will run again."""
        self._move([key], JobState.SEEN)

    def interrupt_all(self) -> int:
        """Nothing runs, for we have just started: what ran will run again. Returns how many."""
        return self._database.execute(
            "UPDATE jobs SET state = ? WHERE state = ?", (JobState.SEEN, JobState.RUNNING)
        ).rowcount

    def ran(self, key: CallKey, result: bytes) -> None:
        """It has a result, and will not run again."""
        self._move([key], JobState.RAN, result=result)

    def move_each(self, moves: Sequence[Move]) -> list[WrongStateError | None]:
        """Make moves in one step; those that are not legal are left out and returned as errors."""
        refusals: list[WrongStateError | None] = []
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for move in moves:
                try:
                    self._update([move.key], move.to, result=move.result)
                    refusals.append(None)
                except WrongStateError as refusal:
                    refusals.append(refusal)
        return refusals

    def sending(self, keys: Sequence[CallKey], transaction: SignedTransaction) -> None:
        """The results are in this signed transaction, which is about to be sent."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(
                "INSERT OR IGNORE INTO transactions VALUES (?, ?, ?)",
                (transaction.hash, transaction.nonce, transaction.raw),
            )
            self._update(keys, JobState.SENT, transaction_hash=transaction.hash)

    def unsent(self, keys: Sequence[CallKey]) -> None:
        """Their transaction is gone for good; the stored results are to be sent anew."""
        self._move(keys, JobState.RAN)

    def confirmed(self, keys: Sequence[CallKey], *, block: int = 0) -> None:
        """The manager accepted the results, in that block or before, deep enough."""
        self._move(keys, JobState.CONFIRMED, settled=block)

    def rejected(self, key: CallKey, reason: str, *, block: int = 0) -> None:
        """The result was not taken and never will be, as of that block."""
        self._move([key], JobState.REJECTED, reason=reason, settled=block)

    def expired(self, key: CallKey, reason: str, *, block: int = 0) -> None:
        """The call is not ours any more, as of that block."""
        self._move([key], JobState.EXPIRED, reason=reason, settled=block)

    def transaction(self, digest: bytes) -> SignedTransaction | None:
        """Recall a transaction, to look for it or to send the same bytes again."""
        row = self._database.execute(
            "SELECT nonce, raw, hash FROM transactions WHERE hash = ?", (digest,)
        ).fetchone()
        return SignedTransaction(*row) if row else None

    def nonces_in_flight(self) -> set[int]:
        """Nonces of the transactions that carry results not confirmed yet."""
        rows = self._database.execute(
            "SELECT DISTINCT nonce FROM transactions JOIN jobs ON jobs.transaction_hash ="
            " transactions.hash WHERE jobs.state = ?",
            (JobState.SENT,),
        ).fetchall()
        return {row[0] for row in rows}

    def abandoned(self, mined: int) -> list[SignedTransaction]:
        """Transactions that may still be mined and whose jobs a reorg took."""
        rows = self._database.execute(
            "SELECT nonce, raw, hash FROM transactions WHERE nonce >= ? ORDER BY rowid", (mined,)
        ).fetchall()
        kept = self.nonces_in_flight()
        return [SignedTransaction(*row) for row in rows if row[0] not in kept]

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        rows = self._database.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        return {JobState(state): count for state, count in rows}

    def trim(self, *, deadline_before: int) -> int:
        """Forget jobs that ended and whose deadline was before that, and transactions of no job;
        returns how many jobs went."""
        over = (*_ENDS, JobState.DROPPED)
        marks = ", ".join("?" * len(over))
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            gone = self._database.execute(
                f"DELETE FROM jobs WHERE state IN ({marks}) AND deadline < ?",  # noqa: S608  only marks
                (*over, deadline_before),
            ).rowcount
            self._database.execute(
                "DELETE FROM transactions WHERE nonce < (SELECT max(nonce) FROM transactions) - ?"
                " AND hash NOT IN"
                " (SELECT transaction_hash FROM jobs WHERE transaction_hash IS NOT NULL)",
                (_NONCES_KEPT,),
            )
        return gone

    def open_jobs(self) -> int:
        """How many jobs have no result yet."""
        counts = self.counts()
        return counts.get(JobState.SEEN, 0) + counts.get(JobState.RUNNING, 0)

    def nearest_deadline(self) -> int | None:
        """The deadline that comes next, of jobs that are not at their end."""
        open_states = (JobState.SEEN, JobState.RUNNING, JobState.RAN, JobState.SENT)
        row = self._database.execute(
            "SELECT min(deadline) FROM jobs WHERE state IN (?, ?, ?, ?)", open_states
        ).fetchone()
        return row[0]

    def _complete(self) -> None:
        """Add what a journal of an older version lacks."""
        known = {row[1] for row in self._database.execute("PRAGMA table_info(jobs)")}
        if "caller" not in known:
            self._database.execute("ALTER TABLE jobs ADD COLUMN caller TEXT NOT NULL DEFAULT ''")

    def _bind(self, chain_id: int, manager: str) -> None:
        row = self._database.execute("SELECT chain, manager FROM meta").fetchone()
        if row is None:
            self._database.execute("INSERT INTO meta VALUES (?, ?)", (chain_id, manager))
        elif row != (chain_id, manager):
            self._database.close()
            raise InvalidConfigError(
                f"this journal is of chain {row[0]} and manager {row[1]}",
                hint="use another data directory for another chain or contract",
            )

    def _see(self, call: SeenCall) -> None:
        known = self.get(call.key)
        if known and (known.state is not JobState.DROPPED):
            return
        # Another caller's call with the same inputs may see other resources: it is another job.
        is_same = known is not None and (
            (known.seen.inputs_hash, known.seen.caller) == (call.inputs_hash, call.caller)
        )
        result = known.result if known and is_same else None
        # A transaction that was sent may be mined yet: a second one would be a second answer.
        sent = known.transaction_hash if known and result is not None else None
        state = JobState.SEEN if result is None else JobState.SENT if sent else JobState.RAN
        self._database.execute(
            f"INSERT OR REPLACE INTO jobs ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,NULL,?)",  # noqa: S608  our own constant
            (
                *(call.key.service, call.key.call, call.job, call.inputs, call.inputs_hash),
                *(call.deadline, call.block.number, call.block.hash, state, result, sent),
                call.caller,
            ),
        )
        if call.is_quoted:
            self.quotes.use(call)

    def _move(
        self,
        keys: Sequence[CallKey],
        to: JobState,
        *,
        result: bytes | None = None,
        reason: str | None = None,
        settled: int | None = None,
    ) -> None:
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._update(keys, to, result=result, reason=reason, settled=settled)

    def _update(
        self,
        keys: Sequence[CallKey],
        to: JobState,
        *,
        result: bytes | None = None,
        transaction_hash: bytes | None = None,
        reason: str | None = None,
        settled: int | None = None,
    ) -> None:
        for key in keys:
            known = self.get(key)
            if known is None or known.state not in _BEFORE[to]:
                was = known.state if known else "not here"
                raise WrongStateError(f"call {key.service}/{key.call} is {was}, cannot be {to}")
            self._database.execute(
                "UPDATE jobs SET state = ?, result = coalesce(?, result),"
                " transaction_hash = coalesce(?, transaction_hash), reason = ?, settled = ?"
                " WHERE service = ? AND call = ?",
                (to, result, transaction_hash, reason, settled, key.service, key.call),
            )
