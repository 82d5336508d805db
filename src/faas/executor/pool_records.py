"""What the warm pools are to hold again after a restart: one small file, replaced whole.

Pre-warmings are written, and on disk, before they are acted on. What was used lately is written now
and then; losing the last of it costs one cold start.
"""

import logging
import os
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from faas.executor.pool_shelf import Template
from faas.ids import TenantId

RECENT_MAX = 32
"""More templates than that in a minute are no habit."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One tenant's pre-warming of one template."""

    tenant: TenantId
    image: str
    template: Template
    count: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Recent:
    """A template that was asked for lately, and the name it was asked for by."""

    image: str
    template: Template


@dataclass(frozen=True, slots=True)
class PoolRecords:
    """The whole file."""

    reservations: tuple[Reservation, ...] = ()
    recent: tuple[Recent, ...] = ()


def load(path: Path) -> PoolRecords:
    """Read the file; one that is missing or damaged holds nothing: all of it is only wished for."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=PoolRecords)
    except FileNotFoundError:
        return PoolRecords()
    except (OSError, msgspec.MsgspecError) as damage:
        _log.warning("the pools' file cannot be read", extra={"problem": str(damage)[:200]})
        return PoolRecords()


def save(path: Path, records: PoolRecords, *, is_durable: bool) -> None:
    """Replace the file; when durable, it is on disk when this returns."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(records))
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if is_durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
