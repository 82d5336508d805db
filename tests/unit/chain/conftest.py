"""A desk: the twelve jobs over a whole platform in memory."""

import asyncio

import pytest
from tests.unit.chain.desk import Desk

from faas.clock import FakeClock
from faas.executor.fake import FakePlatform
from faas.sandbox.fake import FakeHost


@pytest.fixture
async def desk(tmp_path):
    made = Desk(await FakePlatform(tmp_path, FakeHost(FakeClock())).start())
    yield made
    await made.platform.executor.aclose()
    await made.platform.runtime.reclaim(keep=frozenset())
    await asyncio.sleep(0)
