"""Forks, races and merges of branches."""

import msgspec

from faas.errors import InvalidArgumentError
from faas.executor.race import fork, race
from faas.gateway import views
from faas.gateway.connection import while_connected
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange
from faas.gateway.replies import Reply
from faas.gateway.snapshots import snapshot_view
from faas.gateway.specs import check
from faas.gateway.state_wire import (
    ConflictView,
    ForkRequest,
    MergeRequest,
    MergeView,
    RaceRequest,
    RaceView,
)
from faas.gateway.strict import Faults, decode
from faas.gateway.wire import ExecuteRequest
from faas.model import ExecutionSpec, Mode
from faas.snapshots import MergeStrategy

encode = msgspec.json.Encoder().encode
_OF_A_CHILD = tuple(ExecuteRequest.__struct_fields__)


async def fork_here(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/fork`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), ForkRequest)
    children = _children(door, _asked(request))
    records = await while_connected(
        fork(door.executor, request.branch_from, children, exchange.principal),
        exchange.receive,
        after_seconds=door.settings.disconnect_watch_seconds,
    )
    return Reply(encode([views.execution(record) for record in records]))


async def fork_execution(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/executions/{id}/fork`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), ExecuteRequest)
    parent = exchange.path_parameter("parent_id")
    records = await while_connected(
        fork(door.executor, parent, _children(door, [request]), exchange.principal),
        exchange.receive,
        after_seconds=door.settings.disconnect_watch_seconds,
    )
    return Reply(encode(views.execution(records[0])))


async def race_branches(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/branches/race`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), RaceRequest)
    judged = None if request.check is None else ("sh", "-c", request.check)
    result = await while_connected(
        race(
            door.executor,
            request.branch_from,
            _children(door, request.children),
            exchange.principal,
            check=judged,
        ),
        exchange.receive,
        after_seconds=door.settings.disconnect_watch_seconds,
    )
    winner = result.winner
    return Reply(
        encode(
            RaceView(
                winner=None if winner is None else winner.id,
                snapshot_id=winner.result.snapshot_id if winner and winner.result else None,
                children=[views.execution(record) for record in result.children],
            )
        )
    )


async def merge_branches(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/branches/merge`"""
    exchange.require_json()
    exchange.query()
    request = decode(await exchange.body(), MergeRequest)
    origins = door.executor.origins
    found = [await origins.snapshot_of(one, exchange.principal) for one in request.branches]
    record, merged = await origins.snapshots.merge(
        [one.id for one in found],
        strategy=MergeStrategy(request.strategy),
        tenant=exchange.principal.tenant.id,
        name=request.name,
    )
    conflicts = [ConflictView(c.path, list(c.branches), c.resolution) for c in merged.conflicts]
    return Reply(
        encode(
            MergeView(
                snapshot_id=record.id,
                snapshot=snapshot_view(record),
                parent=record.parent,
                applied=merged.applied,
                conflicts=conflicts,
            )
        )
    )


def _asked(request: ForkRequest) -> list[ExecuteRequest]:
    goes_on = request.memory and request.children is None
    if (request.children is None) == (request.command is None) and not goes_on:
        raise InvalidArgumentError(
            "give `children`, or the `command` of a single child, and only one of them"
        )
    if request.children is not None:
        return request.children
    fields = {name: getattr(request, name) for name in _OF_A_CHILD}
    return [ExecuteRequest(**fields)]


def _children(door: Door, asked: list[ExecuteRequest]) -> list[ExecutionSpec]:
    """Read children as executions of mode branched; a child keeps `checkpointed` if it says so."""
    faults = Faults()
    specs: list[ExecutionSpec] = []
    for child in asked:
        mode = child.mode if child.mode == Mode.CHECKPOINTED.value else Mode.BRANCHED.value
        # Its parent is the one of the whole request; its image is its parent's.
        asked_alone = msgspec.structs.replace(
            child, mode=mode, branch_from="parent", snapshot_id=None, instance_id=None
        )
        specs.append(check(asked_alone, door.settings, faults))
    faults.raise_if_any()
    return specs
