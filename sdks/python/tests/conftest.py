"""Fixtures: a fake gateway, and clients of it that do not wait between attempts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from faas_sdk import ClientConfig, FaaSClient, SyncFaaSClient
from faas_sdk.testing import FakeGateway

IMPATIENT = ClientConfig(retry_delay_seconds=0.0)


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway(heartbeat_seconds=0.0)


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[FaaSClient]:
    async with gateway.client(IMPATIENT) as client:
        yield client


@pytest.fixture
def sync_client(gateway: FakeGateway) -> Iterator[SyncFaaSClient]:
    with gateway.sync_client(IMPATIENT) as client:
        yield client


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FAAS_GATEWAY_URL", "FAAS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
