"""The route table. What a row says is what is served and what the document tells."""

from faas.gateway import executions, pools, streams, system
from faas.gateway.image_table import IMAGE_ENDPOINTS
from faas.gateway.image_wire import PullStepView
from faas.gateway.instance_table import INSTANCE_ENDPOINTS
from faas.gateway.routing import Answer, Endpoint, Parameter
from faas.gateway.state_table import STATE_ENDPOINTS
from faas.gateway.wire import (
    DetailedMetricsView,
    ExecuteRequest,
    ExecutionPage,
    ExecutionView,
    ExitEvent,
    HealthView,
    LogsView,
    MetricsView,
    OutputEvent,
    PoolsView,
    PrewarmRequest,
    PrewarmView,
    ProblemView,
    StdinRequest,
    StdinView,
)
from faas.tenancy import Scope

_ID = Parameter(
    "execution_id",
    "path",
    "Id of the execution, `request_id` of its answer.",
    {"type": "string", "pattern": "^exec-[0-9a-hjkmnp-tv-z]{26}$"},
)
_KEY = Parameter(
    "Idempotency-Key",
    "header",
    "One run and one answer for all requests with this key, also in parallel and after a restart;"
    " kept as long as the execution. Another request with the same key is refused with 409.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[!-~]([ -~]*[!-~])?$"},
)


def _number(name: str, description: str, *, least: int, most: int, default: int) -> Parameter:
    schema = {"type": "integer", "minimum": least, "maximum": most, "default": default}
    return Parameter(name, "query", description, schema)


def _choice(name: str, description: str, *known: str) -> Parameter:
    return Parameter(name, "query", description, {"type": "string", "enum": list(known)})


def _execute(path: str, summary: str) -> Endpoint:
    return Endpoint(
        "POST",
        path,
        executions.execute,
        summary,
        "executions",
        (
            Answer(
                200,
                "It ran. A command that failed is a 200 too: see exit_code and reason.",
                ExecutionView,
                headers=("Idempotency-Replayed",),
            ),
            Answer(
                202,
                "Stored, with wait=false; Location is where to look.",
                ExecutionView,
                headers=("Location", "Idempotency-Replayed"),
            ),
        ),
        Scope.EXECUTE,
        (_KEY,),
        body=ExecuteRequest,
        failures=(404, 409, 413, 415, 429, 501, 503, 504),
    )


ENDPOINTS: tuple[Endpoint, ...] = (
    _execute("/api/v1/execute", "Run a command in a sandbox"),
    _execute("/api/v1/execute/advanced", "The same under its older name"),
    Endpoint(
        "GET",
        "/api/v1/executions",
        executions.list_executions,
        "List executions, newest first, without their output",
        "executions",
        (Answer(200, "A page.", ExecutionPage),),
        Scope.READ,
        (
            _number("limit", "How many.", least=1, most=500, default=50),
            Parameter(
                "cursor",
                "query",
                "`next_cursor` of the page before.",
                {"type": "string", "pattern": _ID.schema["pattern"]},
            ),
            _choice("state", "Only these.", *executions.STATES),
        ),
    ),
    Endpoint(
        "GET",
        "/api/v1/executions/{execution_id}",
        executions.get_execution,
        "Look at one execution",
        "executions",
        (Answer(200, "As it stands, with its result once it is finished.", ExecutionView),),
        Scope.READ,
        (
            _ID,
            _number(
                "wait_ms",
                "Answer when it has ended, after this long at the latest.",
                least=0,
                most=executions.WAIT_MS_MAX,
                default=0,
            ),
        ),
        failures=(404,),
    ),
    Endpoint(
        "GET",
        "/api/v1/executions/{execution_id}/logs",
        streams.get_logs,
        "Read its output from an offset, live or later",
        "executions",
        (
            Answer(200, "JSON, when Accept names it.", LogsView),
            Answer(
                200,
                "The raw bytes.",
                media_type="application/octet-stream",
                headers=("X-Next-Offset", "X-Ended"),
            ),
        ),
        Scope.READ,
        (
            _ID,
            _choice("stream", "Which one; stdout when not said.", "stdout", "stderr"),
            _number("offset", "First byte.", least=0, most=2**53, default=0),
            _number(
                "limit", "Most bytes.", least=1, most=streams.LOGS_MAX, default=streams.LOGS_DEFAULT
            ),
        ),
        failures=(404, 406),
    ),
    Endpoint(
        "POST",
        "/api/v1/executions/{execution_id}/cancel",
        executions.cancel_execution,
        "End it now; harmless when it has ended",
        "executions",
        (Answer(200, "Its final record.", ExecutionView),),
        Scope.EXECUTE,
        (_ID,),
        failures=(404,),
    ),
    Endpoint(
        "POST",
        "/api/v1/executions/{execution_id}/stdin",
        executions.write_stdin,
        "Give input to a command started with stdin_open",
        "executions",
        (Answer(200, "How far it has got its input.", StdinView),),
        Scope.EXECUTE,
        (
            _ID,
            Parameter(
                "offset",
                "query",
                "Where the data begin, when the body does not say.",
                {"type": "integer", "minimum": 0, "maximum": 2**53},
            ),
            _choice(
                "last", "Close stdin afterwards, when the body does not say so.", "true", "false"
            ),
        ),
        body=StdinRequest,
        body_media_types=("application/json", "application/octet-stream"),
        failures=(404, 409, 413, 415),
    ),
    Endpoint(
        "GET",
        "/api/v1/logs/{execution_id}/stream",
        streams.stream_logs,
        "Follow its output as server-sent events",
        "executions",
        (
            Answer(
                200,
                "Events `stdout` and `stderr` (offset, data in base64, text), then one `exit`."
                " Each id carries both offsets: send it as Last-Event-ID to go on at that byte.",
                media_type="text/event-stream",
                events={
                    "image": PullStepView,
                    "stdout": OutputEvent,
                    "stderr": OutputEvent,
                    "exit": ExitEvent,
                    "error": ProblemView,
                },
            ),
        ),
        Scope.READ,
        (
            _ID,
            Parameter(
                "last_event_id",
                "query",
                "As the header Last-Event-ID, for clients that cannot set it; the header wins.",
                {"type": "string", "pattern": "^[0-9]{1,15}-[0-9]{1,15}$"},
            ),
        ),
        failures=(404, 429, 503),
    ),
    Endpoint(
        "GET",
        "/health",
        system.health,
        "Whether this gateway can run anything",
        "system",
        (
            Answer(200, "At least one runtime works.", HealthView),
            Answer(503, "None does.", HealthView),
        ),
    ),
    Endpoint(
        "GET",
        "/api/v1/metrics",
        system.metrics,
        "Counts since the start",
        "system",
        (Answer(200, "The original's two shapes in one.", MetricsView),),
        Scope.READ,
    ),
    Endpoint(
        "GET",
        "/api/v1/metrics/detailed",
        system.metrics_detailed,
        "Counts and measured times",
        "system",
        (Answer(200, "Measured, never constants.", DetailedMetricsView),),
        Scope.READ,
    ),
    Endpoint(
        "GET",
        "/metrics",
        system.prometheus,
        "Prometheus text",
        "system",
        (Answer(200, "Format 0.0.4.", media_type="text/plain"),),
        Scope.READ,
    ),
    Endpoint(
        "GET",
        "/api/v1/pools",
        pools.pools,
        "Warm sandboxes by template, with the reason, and the queue",
        "system",
        (Answer(200, "As they are now.", PoolsView),),
        Scope.READ,
    ),
    Endpoint(
        "POST",
        "/api/v1/prewarm",
        pools.prewarm,
        "Have sandboxes ready before they are asked for",
        "system",
        (
            Answer(200, "All of them are ready.", PrewarmView),
            Answer(202, "Time was up first; the others are being made.", PrewarmView),
        ),
        Scope.EXECUTE,
        body=PrewarmRequest,
        failures=(404, 413, 415, 429, 501, 503),
    ),
    *IMAGE_ENDPOINTS,
    *INSTANCE_ENDPOINTS,
    *STATE_ENDPOINTS,
)
