"""What the journal keeps, as values, and how they lie in its tables."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """Where the operator's part in a job stands."""

    SEEN = "seen"
    RUNNING = "running"
    RAN = "ran"
    SENT = "sent"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Block:
    """A block we have read up to."""

    number: int
    hash: bytes


@dataclass(frozen=True, slots=True, order=True)
class CallKey:
    """A call, unique on the journal's chain until a reorg."""

    service: int
    call: int


@dataclass(frozen=True, slots=True)
class SeenCall:
    """A call assigned to us, as read from one block."""

    key: CallKey
    job: int
    inputs: bytes
    inputs_hash: bytes
    deadline: int
    block: Block
    caller: str = ""
    is_quoted: bool = False
    """Whether it was bought by a quote of this operator; told once, and not kept with the call."""


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """What is sent again, byte for byte, after a restart."""

    nonce: int
    raw: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One call and where our part in it stands."""

    seen: SeenCall
    state: JobState
    result: bytes | None
    transaction_hash: bytes | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Move:
    """One job's step to its next state."""

    key: CallKey
    to: JobState
    result: bytes | None = None


SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (chain INTEGER NOT NULL, manager TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (number INTEGER PRIMARY KEY, hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS transactions (
    hash BLOB PRIMARY KEY, nonce INTEGER NOT NULL, raw BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS jobs (
    service INTEGER NOT NULL, call INTEGER NOT NULL, job INTEGER NOT NULL,
    inputs BLOB NOT NULL, inputs_hash BLOB NOT NULL, deadline INTEGER NOT NULL,
    block_number INTEGER NOT NULL, block_hash BLOB NOT NULL,
    state TEXT NOT NULL, result BLOB, transaction_hash BLOB, reason TEXT, settled INTEGER,
    caller TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (service, call)
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, deadline);
CREATE INDEX IF NOT EXISTS transactions_by_nonce ON transactions (nonce);
"""
COLUMNS: Final = (
    "service, call, job, inputs, inputs_hash, deadline, block_number, block_hash,"
    " state, result, transaction_hash, reason, caller"
)

Row = tuple[
    int, int, int, bytes, bytes, int, int, bytes, str, bytes | None, bytes | None, str | None, str
]


def entry_of(row: Row) -> JournalEntry:
    """Read one call."""
    block = Block(row[6], row[7])
    seen = SeenCall(CallKey(row[0], row[1]), row[2], row[3], row[4], row[5], block, row[12])
    return JournalEntry(seen, JobState(row[8]), row[9], row[10], row[11])
