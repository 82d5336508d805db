"""What the ledger stores, as values, and its way to and from bytes."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from faas.errors import FaasError, InternalError
from faas.ids import ExecutionId, SandboxId, TenantId
from faas.model import (
    ExecutionRecord,
    ExecutionResult,
    ExecutionSpec,
    ExecutionState,
    FailureRecord,
)

OUTPUT_IN_ROW_BYTES_MAX = 64 << 10
"""Up to this much of each stream is kept in the row; the spool files of such an execution go."""

Row = tuple[Any, ...]
"""What SQLite gives; read here and nowhere else."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The intent: written, and committed, before anything happens."""

    seq: int
    id: ExecutionId
    tenant: TenantId
    state: ExecutionState
    is_detached: bool
    """Somebody may come back for it: it has to run even after a restart."""
    idempotency_key: str | None
    request_digest: str | None
    runtime: str | None
    sandbox_id: SandboxId | None
    created_at: datetime
    started_at: datetime | None
    spec: ExecutionSpec


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end: exactly one of the two."""

    result: ExecutionResult | None = None
    failure: FailureRecord | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """An execution as the ledger has it."""

    record: ExecutionRecord
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    is_spooled: bool = False
    """The output is in the spool files and not in the record."""


_encode = msgspec.msgpack.Encoder().encode
_decode_spec = msgspec.msgpack.Decoder(ExecutionSpec).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode


def to_us(moment: datetime) -> int:
    """Turn wall time into whole microseconds since 1970."""
    return int(moment.timestamp() * 1_000_000 + 0.5)


def from_us(us: int) -> datetime:
    """Turn microseconds since 1970 into wall time."""
    return datetime.fromtimestamp(us / 1_000_000, UTC)


def is_bulky(spec: ExecutionSpec) -> bool:
    """Whether a spec holds content that the lasting row leaves out."""
    return bool(spec.files) or spec.archive is not None or spec.stdin is not None


def slim(spec: ExecutionSpec) -> ExecutionSpec:
    """Leave out the content of files, archive and stdin, which nobody asks for afterwards."""
    if not is_bulky(spec):
        return spec
    files = tuple(replace(file, content=b"") for file in spec.files)
    return replace(spec, files=files, archive=None, stdin=None)


def encode_spec(spec: ExecutionSpec) -> bytes:
    """Turn a spec into bytes."""
    return _encode(spec)


def beginning_row(entry: Beginning) -> Row:
    """Put a beginning in the order of the statement `begin`."""
    return (
        entry.seq,
        entry.id,
        entry.tenant,
        entry.state.value,
        entry.is_detached,
        entry.idempotency_key,
        entry.request_digest,
        entry.runtime,
        entry.sandbox_id,
        to_us(entry.created_at),
        None if entry.started_at is None else to_us(entry.started_at),
        _encode(slim(entry.spec)),
    )


def beginning_from(row: Row) -> Beginning:
    """Read a row of the statement `live`."""
    return Beginning(
        seq=row[0],
        id=ExecutionId(row[1]),
        tenant=TenantId(row[2]),
        state=ExecutionState(row[3]),
        is_detached=bool(row[4]),
        idempotency_key=row[5],
        request_digest=row[6],
        runtime=row[7],
        sandbox_id=None if row[8] is None else SandboxId(row[8]),
        created_at=from_us(row[9]),
        started_at=None if row[10] is None else from_us(row[10]),
        spec=_decode_spec(row[11]),
    )


def outcome_row(
    seq: int, record: ExecutionRecord, *, stdout_bytes: int, stderr_bytes: int, is_spooled: bool
) -> Row:
    """Put an end in the order of the statement `finish`."""
    result = record.result
    if is_spooled and result is not None:
        result = replace(result, stdout=b"", stderr=b"")
    blob = _encode(Outcome(result, record.failure))
    assert record.finished_at is not None  # noqa: S101  a final record has an end
    spooled_bytes = stdout_bytes + stderr_bytes if is_spooled else 0
    return (
        seq,
        record.state.value,
        to_us(record.finished_at),
        blob,
        stdout_bytes,
        stderr_bytes,
        is_spooled,
        len(blob) + spooled_bytes,
    )


def stored_from(row: Row) -> Stored:
    """Read a row of the statements `get` and `list`."""
    outcome = Outcome() if row[7] is None else _decode_outcome(row[7])
    record = ExecutionRecord(
        id=ExecutionId(row[0]),
        tenant=TenantId(row[1]),
        state=ExecutionState(row[2]),
        spec=_decode_spec(row[6]),
        created_at=from_us(row[3]),
        started_at=None if row[4] is None else from_us(row[4]),
        finished_at=None if row[5] is None else from_us(row[5]),
        result=outcome.result,
        failure=outcome.failure,
    )
    return Stored(record, row[8] or 0, row[9] or 0, is_spooled=bool(row[10]))


def failure_record(error: FaasError) -> FailureRecord:
    """Keep enough of an error to raise it again."""
    return FailureRecord(code=error.code, message=error.message, hint=error.hint)


def raise_again(failure: FailureRecord) -> FaasError:
    """Make the error that a failure record was kept of."""
    kind = _KINDS.get(failure.code, InternalError)
    return kind(failure.message, hint=failure.hint)


def _tree(kind: type[FaasError]) -> dict[str, type[FaasError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found.update(_tree(child))
    return found


_KINDS = _tree(FaasError) | {InternalError.code: InternalError}
