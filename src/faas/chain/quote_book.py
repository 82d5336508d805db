"""The quotes that were signed, and the slots kept for them: a part of the journal's file.

    kept (a slot is taken) → signed → used: its call was seen, and counts by itself from then on
                                  └→ expired, and a little later the slot is free

A quote is kept before it is signed, so that a restart knows of every signature that may be out, and
there is one open quote for one wish: whoever asks again gets the same one, which Tangle takes once.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from faas.chain.journal_rows import CallKey, SeenCall

SEEN_SECONDS: Final = 30
"""A quote used in its last second is seen this much later at most, or its slot is given twice."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS quotes (
    requester TEXT NOT NULL, service INTEGER NOT NULL, job INTEGER NOT NULL,
    inputs_hash BLOB NOT NULL, timestamp INTEGER NOT NULL, expiry INTEGER NOT NULL,
    price TEXT NOT NULL, signature BLOB NOT NULL, call INTEGER,
    PRIMARY KEY (requester, service, job, inputs_hash, timestamp)
);
CREATE INDEX IF NOT EXISTS quotes_by_call ON quotes (service, call);
"""
_WISH: Final = "requester = ? AND service = ? AND job = ? AND inputs_hash = ?"
_COLUMNS: Final = "requester, service, job, inputs_hash, timestamp, expiry, price, signature"
_OPEN: Final = "call IS NULL AND expiry > ?"


@dataclass(frozen=True, slots=True)
class Quote:
    """Tangle's `JobQuoteDetails`, and the operator's signature once there is one."""

    requester: str
    service: int
    job: int
    inputs_hash: bytes
    timestamp: int
    expiry: int
    price: int
    signature: bytes = b""

    @property
    def wish(self) -> tuple[str, int, int, bytes]:
        """What was asked for."""
        return (self.requester, self.service, self.job, self.inputs_hash)


class QuoteBook:
    """One operator's quotes."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._database.executescript(_SCHEMA)

    def newest(self, wish: tuple[str, int, int, bytes]) -> Quote | None:
        """Recall the last quote for that wish, whatever became of it."""
        row = self._database.execute(
            f"SELECT {_COLUMNS} FROM quotes WHERE {_WISH} ORDER BY timestamp DESC LIMIT 1",  # noqa: S608  our own constants
            wish,
        ).fetchone()
        return Quote(*row[:6], price=int(row[6]), signature=row[7]) if row else None

    def is_open(self, quote: Quote, now: int) -> bool:
        """Whether Tangle would still take it, as far as we have seen."""
        found = self._database.execute(
            f"SELECT 1 FROM quotes WHERE {_WISH} AND timestamp = ? AND {_OPEN}",  # noqa: S608  our own constants
            (*quote.wish, quote.timestamp, now),
        ).fetchone()
        return found is not None

    def keep(self, quote: Quote) -> None:
        """Take a slot for a quote that is about to be signed."""
        self._database.execute(
            f"INSERT INTO quotes ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  our own constant
            (*quote.wish, quote.timestamp, quote.expiry, str(quote.price), quote.signature),
        )

    def signed(self, quote: Quote, signature: bytes) -> Quote:
        """Remember the signature before anybody is given it."""
        self._database.execute(
            f"UPDATE quotes SET signature = ? WHERE {_WISH} AND timestamp = ?",  # noqa: S608  our own constant
            (signature, *quote.wish, quote.timestamp),
        )
        return replace(quote, signature=signature)

    def slots(self, now: int, *, requester: str | None = None) -> int:
        """Count the slots that are kept, of everybody or of one."""
        row = self._database.execute(
            f"SELECT count(*) FROM quotes WHERE {_OPEN} AND (? IS NULL OR requester = ?)",  # noqa: S608  our own constant
            (now - SEEN_SECONDS, requester, requester),
        ).fetchone()
        return row[0]

    def trim(self, now: int) -> None:
        """Forget quotes that nobody can use any more, also after a reorg."""
        self._database.execute("DELETE FROM quotes WHERE expiry < ?", (now - _KEPT_SECONDS,))

    # In a step of the journal

    def use(self, call: SeenCall) -> None:
        """The call was bought by the open quote for it."""
        key, wish = call.key, (call.caller, call.key.service, call.job, call.inputs_hash)
        self._database.execute(
            f"UPDATE quotes SET call = ? WHERE {_WISH} AND timestamp ="  # noqa: S608  our own constants
            f" (SELECT max(timestamp) FROM quotes WHERE {_WISH} AND call IS NULL)",
            (key.call, *wish, *wish),
        )

    def give_back(self, keys: Iterable[CallKey]) -> None:
        """A reorg took these calls: what bought them is unused again."""
        self._database.executemany(
            "UPDATE quotes SET call = NULL WHERE service = ? AND call = ?",
            [(key.service, key.call) for key in keys],
        )


_KEPT_SECONDS: Final = 86_400
"""Far past any reorg, and long enough to look into."""
