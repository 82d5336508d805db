"""Snapshots: make, list, look at, tell apart, restore, delete. As files: `snapshot_files`."""

from datetime import datetime, timedelta

import msgspec

from faas.executor.instance_records import InstanceSpec
from faas.executor.origins import Wanted
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange, number
from faas.gateway.instances import view as instance_view
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
from faas.snapshots import SnapshotRecord, SnapshotStore

PAGE_DEFAULT, PAGE_MAX = 100, 500

encode = msgspec.json.Encoder().encode


async def create(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), SnapshotRequest)
    wanted = Wanted(request.name, request.description, tuple(request.tags))
    origins = door.executor.origins
    take = origins.memory_of if request.memory else origins.snapshot_of
    record = await take(request.container_id, exchange.principal, wanted)
    if not request.memory or request.keep_seconds is not None:
        record = await origins.snapshots.describe(
            record.id,
            name=wanted.name,
            description=wanted.description,
            tags=wanted.tags,
            expires_at=_until(door, request.keep_seconds),
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
    if request.keep_seconds is not None:
        record = await store_of(door).describe(
            record.id,
            name=record.name,
            description=record.description,
            tags=record.tags,
            expires_at=_until(door, request.keep_seconds),
        )
    return Reply(encode(snapshot_view(record)))


async def list_snapshots(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/snapshots`"""
    query = exchange.query("limit", "cursor")
    limit: int = number(query, "limit", PAGE_DEFAULT, least=1, most=PAGE_MAX)
    cursor = query.get("cursor")
    found = await store_of(door).page(
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
    return Reply(encode(snapshot_view(await named(door, exchange))))


async def delete(door: Door, exchange: Exchange) -> NoContent:
    """`DELETE /api/v1/snapshots/{id}`"""
    exchange.query()
    record = await named(door, exchange)
    await store_of(door).remove(record.id, tenant=exchange.principal.tenant.id)
    return NoContent()


async def tag(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots/{id}/tags`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), TagsRequest)
    record = await named(door, exchange)
    told = await store_of(door).describe(
        record.id,
        name=request.name or record.name,
        description=request.description or record.description,
        tags=record.tags if request.tags is None else tuple(request.tags),
        expires_at=(
            record.expires_at
            if request.keep_seconds is None
            else _until(door, request.keep_seconds or None)
        ),
    )
    return Reply(encode(snapshot_view(told)))


async def restore(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots/{id}/restore`"""
    exchange.query()
    record = await named(door, exchange)
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
    record = await named(door, exchange)
    await store_of(door).verify(record.id)
    return Reply(encode(VerifyView(record.id, ok=True)))


async def diff(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/snapshots/{a}/diff/{b}`"""
    exchange.query()
    tenant = exchange.principal.tenant.id
    store = store_of(door)
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


async def collect_garbage(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/snapshots/gc`"""
    exchange.query()
    return Reply(encode(GarbageView(await store_of(door).collect_garbage())))


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
        expires_at=record.expires_at,
    )


def _until(door: Door, keep_seconds: float | None) -> datetime | None:
    return None if keep_seconds is None else door.clock.now() + timedelta(seconds=keep_seconds)


def store_of(door: Door) -> SnapshotStore:
    """Where snapshots are."""
    return door.executor.origins.snapshots


async def named(door: Door, exchange: Exchange) -> SnapshotRecord:
    """The snapshot that the path names, whole."""
    reference = exchange.path_parameter("snapshot_id")
    await door.executor.origins.settle(reference)
    return await store_of(door).get(reference, tenant=exchange.principal.tenant.id)
