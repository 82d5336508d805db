"""The rows of snapshots, forks and merges in the route table."""

from typing import Any

from faas.gateway import forks, snapshot_files, snapshots
from faas.gateway.instance_wire import InstanceView
from faas.gateway.routing import Answer, Endpoint, Handler, Parameter
from faas.gateway.state_wire import (
    CURSOR,
    SNAPSHOT,
    CheckpointRequest,
    DiffView,
    ForkRequest,
    GarbageView,
    MergeRequest,
    MergeView,
    RaceRequest,
    RaceView,
    SnapshotRequest,
    SnapshotView,
    TagsRequest,
    VerifyView,
)
from faas.gateway.wire import ExecuteRequest, ExecutionView
from faas.tenancy import Scope

_SNAPSHOTS = "/api/v1/snapshots"
_AT = "/api/v1/snapshots/{snapshot_id}"


def _id(name: str, description: str) -> Parameter:
    return Parameter(name, "path", description, {"type": "string", "pattern": SNAPSHOT})


_ID = _id("snapshot_id", "Id of the snapshot, or of the execution it was taken of.")
_OTHER = _id("other_id", "Id of the other snapshot.")
_PARENT = _id("parent_id", "Id of the parent.")
_EXECUTION = Parameter(
    "execution_id",
    "path",
    "Id of the execution.",
    {"type": "string", "pattern": "^exec-[0-9a-hjkmnp-tv-z]{26}$"},
)
_TOLD = Answer(200, "As it is now.", SnapshotView)


def _row(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    answer: Answer,
    *,
    scope: Scope = Scope.EXECUTE,
    parameters: tuple[Parameter, ...] = (),
    body: Any = None,
    body_media_types: tuple[str, ...] = ("application/json",),
    failures: tuple[int, ...] = (),
    tag: str = "snapshots",
) -> Endpoint:
    sends = () if body is None else (413, 415, 504)
    return Endpoint(
        method,
        path,
        handler,
        summary,
        tag,
        (answer,),
        scope,
        parameters,
        body=body,
        body_media_types=body_media_types,
        failures=(404, 501, 503, *sends, *failures),
    )


STATE_ENDPOINTS: tuple[Endpoint, ...] = (
    _row(
        "POST",
        "/api/v1/fork",
        forks.fork_here,
        "Run children of one parent side by side, each with the parent's files",
        Answer(200, "All of them, in their order, as they ended.", list[ExecutionView]),
        body=ForkRequest,
        failures=(409, 429),
        tag="branches",
    ),
    _row(
        "POST",
        "/api/v1/executions/{parent_id}/fork",
        forks.fork_execution,
        "Run a command in a copy of what an execution left behind",
        Answer(200, "It ran.", ExecutionView),
        parameters=(_PARENT,),
        body=ExecuteRequest,
        failures=(409, 429),
        tag="branches",
    ),
    _row(
        "POST",
        "/api/v1/executions/{execution_id}/checkpoint",
        snapshots.checkpoint,
        "Keep a running execution: its files, and its memory and processes",
        Answer(200, "It is kept.", SnapshotView),
        parameters=(_EXECUTION,),
        body=CheckpointRequest,
        failures=(409,),
    ),
    _row(
        "POST",
        "/api/v1/branches/race",
        forks.race_branches,
        "Run children of one parent until the first passes; end the others",
        Answer(200, "Who won, if anybody did.", RaceView),
        body=RaceRequest,
        failures=(409, 429),
        tag="branches",
    ),
    _row(
        "POST",
        "/api/v1/branches/merge",
        forks.merge_branches,
        "Make one snapshot of several branches, against their common parent",
        Answer(200, "The snapshot, and every conflict.", MergeView),
        body=MergeRequest,
        failures=(409,),
        tag="branches",
    ),
    _row(
        "POST",
        _SNAPSHOTS,
        snapshots.create,
        "Keep the files of an execution or instance",
        Answer(200, "It is kept.", SnapshotView),
        body=SnapshotRequest,
        failures=(409, 429),
    ),
    _row(
        "GET",
        _SNAPSHOTS,
        snapshots.list_snapshots,
        "List snapshots, newest first",
        Answer(
            200,
            "A page; X-Next-Cursor is there when more follow.",
            list[SnapshotView],
            headers=("X-Next-Cursor",),
        ),
        scope=Scope.READ,
        parameters=(
            Parameter(
                "limit",
                "query",
                "How many.",
                {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": snapshots.PAGE_MAX,
                    "default": snapshots.PAGE_DEFAULT,
                },
            ),
            Parameter(
                "cursor",
                "query",
                "X-Next-Cursor of the page before.",
                {"type": "string", "pattern": CURSOR},
            ),
        ),
    ),
    _row(
        "POST",
        _SNAPSHOTS + "/import",
        snapshot_files.bring_back,
        "Take in a file that export gave, under a new id",
        Answer(200, "It is kept.", SnapshotView),
        body=SnapshotView,
        body_media_types=(snapshot_files.PORTABLE,),
    ),
    _row(
        "POST",
        _SNAPSHOTS + "/gc",
        snapshots.collect_garbage,
        "Delete bytes that no snapshot needs",
        Answer(200, "How many blobs went.", GarbageView),
        scope=Scope.ADMIN,
    ),
    _row(
        "GET", _AT, snapshots.get, "Look at a snapshot", _TOLD, scope=Scope.READ, parameters=(_ID,)
    ),
    _row(
        "DELETE",
        _AT,
        snapshots.delete,
        "Forget a snapshot; refused while a child of it lives",
        Answer(204, "Gone.", media_type=""),
        parameters=(_ID,),
        failures=(409,),
    ),
    _row(
        "POST",
        _AT + "/restore",
        snapshots.restore,
        "Start an instance from a snapshot",
        Answer(200, "It runs.", InstanceView),
        parameters=(_ID,),
        failures=(409, 429),
    ),
    _row(
        "POST",
        _AT + "/tags",
        snapshots.tag,
        "Name, describe or tag a snapshot",
        _TOLD,
        parameters=(_ID,),
        body=TagsRequest,
    ),
    _row(
        "POST",
        _AT + "/verify",
        snapshots.verify,
        "Read every byte of a snapshot and check it",
        Answer(200, "It is whole.", VerifyView),
        parameters=(_ID,),
    ),
    _row(
        "GET",
        _AT + "/export",
        snapshot_files.export,
        "Carry a snapshot away as one file",
        Answer(200, "The file.", media_type=snapshot_files.PORTABLE),
        scope=Scope.READ,
        parameters=(_ID,),
    ),
    _row(
        "GET",
        _AT + "/diff/{other_id}",
        snapshots.diff,
        "Say what differs between the files of two snapshots",
        Answer(200, "Every path that differs.", DiffView),
        scope=Scope.READ,
        parameters=(_ID, _OTHER),
    ),
)
