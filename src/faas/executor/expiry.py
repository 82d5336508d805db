"""Snapshots whose time has come."""

from contextlib import suppress
from datetime import datetime

from faas.errors import ConflictError, NotFoundError
from faas.executor.settings import ExecutorSettings
from faas.snapshots import FORKED, SnapshotRecord, SnapshotStore

TIDIED_MAX = 100_000


async def tidy(snapshots: SnapshotStore, settings: ExecutorSettings, *, now: datetime) -> int:
    """Forget snapshots whose time has come and of which no child lives; where the store is
    ours alone, collect what nothing needs any more. Return how many snapshots went."""
    gone = 0
    for record in await snapshots.page(limit=TIDIED_MAX):  # children before their parents
        if _is_over(record, settings, now):
            with suppress(ConflictError, NotFoundError):
                await snapshots.remove(record.id)
                gone += 1
    if settings.collects_garbage:
        await snapshots.collect_garbage()
    return gone


def _is_over(record: SnapshotRecord, settings: ExecutorSettings, now: datetime) -> bool:
    if record.expires_at is not None:
        return record.expires_at <= now
    age_seconds = (now - record.created_at).total_seconds()
    if record.tags == (FORKED,) and record.name is None:
        return age_seconds > settings.forked_seconds_max
    is_unnamed = record.name is None and not record.tags and record.source.startswith("exec-")
    return is_unnamed and 0 < settings.unnamed_seconds_max < age_seconds
