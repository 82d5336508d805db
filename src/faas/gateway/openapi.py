"""The OpenAPI document, made from the route table and the wire's types."""

from typing import Any

import msgspec

from faas.gateway.routing import Answer, Endpoint
from faas.gateway.settings import GatewaySettings
from faas.gateway.specs import ceilings
from faas.gateway.wire import ProblemView

_REFERENCE = "#/components/schemas/{name}"

_MEANING = {
    400: "The request is not right; detail names each fault by its JSON path.",
    401: "No API key was given, or one that is not accepted.",
    403: "The key lacks the scope.",
    404: "There is no such thing, or this key may not see it.",
    405: "This path does not take that method.",
    406: "Nothing in Accept can be answered.",
    409: "It does not fit the present state, or the Idempotency-Key was used for another request.",
    413: "The body is too large.",
    415: "The body is not of a type this path takes.",
    429: "No room right now; Retry-After says when to come back.",
    500: "Our failure; report the trace id.",
    501: "Known, but not built or not available here; details name what is.",
    503: "A part the gateway needs does not work.",
    504: "It did not happen in time.",
}
_ALWAYS = (500,)
_HEADERS = {
    "Location": "Where the execution can be looked at.",
    "Idempotency-Replayed": "`true` when the execution was there already.",
    "X-Next-Offset": "Where to read on.",
    "X-Next-Cursor": "Give it as `cursor` to go on; not there at the end.",
    "X-Ended": "`true` when this reaches the end and nothing will follow.",
}
_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}, {}]


_ONE_OF: dict[str, list[str]] = {
    "FileField": ["content", "content_base64"],
    "ForkRequest": ["command", "children"],
}
_AT_MOST_ONE: dict[str, list[list[str]]] = {
    "ExecuteRequest": [["payload", "payload_base64"]],
    "ForkRequest": [["payload", "payload_base64"]],
    "StdinRequest": [["data", "data_base64"]],
    "InstanceRequest": [["disk_mb", "disk_gb"], ["image", "snapshot_id"]],
}


def build(endpoints: list[Endpoint], settings: GatewaySettings) -> dict[str, Any]:
    """Make the document of a gateway with these settings."""
    rows = [row for row in endpoints if row.is_documented]
    kinds = _kinds(rows)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    _constrain(components, settings)
    by_kind = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FaaS platform",
            "version": settings.version,
            "description": "Runs commands in isolated sandboxes. A command's failure is data in a"
            " 200; failures of ours are application/problem+json.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def encode(endpoints: list[Endpoint], settings: GatewaySettings) -> bytes:
    """The document as it is served and committed."""
    return msgspec.json.format(msgspec.json.encode(build(endpoints, settings)), indent=2) + b"\n"


def _constrain(components: dict[str, Any], settings: GatewaySettings) -> None:
    """Add what types cannot say: fields that exclude each other, this gateway's ceilings."""
    given: dict[str, Any] = {"not": {"type": "null"}}
    for name, fields in _ONE_OF.items():
        components[name]["oneOf"] = [
            {"required": [field], "properties": {field: given}} for field in fields
        ]
    for name, pairs in _AT_MOST_ONE.items():
        both = [{"required": two, "properties": dict.fromkeys(two, given)} for two in pairs]
        components[name]["not"] = both[0] if len(both) == 1 else {"anyOf": both}
    request = components["ExecuteRequest"]
    request["not"] = {"anyOf": [request["not"], *_wrong_parents(), *_WRONG_MEMORY]}
    request["anyOf"] = _RUNS_OR_GOES_ON
    fork = components["ForkRequest"]
    fork["not"] = {"anyOf": [*([fork["not"]] if "not" in fork else []), *_WRONG_SLICES]}
    components["PrewarmRequest"]["properties"]["count"]["maximum"] = settings.prewarm_max
    most = ceilings(settings.limits_max)
    for request in ("ExecuteRequest", "ForkRequest", "InstanceRequest"):
        _bound(components[request]["properties"], most)
    _bound(components["PrewarmRequest"]["properties"], {"disk_mb": most["disk_mb"]})


def _bound(properties: dict[str, Any], most: dict[str, float]) -> None:
    """Say what each field may be at most, where it is given."""
    for name, ceiling in most.items():
        for schema in properties.get(name, {"anyOf": []})["anyOf"]:
            if schema["type"] != "null":
                schema["maximum"] = ceiling


_GIVEN: dict[str, Any] = {"not": {"type": "null"}}
_RUNS_OR_GOES_ON: list[dict[str, Any]] = [
    {"required": ["command"], "properties": {"command": _GIVEN}},
    *(
        {
            "required": ["memory", parent],
            "properties": {
                "memory": {"const": True},
                parent: _GIVEN,
                "mode": {"not": {"const": "persistent"}},
            },
        }
        for parent in ("snapshot_id", "branch_from")
    ),
]
"""A command, or a parent whose processes go on."""
_WRONG_SLICES: list[dict[str, Any]] = [
    {
        "required": ["checkpoint_after_ms"],
        "properties": {"checkpoint_after_ms": _GIVEN},
        "not": {
            "required": ["memory", "mode"],
            "properties": {"memory": {"const": True}, "mode": {"const": "checkpointed"}},
        },
    },
]
_WRONG_MEMORY: list[dict[str, Any]] = [
    {
        "required": ["memory", "mode"],
        "properties": {"memory": {"const": True}, "mode": {"const": "cached"}},
    },
    *_WRONG_SLICES,
]


def _wrong_parents() -> list[dict[str, Any]]:
    """What does not fit the mode of an execution, as `origins` and `modes` refuse it."""
    given, absent = {"not": {"type": "null"}}, {"type": "null"}

    def when(**properties: Any) -> dict[str, Any]:
        required = [name for name, schema in properties.items() if schema is not absent]
        return {"required": required, "properties": properties}

    others: list[str | None] = ["branched", "cached", "checkpointed", "ephemeral", None]
    return [
        when(mode={"const": "branched"}, branch_from=absent, snapshot_id=absent),
        when(branch_from=given, snapshot_id=given),
        {
            "required": ["branch_from"],
            "properties": {"branch_from": given, "mode": {"enum": ["ephemeral", None]}},
        },
        {
            "required": ["instance_id"],
            "properties": {"instance_id": given, "mode": {"enum": others}},
        },
        when(mode={"const": "cached"}, branch_from=given),
        when(mode={"const": "cached"}, snapshot_id=given),
        when(mode={"const": "cached"}, stdin_open={"const": True}),
        when(mode={"const": "cached"}, tty={"const": True}),
    ]


def _kinds(rows: list[Endpoint]) -> list[Any]:
    kinds: dict[Any, None] = {ProblemView: None}
    for row in rows:
        if row.body is not None:
            kinds[row.body] = None
        for answer in row.answers:
            if answer.body is not None:
                kinds[answer.body] = None
            kinds |= dict.fromkeys(answer.events.values())
    return list(kinds)


def _operation(row: Endpoint, schemas: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(row),
        "summary": row.summary,
        "tags": [row.tag],
        "responses": _responses(row, schemas),
    }
    if row.parameters:
        operation["parameters"] = [
            {
                "name": parameter.name,
                "in": parameter.where,
                "required": parameter.is_required or parameter.where == "path",
                "description": parameter.description,
                "schema": parameter.schema,
            }
            for parameter in row.parameters
        ]
    if row.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {
                kind: {"schema": schemas[row.body] if kind.endswith("json") else {}}
                for kind in row.body_media_types
            },
        }
    if row.scope is not None:
        operation["security"] = _SECURITY
    return operation


def _operation_id(row: Endpoint) -> str:
    pieces = [piece for piece in row.path.strip("/").split("/") if piece not in ("api", "v1")]
    return "_".join(
        [row.method.lower(), *(piece.strip("{}").replace(".", "_") for piece in pieces)]
    )


def _responses(row: Endpoint, schemas: dict[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for answer in row.answers:
        entry = responses.setdefault(
            str(answer.status), {"description": answer.description, "content": {}}
        )
        if answer.media_type:
            entry["content"][answer.media_type] = {"schema": _schema(answer, schemas)}
        if answer.events:  # OpenAPI 3.1 has no word for them
            entry["content"][answer.media_type]["x-events"] = {
                name: schemas[kind] for name, kind in answer.events.items()
            }
        if answer.headers:
            entry["headers"] = {
                name: {"description": _HEADERS[name], "schema": {"type": "string"}}
                for name in answer.headers
            }
    problem = {"application/problem+json": {"schema": schemas[ProblemView]}}
    for status in _failures(row):
        entry = responses.setdefault(str(status), {"description": _MEANING[status], "content": {}})
        entry["content"] |= problem
    return dict(sorted(responses.items()))


def _failures(row: Endpoint) -> set[int]:
    found = {*_ALWAYS, *row.failures}
    if row.scope is not None:
        found |= {401, 403}
    if row.parameters or row.body is not None or row.scope is not None:
        found.add(400)
    return found


def _schema(answer: Answer, schemas: dict[Any, Any]) -> dict[str, Any]:
    if answer.body is not None:
        return schemas[answer.body]
    return {"type": "string"} if answer.media_type.startswith("text/") else {}
