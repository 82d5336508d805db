"""Warm pools: what they hold, and pre-warming."""

from typing import cast

import msgspec

from faas.clock import Deadline
from faas.executor.pool_shelf import Template
from faas.executor.prewarm import Prewarmed
from faas.executor.warm_pool import PoolStats
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange
from faas.gateway.replies import Reply
from faas.gateway.settings import GatewaySettings
from faas.gateway.specs import check
from faas.gateway.strict import Faults, decode
from faas.gateway.wire import (
    ExecuteRequest,
    IsolationName,
    PoolsView,
    PoolView,
    PrewarmRequest,
    PrewarmView,
)
from faas.model import ExecutionSpec

_MIB = 1 << 20

encode = msgspec.json.Encoder().encode


async def prewarm(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/prewarm`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), PrewarmRequest)
    began_ns = door.clock.monotonic_ns()
    found = await door.executor.prewarm(
        _spec(request, door.settings),
        exchange.principal,
        count=request.count,
        keep_seconds=request.keep_seconds,
        deadline=Deadline.after(door.clock, request.timeout_ms / 1000),
    )
    took_ms = (door.clock.monotonic_ns() - began_ns) / 1e6
    status = 200 if found.is_ready else 202
    return Reply(encode(_view(found, duration_ms=round(took_ms, 3))), status=status)


async def pools(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/pools`"""
    exchange.query()
    stats = door.executor.stats()
    rows = [_row(template, pool) for template, pool in stats.templates.items()]
    return Reply(encode(PoolsView(pools=rows, queued=stats.queued, running=stats.running)))


def _spec(request: PrewarmRequest, settings: GatewaySettings) -> ExecutionSpec:
    """The executions that shall find a sandbox ready; defaults and ceilings are those of a run."""
    asked = ExecuteRequest(
        command="true",
        image=request.image,
        runtime=request.runtime,
        network=request.network,
        isolation=request.isolation,
        disk_mb=request.disk_mb,
    )
    return check(asked, settings, Faults())


def _view(found: Prewarmed, *, duration_ms: float) -> PrewarmView:
    template, pool = found.template, found.stats
    return PrewarmView(
        image=found.image,
        image_digest=template.image_digest,
        runtime=template.runtime,
        runtime_reason=found.runtime_reason,
        isolation=_isolation(template),
        requested=found.requested,
        ready=pool.ready,
        making=pool.making,
        target=pool.target,
        complete=found.is_ready,
        why=pool.why,
        duration_ms=duration_ms,
        expires_at=found.expires_at,
    )


def _row(template: Template, pool: PoolStats) -> PoolView:
    return PoolView(
        runtime=template.runtime,
        image=pool.image,
        image_digest=template.image_digest,
        network=template.network.value,
        isolation=_isolation(template),
        disk_mb=template.disk_bytes // _MIB,
        ready=pool.ready,
        making=pool.making,
        busy=pool.busy,
        target=pool.target,
        kept=pool.kept,
        why=pool.why,
    )


def _isolation(template: Template) -> IsolationName | None:
    return cast("IsolationName | None", template.isolation_min)
