"""The rows of instances in the route table."""

from msgspec import Struct

from faas.errors import InvalidArgumentError
from faas.gateway import instance_files as files
from faas.gateway import instances, ports, watch_stream
from faas.gateway.container_wire import FileEvent
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange
from faas.gateway.instance_wire import (
    ABSOLUTE,
    REFERENCE,
    DirectoryView,
    FileView,
    InstanceInfoView,
    InstanceRequest,
    InstanceView,
    LeaseRequest,
    MakeDirectoryRequest,
    MoveRequest,
    ResizeRequest,
    WatchEndEvent,
    WatchReadyEvent,
)
from faas.gateway.port_wire import ExposedView, ExposeRequest, OperatorExposeRequest, PortView
from faas.gateway.replies import Reply
from faas.gateway.routing import Answer, Endpoint, Handler, Parameter
from faas.gateway.wire import ExecuteRequest, ExecutionView
from faas.tenancy import Scope

_AT = "/api/v1/instances/{instance_id}"
_ID = Parameter(
    "instance_id", "path", "Id or name of the instance.", {"type": "string", "pattern": REFERENCE}
)
_PATH = Parameter(
    "path",
    "query",
    "Absolute path in the instance.",
    {"type": "string", "pattern": ABSOLUTE, "maxLength": 1024},
    is_required=True,
)
_RAW = "application/octet-stream"
_TAR = "application/x-tar"


def _row(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    answer: Answer,
    *,
    scope: Scope = Scope.EXECUTE,
    parameters: tuple[Parameter, ...] = (),
    body: type[Struct] | None = None,
    body_media_types: tuple[str, ...] = ("application/json",),
) -> Endpoint:
    sends = (413, 415, 504) if body is not None or method == "PUT" else ()
    return Endpoint(
        method,
        _AT + path,
        handler,
        summary,
        "instances",
        (answer,),
        scope,
        (_ID, *parameters),
        body=body,
        body_media_types=body_media_types,
        failures=(404, 409, 429, 501, 503, *sends),
    )


def _query(name: str, description: str, **schema: object) -> Parameter:
    return Parameter(name, "query", description, schema)


_DONE = Answer(204, "Done.", media_type="")
_AS_IT_IS = Answer(200, "As it is now.", InstanceView)


async def _speak_websocket(_: Door, exchange: Exchange) -> Reply:
    raise InvalidArgumentError("this path speaks WebSocket", hint="connect with ws:// or wss://")


_WATCH = _row(
    "GET",
    "/files/watch",
    watch_stream.watch,
    "Hear what changes below a directory",
    Answer(
        200,
        "Server-sent events until the instance is deleted; `ready` when the first look is done.",
        media_type="text/event-stream",
        events={"ready": WatchReadyEvent, "file_event": FileEvent, "end": WatchEndEvent},
    ),
    parameters=(_PATH,),
)

INSTANCE_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/api/v1/instances",
        instances.create,
        "Make an instance: a sandbox that stays, with a name",
        "instances",
        (Answer(200, "It runs.", InstanceView),),
        Scope.EXECUTE,
        body=InstanceRequest,
        failures=(404, 409, 413, 415, 429, 501, 503, 504),
    ),
    Endpoint(
        "GET",
        "/api/v1/instances",
        instances.list_instances,
        "List instances, newest first",
        "instances",
        (Answer(200, "A page.", list[InstanceView], headers=("X-Next-Cursor",)),),
        Scope.READ,
        parameters=(
            _query("limit", "Most of them.", type="integer", minimum=1, maximum=instances.PAGE_MAX),
            _query(
                "cursor",
                "Go on after this one: `X-Next-Cursor` of the page before.",
                type="string",
                pattern="^inst-[0-9a-hjkmnp-tv-z]{26}$",
            ),
        ),
    ),
    Endpoint(
        "POST",
        "/api/v1/ports/expose",
        ports.expose_for_operator,
        "Expose a port, in the operator API's shape",
        "instances",
        (Answer(200, "Its address, token included.", ExposedView),),
        Scope.EXECUTE,
        body=OperatorExposeRequest,
        failures=(404, 409, 413, 415, 429, 501, 503, 504),
    ),
    Endpoint(
        "GET",
        "/api/v1/containers/{id}/stream",
        _speak_websocket,
        summary="Follow and steer what runs, by WebSocket",
        tag="instances",
        is_documented=False,
    ),
    _row("GET", "", instances.get, "Look at one instance", _AS_IT_IS, scope=Scope.READ),
    _row("DELETE", "", instances.delete, "End it and forget its files", _DONE),
    _row(
        "GET",
        "/info",
        instances.info,
        "Look at one instance, in the operator API's shape",
        Answer(200, "As it is now.", InstanceInfoView),
        scope=Scope.READ,
    ),
    _row(
        "POST",
        "/exec",
        instances.run,
        "Run a command in it: as execute, in mode persistent",
        Answer(200, "It ran, or was stored (202, with wait=false).", ExecutionView),
        body=ExecuteRequest,
    ),
    _row("POST", "/start", instances.start, "Start a stopped instance", _AS_IT_IS),
    _row("POST", "/stop", instances.stop, "End its commands, keep its files", _DONE),
    _row(
        "POST",
        "/pause",
        instances.pause,
        "Freeze it, memory and all, or keep it on disk",
        _AS_IT_IS,
        parameters=(
            Parameter(
                "to",
                "query",
                "`freezer` stops it in memory; `disk` keeps memory and files on disk and gives back"
                " all it held, and goes on also after a restart of the machine.",
                {"type": "string", "enum": ["freezer", "disk"], "default": "freezer"},
            ),
        ),
    ),
    _row("POST", "/resume", instances.resume, "Let a paused instance go on", _AS_IT_IS),
    _row(
        "POST",
        "/resize",
        instances.resize,
        "Give it other limits, while it runs or for its next start",
        _AS_IT_IS,
        body=ResizeRequest,
    ),
    _row(
        "POST",
        "/lease",
        instances.lease,
        "Hold it for so long from now",
        _AS_IT_IS,
        body=LeaseRequest,
    ),
    _row(
        "POST",
        "/ports",
        ports.expose,
        "Let a port of it be reached",
        Answer(200, "Its address, and a token.", PortView),
        body=ExposeRequest,
    ),
    _row(
        "GET",
        "/ports",
        ports.list_ports,
        "List its exposed ports",
        Answer(200, "Lowest first.", list[PortView]),
        scope=Scope.READ,
    ),
    _row(
        "DELETE",
        "/ports/{port}",
        ports.close,
        "Let a port be reached no more",
        _DONE,
        parameters=(
            Parameter(
                "port", "path", "Its number.", {"type": "integer", "minimum": 1, "maximum": 65535}
            ),
        ),
    ),
    _row(
        "GET",
        "/files",
        files.read,
        "Read a file",
        Answer(200, "Its bytes.", media_type=_RAW, headers=("X-Next-Offset", "X-Ended")),
        parameters=(
            _PATH,
            _query("offset", "First byte.", type="integer", minimum=0, maximum=2**53),
            _query("limit", "Most bytes.", type="integer", minimum=1, maximum=files.READ_MAX),
        ),
    ),
    _row(
        "PUT",
        "/files",
        files.write,
        "Write a file; the body is its content",
        _DONE,
        parameters=(_PATH, _query("mode", "Octal.", type="string", pattern="^[0-7]{1,4}$")),
    ),
    _row(
        "DELETE",
        "/files",
        files.remove,
        "Remove a file or directory",
        _DONE,
        parameters=(
            _PATH,
            _query("recursive", "With all that is in it.", type="string", enum=["true", "false"]),
        ),
    ),
    _row(
        "GET",
        "/files/list",
        files.list_directory,
        "List a directory",
        Answer(200, "Its entries, by name.", DirectoryView),
        parameters=(_PATH,),
    ),
    _row(
        "GET",
        "/files/stat",
        files.stat,
        "Look at one file",
        Answer(200, "What it is.", FileView),
        parameters=(_PATH,),
    ),
    _WATCH,
    _row("POST", "/files/move", files.move, "Rename a file or directory", _DONE, body=MoveRequest),
    _row(
        "POST",
        "/files/mkdir",
        files.make_directory,
        "Make a directory",
        _DONE,
        body=MakeDirectoryRequest,
    ),
    _row(
        "GET",
        "/archive",
        files.download,
        "Read a whole directory as a tar",
        Answer(200, "The tar.", media_type=_TAR),
        parameters=(_PATH,),
    ),
    _row(
        "PUT",
        "/archive",
        files.upload,
        "Unpack a tar, the body, below a directory",
        _DONE,
        parameters=(_PATH,),
    ),
)
