"""One gateway process for all SDK tests."""

from collections.abc import Iterator

import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway


@pytest.fixture(scope="session")
def gateway() -> Iterator[LiveGateway]:
    with live_gateway() as gateway:
        yield gateway
