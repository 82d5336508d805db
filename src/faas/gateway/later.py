"""Routes of the contract that are not built yet: each answers 501 and says what is. Building one
deletes its row."""

from faas.errors import UnsupportedError
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange
from faas.gateway.replies import Reply
from faas.gateway.routing import Endpoint

SUPPORTED = (
    "POST /api/v1/execute (every mode)",
    "GET /api/v1/executions",
    "GET /api/v1/executions/{id}",
    "GET /api/v1/executions/{id}/logs",
    "POST /api/v1/executions/{id}/cancel",
    "POST /api/v1/executions/{id}/stdin",
    "GET /api/v1/logs/{id}/stream",
    "POST /api/v1/fork, /api/v1/branches/race, /api/v1/branches/merge",
    "GET POST /api/v1/snapshots, and below /api/v1/snapshots/{id}",
    "POST /api/v1/prewarm, GET /api/v1/pools",
    "WebSocket /api/v1/containers/{id}/stream",
    "GET POST /api/v1/instances, and below /api/v1/instances/{id}",
)

ROWS: dict[str, str] = {
    "/api/v1/branches": "GET POST",
    "/api/v1/usage": "GET",
    "/api/v1/logs": "GET",
    "/api/v1/functions": "GET POST",
}


async def _refuse(_: Door, exchange: Exchange) -> Reply:
    raise UnsupportedError(
        f"{exchange.method} {exchange.scope['path'][:128]} is not built yet",
        hint="details list what this gateway can do",
        details={"supported": list(SUPPORTED)},
    )


def endpoints() -> list[Endpoint]:
    """One row a method, left out of the document."""
    return [
        Endpoint(method, path, _refuse, summary="Not built yet", tag="later", is_documented=False)
        for path, methods in ROWS.items()
        for method in methods.split()
    ]
