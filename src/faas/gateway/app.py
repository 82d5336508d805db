"""The application: routes as a table, one layer of middleware, nothing else."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from faas.events import EventBus
from faas.executor import PlatformExecutor
from faas.gateway import later
from faas.gateway.container_stream import ContainerStreams
from faas.gateway.docs import docs_endpoints
from faas.gateway.door import Door
from faas.gateway.middleware import Front
from faas.gateway.port_door import PROXY_PATH, PortDoor, PortPath
from faas.gateway.routing import Endpoint, Resource
from faas.gateway.settings import GatewaySettings
from faas.gateway.table import ENDPOINTS
from faas.images import ImageProvider
from faas.metrics import Metrics

_CORS_SECONDS = 600
_EXPOSED = (
    "Location",
    "Retry-After",
    "X-Trace-Id",
    "X-Next-Offset",
    "X-Ended",
    "X-Next-Cursor",
    "Idempotency-Replayed",
)


class GatewayApp(Starlette):
    """Starlette without its error layers: `Front` answers every failure, and costs less."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for layer, args, kwargs in reversed(self.user_middleware):
            app = layer(app, *args, **kwargs)
        return app


class _Dispatch:
    """Finds the resource of a path that has no parameters by one look into a table; others by the
    router."""

    def __init__(self, app: ASGIApp, *, fixed: dict[str, Resource]) -> None:
        self._app = app
        self._fixed = fixed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        resource = self._fixed.get(scope["path"]) if scope["type"] == "http" else None
        await (resource or self._app)(scope, receive, send)


def build_app(
    executor: PlatformExecutor,
    *,
    settings: GatewaySettings,
    images: ImageProvider | None,
    events: EventBus,
    metrics: Metrics,
) -> Starlette:
    """Make the application. `app.state.door` is its `Door`; call its `close_streams` before a
    shutdown."""
    door = Door(executor, settings, images, events, metrics)
    endpoints = [*ENDPOINTS, *docs_endpoints(settings), *later.endpoints()]
    resources = _resources(door, endpoints)
    public = frozenset(row.path for row in endpoints if row.scope is None and row.is_documented)
    layers = [
        Middleware(Front, door=door, public_paths=public),
        Middleware(
            _Dispatch, fixed={path: app for path, app in resources.items() if "{" not in path}
        ),
    ]
    if settings.cors_origins:
        layers.insert(0, _cors(settings.cors_origins))
    # Outermost: what comes for a port has nothing to do with the API.
    layers.insert(0, Middleware(PortDoor, door=door))
    app = GatewayApp(
        routes=[
            WebSocketRoute("/api/v1/containers/{id}/stream", ContainerStreams(door)),
            Mount(PROXY_PATH, PortPath(door)),
            *(Route(path, resource) for path, resource in resources.items()),
        ],
        middleware=layers,
    )
    app.router.redirect_slashes = False
    app.state.door = door
    return app


def _resources(door: Door, endpoints: list[Endpoint]) -> dict[str, Resource]:
    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, []).append(endpoint)
    return {path: Resource(door, rows) for path, rows in by_path.items()}


def _cors(origins: tuple[str, ...]) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "X-API-Key",
            "Last-Event-ID",
        ],
        expose_headers=list(_EXPOSED),
        max_age=_CORS_SECONDS,
    )
