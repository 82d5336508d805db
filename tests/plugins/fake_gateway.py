"""The whole gateway over a fake machine, served by uvicorn from a thread of this process."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import uvicorn

from faas.executor.fake import FakePlatform
from faas.gateway import GatewaySettings, build_app
from faas.metrics import Metrics
from faas.sandbox.fake import FakeHost


class FakeGateway:
    """A running server; `platform` is what it holds."""

    def __init__(self, data_dir: Path, settings: GatewaySettings, **options: Any) -> None:
        self.url = ""
        self.platform: FakePlatform | None = None
        self._settings = settings
        self._data_dir = data_dir
        self._options = options
        self._ready: Future[None] = Future()
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="fake-gateway")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:
            if not self._ready.done():
                self._ready.set_exception(failure)
            raise

    async def _serve(self) -> None:
        self.platform = FakePlatform(self._data_dir, FakeHost(), self._options)
        metrics = Metrics()
        metrics.listen(self.platform.bus)
        await self.platform.start()
        app = build_app(
            self.platform.executor,
            settings=self._settings,
            images=None,
            events=self.platform.bus,
            metrics=metrics,
        )
        config = uvicorn.Config(
            app, port=0, http="httptools", ws="websockets-sansio", lifespan="off", log_config=None
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._ready.set_result(None)
        await self._stopped(serving, app.state.door.close_streams)
        await self.platform.executor.aclose()

    async def _stopped(self, serving: "asyncio.Task[None]", close: Callable[[], None]) -> None:
        assert self._server is not None
        while not self._server.should_exit:
            await asyncio.sleep(0.02)
        close()
        await serving


@contextmanager
def fake_gateway(
    data_dir: Path, settings: GatewaySettings | None = None, **options: Any
) -> Iterator[FakeGateway]:
    """Serve until the block ends."""
    with FakeGateway(data_dir, settings or GatewaySettings(version="1.2.3"), **options) as gateway:
        yield gateway
