"""Instances: make, look at, run in, stop, start, pause, resume, delete. Files are in
`instance_files`."""

from dataclasses import replace

import msgspec

from faas.errors import InvalidArgumentError, UnsupportedError
from faas.executor.images import ImageAsk
from faas.executor.instance_records import IdleAction, InstanceRecord, InstanceSpec
from faas.gateway import executions
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange, choice, number
from faas.gateway.instance_wire import (
    InstanceInfoView,
    InstanceRequest,
    InstanceResources,
    InstanceView,
    LeaseRequest,
    ResizeRequest,
)
from faas.gateway.replies import Headers, NoContent, Reply
from faas.gateway.settings import GatewaySettings
from faas.gateway.specs import check, login_of, read_request
from faas.gateway.strict import Faults, decode
from faas.gateway.wire import ExecuteRequest
from faas.ids import parse
from faas.model import Mode

PAGE_DEFAULT, PAGE_MAX = 100, 500

_MIB = 1 << 20
_MIB_A_GIB = 1024

encode = msgspec.json.Encoder().encode


async def create(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/instances`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), InstanceRequest)
    spec = _spec(request, door.settings)
    ask = ImageAsk(login_of(request.registry_auth))
    made = await door.executor.instances.create(spec, exchange.principal, ask=ask)
    return Reply(encode(view(made)))


async def list_instances(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/instances`"""
    query = exchange.query("limit", "cursor")
    limit: int = number(query, "limit", PAGE_DEFAULT, least=1, most=PAGE_MAX)
    cursor = query.get("cursor")
    before = None if cursor is None else parse(cursor, prefix="inst")
    found = [
        record
        for record in door.executor.instances.list(exchange.principal)
        if before is None or record.id < before
    ]
    headers: Headers | None = None
    if len(found) > limit:
        headers = [(b"x-next-cursor", found[limit - 1].id.encode())]
    return Reply(encode([view(record) for record in found[:limit]]), headers=headers)


async def get(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/instances/{id}`"""
    exchange.query()
    return Reply(encode(view(door.executor.instances.get(reference(exchange), exchange.principal))))


async def info(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/instances/{id}/info`"""
    exchange.query()
    found = view(door.executor.instances.get(reference(exchange), exchange.principal))
    ports = door.executor.instances.ports.list(found.id, exchange.principal)
    resources = InstanceResources(found.cpu_cores, found.memory_mb, found.disk_mb / _MIB_A_GIB)
    return Reply(
        encode(
            InstanceInfoView(
                id=found.id,
                status=found.status,
                created_at=found.created_at,
                resources=resources,
                exposed_ports={str(one.port): one.url for one in ports},
            )
        )
    )


async def run(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/instances/{id}/exec`"""
    exchange.require_json()
    exchange.query()
    request, spec = read_request(await exchange.body(), door.settings)
    found = door.executor.instances.get(reference(exchange), exchange.principal)
    # The instance is part of what is asked: the same key for another one is another request.
    request = msgspec.structs.replace(request, mode=Mode.PERSISTENT.value, instance_id=found.id)
    spec = replace(
        spec,
        mode=Mode.PERSISTENT,
        instance_id=found.id,
        image=found.spec.image,
        cache_key=None,
        snapshot_id=None,
        branch_from=None,
    )
    return await executions.run(door, exchange, request, spec)


async def start(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/instances/{id}/start`"""
    found = await door.executor.instances.start(_step(exchange), exchange.principal)
    return Reply(encode(view(found)))


async def stop(door: Door, exchange: Exchange) -> NoContent:
    """`POST /api/v1/instances/{id}/stop`"""
    await door.executor.instances.stop(_step(exchange), exchange.principal)
    return NoContent()


async def pause(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/instances/{id}/pause`"""
    query = exchange.query("to")
    pause_it = door.executor.instances.pause
    if choice(query, "to", ("freezer", "disk")) == "disk":
        pause_it = door.executor.instances.pause_to_disk
    found = await pause_it(reference(exchange), exchange.principal)
    return Reply(encode(view(found)))


async def resume(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/instances/{id}/resume`"""
    found = await door.executor.instances.resume(_step(exchange), exchange.principal)
    return Reply(encode(view(found)))


async def resize(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/instances/{id}/resize`"""
    exchange.require_json()
    exchange.query()
    asked = decode(await exchange.body(), ResizeRequest)
    limits = door.executor.instances.get(reference(exchange), exchange.principal).spec.limits
    # The same checks as when it was made; what is not named stays.
    wanted = check(
        ExecuteRequest(
            command="true",
            memory_mb=asked.memory_mb or limits.memory_bytes // _MIB,
            cpu_cores=asked.cpu_cores or limits.cpu_millis / 1000,
            pids_max=asked.pids_max or limits.pids_max,
            disk_mb=asked.disk_mb or limits.disk_bytes // _MIB,
        ),
        door.settings,
        Faults(),
    ).limits
    limits = replace(
        limits,
        memory_bytes=wanted.memory_bytes,
        cpu_millis=wanted.cpu_millis,
        pids_max=wanted.pids_max,
        disk_bytes=limits.disk_bytes if asked.disk_mb is None else wanted.disk_bytes,
    )
    found = await door.executor.instances.terms.resize(
        reference(exchange), exchange.principal, limits
    )
    return Reply(encode(view(found)))


async def lease(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/instances/{id}/lease`"""
    exchange.require_json()
    exchange.query()
    asked = decode(await exchange.body(), LeaseRequest)
    found = await door.executor.instances.terms.renew(
        reference(exchange), exchange.principal, asked.seconds
    )
    return Reply(encode(view(found)))


async def delete(door: Door, exchange: Exchange) -> NoContent:
    """`DELETE /api/v1/instances/{id}`"""
    await door.executor.instances.delete(_step(exchange), exchange.principal)
    return NoContent()


def reference(exchange: Exchange) -> str:
    """The id or name in the path."""
    return exchange.path_parameter("instance_id")


def _step(exchange: Exchange) -> str:
    exchange.query()
    return reference(exchange)


def view(record: InstanceRecord) -> InstanceView:
    """One instance as it is told."""
    spec = record.spec
    return InstanceView(
        id=record.id,
        instance_id=record.id,
        name=spec.name,
        status=record.state.value,
        memory=spec.memory,
        on_disk=record.is_on_disk,
        asleep=record.is_asleep,
        problem=record.problem,
        image=spec.image,
        image_digest=record.image_digest,
        container_id=record.sandbox_id,
        runtime_used=record.runtime,
        isolation=record.isolation,
        network=spec.network.value,
        created_at=record.created_at,
        changed_at=record.changed_at,
        cpu_cores=spec.limits.cpu_millis / 1000,
        memory_mb=spec.limits.memory_bytes // _MIB,
        disk_mb=spec.limits.disk_bytes // _MIB,
        snapshot_id=record.snapshot_id,
        from_snapshot=spec.snapshot_id,
        ttl_seconds=spec.ttl_seconds,
        idle_seconds=spec.idle_seconds,
        idle_action=spec.idle_action.value,
        lease_seconds=spec.lease_seconds,
        lease_until=record.lease_until,
        ports=[one.port for one in record.ports],
    )


def _spec(request: InstanceRequest, settings: GatewaySettings) -> InstanceSpec:
    if request.enable_ssh:
        raise UnsupportedError("there is no SSH into instances", hint="exec runs commands in them")
    faults = Faults()
    disk_mb = request.disk_mb
    if request.disk_gb is not None:
        if disk_mb is not None:
            faults.add("$.disk_gb", "was given beside `disk_mb`; give one of the two")
        disk_mb = max(1, round(request.disk_gb * _MIB_A_GIB))
    asked = check(
        ExecuteRequest(
            command="true",
            image=request.image,
            runtime=request.runtime,
            memory_mb=request.memory_mb,
            cpu_cores=request.cpu_cores,
            pids_max=request.pids_max,
            disk_mb=disk_mb,
            env_vars=request.env_vars,
            working_dir=request.working_dir,
            user=request.user,
            network=request.network,
            pull_policy=request.pull_policy,
            isolation=request.isolation,
        ),
        settings,
        faults,
    )
    if request.snapshot_id is not None and request.image is not None:
        raise InvalidArgumentError(
            "`image` and `snapshot_id` exclude each other", hint="a snapshot knows its image"
        )
    return InstanceSpec(
        image=asked.image,
        name=request.name,
        runtime=asked.runtime,
        limits=asked.limits,
        network=asked.network,
        pull_policy=asked.pull_policy,
        isolation_min=asked.isolation_min,
        env=asked.env,
        working_dir=asked.working_dir,
        user=asked.user,
        snapshot_id=request.snapshot_id,
        memory=request.memory,
        ttl_seconds=request.ttl_seconds,
        idle_seconds=request.idle_seconds,
        idle_action=IdleAction(request.idle_action),
        lease_seconds=request.lease_seconds,
    )
