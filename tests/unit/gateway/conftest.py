"""The whole door over the real executor and a fake machine, spoken to in process."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from faas.executor.fake import FakePlatform
from faas.gateway import GatewaySettings, build_app
from faas.gateway.door import Door
from faas.metrics import Metrics
from faas.sandbox.fake import FakeHost


class Gateway:
    """One gateway and a client of it."""

    def __init__(self, platform: FakePlatform, app: Any, client: httpx.AsyncClient) -> None:
        self.platform = platform
        self.app = app
        self.client = client

    @property
    def door(self) -> Door:
        return self.app.state.door

    async def execute(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return await self.client.post("/api/v1/execute", json=body, headers=headers)


OpenGateway = Callable[..., Any]


@pytest.fixture
async def open_gateway(tmp_path: Path) -> AsyncIterator[OpenGateway]:
    async with AsyncExitStack() as stack:

        async def open_one(settings: GatewaySettings | None = None, **options: Any) -> Gateway:
            platform = FakePlatform(tmp_path, FakeHost(), options)
            metrics = Metrics()
            metrics.listen(platform.bus)
            await platform.start()
            stack.push_async_callback(platform.executor.aclose)
            settings = settings or GatewaySettings(version="1.2.3")
            app = build_app(
                platform.executor,
                settings=replace(settings, disconnect_watch_seconds=0.0),
                images=None,
                events=platform.bus,
                metrics=metrics,
            )
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://gateway")
            await stack.enter_async_context(client)
            return Gateway(platform, app, client)

        yield open_one


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> Gateway:
    return await open_gateway()
