"""Snapshots: make, list, look at, tell apart, restore, carry away and bring back, delete."""

import asyncio
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from faas.executor.instance_records import InstanceSpec
from faas.executor.origins import Wanted
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange, number
from faas.gateway.instances import view as instance_view
from faas.gateway.problems import UnsupportedMediaTypeError
from faas.gateway.replies import Headers, NoContent, Reply
from faas.gateway.state_wire import (
    ChangeView,
    CheckpointRequest,
    DiffView,
    GarbageView,
    SnapshotRequest,
    SnapshotView,
    TagsRequest,
    VerifyView,
)
from faas.gateway.strict import decode
from faas.ids import ExecutionId, parse
from faas.snapshots import SnapshotRecord, SnapshotStore, export_snapshot, import_snapshot

PAGE_DEFAULT, PAGE_MAX = 100, 500
PORTABLE = "application/octet-stream"

encode = msgspec.json.Encoder().encode


async def create(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), SnapshotRequest)
    wanted = Wanted(request.name, request.description, tuple(request.tags))
    origins = door.executor.origins
    if request.memory:
        record = await origins.memory_of(request.container_id, exchange.principal, wanted)
        return Reply(encode(snapshot_view(record)))
    record = await origins.snapshot_of(request.container_id, exchange.principal, wanted)
    record = await origins.snapshots.describe(
        record.id, name=wanted.name, description=wanted.description, tags=wanted.tags
    )
    return Reply(encode(snapshot_view(record)))


async def checkpoint(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/executions/{id}/checkpoint`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), CheckpointRequest)
    record = await door.executor.checkpoint(
        ExecutionId(exchange.path_parameter("execution_id")),
        exchange.principal,
        Wanted(request.name, request.description, tuple(request.tags)),
        memory=request.memory,
        stop=request.stop,
    )
    return Reply(encode(snapshot_view(record)))


async def list_snapshots(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/snapshots`"""
    query = exchange.query("limit", "cursor")
    limit: int = number(query, "limit", PAGE_DEFAULT, least=1, most=PAGE_MAX)
    cursor = query.get("cursor")
    found = await _store(door).page(
        tenant=exchange.principal.tenant.id,
        limit=limit + 1,
        before=None if cursor is None else parse(cursor, prefix="snap"),
    )
    headers: Headers | None = None
    if len(found) > limit:
        headers = [(b"x-next-cursor", found[limit - 1].id.encode())]
    return Reply(encode([snapshot_view(record) for record in found[:limit]]), headers=headers)


async def get(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/snapshots/{id}`"""
    exchange.query()
    return Reply(encode(snapshot_view(await _named(door, exchange))))


async def delete(door: Door, exchange: Exchange) -> NoContent:
    """`DELETE /api/v1/snapshots/{id}`"""
    exchange.query()
    record = await _named(door, exchange)
    await _store(door).remove(record.id, tenant=exchange.principal.tenant.id)
    return NoContent()


async def tag(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots/{id}/tags`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), TagsRequest)
    record = await _named(door, exchange)
    told = await _store(door).describe(
        record.id,
        name=request.name or record.name,
        description=request.description or record.description,
        tags=record.tags if request.tags is None else tuple(request.tags),
    )
    return Reply(encode(snapshot_view(told)))


async def restore(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots/{id}/restore`"""
    exchange.query()
    record = await _named(door, exchange)
    spec = InstanceSpec(
        image=record.image,
        snapshot_id=record.id,
        limits=door.settings.limits_default,
        memory=record.has_memory,
    )
    made = await door.executor.instances.create(spec, exchange.principal)
    return Reply(encode(instance_view(made)))


async def verify(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots/{id}/verify`"""
    exchange.query()
    record = await _named(door, exchange)
    await _store(door).verify(record.id)
    return Reply(encode(VerifyView(record.id, ok=True)))


async def diff(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/snapshots/{a}/diff/{b}`"""
    exchange.query()
    tenant = exchange.principal.tenant.id
    store = _store(door)
    before = await store.get(exchange.path_parameter("snapshot_id"), tenant=tenant)
    after = await store.get(exchange.path_parameter("other_id"), tenant=tenant)
    changes = [
        ChangeView(
            change.path,
            change.kind.value,
            None if change.before is None else change.before.size_bytes,
            None if change.after is None else change.after.size_bytes,
        )
        for change in await store.diff(before.id, after.id)
    ]
    return Reply(encode(DiffView(before.id, after.id, changes)))


async def export(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/snapshots/{id}/export`"""
    exchange.query()
    record = await _named(door, exchange)
    with TemporaryDirectory(prefix="faas-export-", dir=door.settings.data_dir) as scratch:
        target = Path(scratch) / "snapshot"
        await export_snapshot(_store(door), record.id, target)
        content = await asyncio.to_thread(target.read_bytes)
    name = f'attachment; filename="{record.id}.faas-snapshot"'.encode()
    return Reply(content, media_type=PORTABLE.encode(), headers=[(b"content-disposition", name)])


async def bring_back(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots/import`"""
    exchange.query()
    if exchange.media_type() != PORTABLE:
        raise UnsupportedMediaTypeError(
            f"the body is {exchange.media_type() or 'of no stated type'}, not {PORTABLE}",
            hint="send the file that export gave",
            details={"supported": [PORTABLE]},
        )
    source = io.BytesIO(await exchange.body())
    record = await import_snapshot(_store(door), source, tenant=exchange.principal.tenant.id)
    return Reply(encode(snapshot_view(record)))


async def collect_garbage(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots/gc`"""
    exchange.query()
    return Reply(encode(GarbageView(await _store(door).collect_garbage())))


def snapshot_view(record: SnapshotRecord) -> SnapshotView:
    """One snapshot as it is told."""
    return SnapshotView(
        id=record.id,
        snapshot_id=record.id,
        container_id=record.source,
        name=record.name,
        description=record.description,
        tags=list(record.tags),
        parent=record.parent,
        image=record.image,
        image_digest=record.image_digest,
        runtimes=list(record.runtimes),
        has_memory=record.has_memory,
        size_bytes=record.size_bytes,
        stored_bytes=record.stored_bytes,
        created_at=record.created_at,
    )


def _store(door: Door) -> SnapshotStore:
    return door.executor.origins.snapshots


async def _named(door: Door, exchange: Exchange) -> SnapshotRecord:
    reference = exchange.path_parameter("snapshot_id")
    await door.executor.origins.settle(reference)
    return await _store(door).get(reference, tenant=exchange.principal.tenant.id)
