"""`faas serve`: the gateway in the foreground.

SIGTERM or Ctrl-C drains: nothing new is taken, what runs is waited for, and what still runs after
that is taken up by the next start. A second Ctrl-C leaves at once.
"""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import click
import uvicorn
import uvloop
from starlette.applications import Starlette

from faas import __version__, logs
from faas.assembly import Platform, default_limits, limit_ceilings, open_platform
from faas.cli import descriptors, render
from faas.cli.settings import pairs
from faas.config import Configuration, Settings, load
from faas.errors import UnavailableError
from faas.gateway.app import build_app
from faas.gateway.auth import ApiKey
from faas.gateway.container_stream import FRAME_BYTES_MAX
from faas.gateway.door import Door
from faas.gateway.http_protocol import HttpProtocol
from faas.gateway.settings import GatewaySettings
from faas.ids import TenantId
from faas.tenancy import Principal, Quota, Scope, Tenant

_KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections, so that they close first and no request is lost."""
_PING_SECONDS = 30.0
"""A WebSocket whose client vanished without a word is noticed within a minute."""
_BACKLOG = 2048
_LEAVE_SECONDS = 2
"""For answers on the way, once the executor has let go."""

_log = logs.bind(__name__)


@click.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where everything is kept.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The TOML file.")
@click.option("--set", "others", multiple=True, metavar="NAME=VALUE", help="Any other setting.")
def command(
    *,
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    config_file: Path | None,
    others: tuple[str, ...],
) -> None:
    """Start the gateway in the foreground."""
    flags: dict[str, object] = {"host": host, "port": port, "data_dir": data_dir}
    flags |= pairs(others)
    configuration = load(flags, config_file=config_file)
    settings = configuration.settings
    logs.configure(level=settings.log_level, style=settings.log_format)
    descriptors.raise_limit()
    for warning in configuration.warnings:
        _log.warning("a variable of the environment was ignored", detail=warning)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(configuration))


async def _serve(configuration: Configuration) -> None:
    settings = configuration.settings
    # The port first: it is the cheapest thing to be wrong, and it is taken before work is taken up.
    listener = _listen(settings)
    with contextlib.closing(listener):
        settings = replace(settings, port=listener.getsockname()[1])
        async with open_platform(settings) as platform:
            server = _Server(gateway_app(platform), listener)
            await _Watch(server, platform, settings).run()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as failure:
        listener.close()
        raise UnavailableError(
            f"cannot listen on {settings.host}:{settings.port}: {failure.strerror}",
            hint=_listening_hint(failure, settings.port),
        ) from failure
    return listener


def _listening_hint(failure: OSError, port: int) -> str:
    if failure.errno == errno.EADDRINUSE:
        return f"`ss -ltnp sport = :{port}` shows who has it; faas serve --port 0 takes a free one"
    if failure.errno in (errno.EACCES, errno.EPERM):
        return "ports below 1024 are for root: faas serve --port 8080"
    return "name an address of this machine, 127.0.0.1 or 0.0.0.0: faas serve --host ADDRESS"


def gateway_app(platform: Platform) -> Starlette:
    """Build the gateway over a platform."""
    settings = platform.settings
    gateway = GatewaySettings(
        version=__version__,
        api_keys=_api_keys(settings),
        default_image=settings.default_image,
        image_aliases=settings.image_aliases,
        limits_default=default_limits(settings),
        limits_max=limit_ceilings(settings),
        prewarm_max=settings.pool_max,
        pull_policy=settings.pull_policy,
        build_bytes_max=settings.build_bytes_max,
        import_bytes_max=settings.import_bytes_max,
        build_seconds_max=settings.build_seconds_max,
        body_bytes_max=settings.body_bytes_max,
        cors_origins=settings.cors_origins,
        data_dir=platform.data_dir.path,
    )
    return build_app(
        platform.executor,
        settings=gateway,
        images=platform.images,
        events=platform.events,
        metrics=platform.metrics,
    )


def _api_keys(settings: Settings) -> tuple[ApiKey, ...]:
    quota = Quota(running_max=settings.tenant_running_max, queued_max=settings.tenant_queued_max)
    return tuple(
        ApiKey.of(
            key.key,
            Principal(
                Tenant(TenantId(key.name), quota), frozenset(Scope(text) for text in key.scopes)
            ),
        )
        for key in settings.parsed_api_keys()
    )


class _Server(uvicorn.Server):
    """Uvicorn, with its signals left to us."""

    def __init__(self, app: Starlette, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpProtocol,
                ws="websockets-sansio",
                ws_max_size=FRAME_BYTES_MAX,
                ws_ping_interval=_PING_SECONDS,
                ws_ping_timeout=_PING_SECONDS,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_LEAVE_SECONDS,
            )
        )
        self.listener = listener
        self.door: Door = app.state.door
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def stop_listening(self) -> None:
        """Take no new connection; those that are open go on."""
        for server in self.servers:
            server.close()


class _Watch:
    """Runs the server until a signal, then drains."""

    def __init__(self, server: _Server, platform: Platform, settings: Settings) -> None:
        self._server = server
        self._platform = platform
        self._settings = settings
        self._asked = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._server.serve(sockets=[self._server.listener]))
            await self._server.is_up.wait()
            _announce(self._platform, self._server.listener)
            # What lives now lives to the end: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            await self._asked.wait()
            await self._drain()
            self._server.should_exit = True
            await serving

    def _on_signal(self, number: int) -> None:
        if self._asked.is_set():
            if number == signal.SIGINT:
                render.say("left at once; what runs is taken up at the next start")
                os._exit(130)
            return
        self._asked.set()

    async def _drain(self) -> None:
        running = self._platform.executor.stats().running
        if running:
            render.say(f"draining {running} executions; Ctrl-C again leaves at once")
        self._server.stop_listening()
        await self._platform.executor.drain(grace_seconds=self._settings.drain_seconds)
        left = self._platform.executor.stats().running
        await self._finish_streams()
        # Before the server cuts its connections: who still waits is told that the gateway goes,
        # and a request that is cut after this does not cancel the execution it waited for.
        await self._platform.executor.aclose()
        _log.info("drained", left_running=left)

    async def _finish_streams(self) -> None:
        """Let the streams of what ended say so; cut the others, whose clients resume later."""
        door = self._server.door
        if door.streams:
            await asyncio.wait(tuple(door.streams), timeout=_LEAVE_SECONDS)
        door.close_streams()


def _announce(platform: Platform, listener: socket.socket) -> None:
    """Print the first screen: where it is, what works here, and one line to try."""
    settings = platform.settings
    url = settings.public_url
    render.say(f"faas {__version__} listens on {url}")
    for name, report in platform.registry.reports().items():
        if report.is_available:
            render.say(f"  {name:9} {report.isolation}; {report.limits or 'no limits hold here'}")
        else:
            render.say(f"  {name:9} not available: {report.detail}")
    if not platform.registry.available():
        render.say("  no runtime works here; `faas doctor` says what is missing")
    if (found := platform.recovered).adopted or found.queued or found.failed:
        render.say(f"  took up {found.adopted} running and {found.queued} waiting executions")
    key = " -H 'Authorization: Bearer KEY'" if settings.api_keys else ""
    body = "-H 'Content-Type: application/json' -d '{\"command\": \"echo hello\"}'"
    render.say(f"\n  curl {url}/api/v1/execute{key} {body}\n")
    _log.info("gateway started", url=url, version=__version__)
