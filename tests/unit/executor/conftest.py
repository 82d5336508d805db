"""An executor over the fake runtime on a fake clock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from faas.clock import FakeClock
from faas.executor.fake import FakePlatform
from faas.sandbox.fake import FakeHost

OpenPlatform = Callable[..., Awaitable[FakePlatform]]


@pytest.fixture
async def open_platform(tmp_path: Path) -> AsyncIterator[OpenPlatform]:
    opened: list[FakePlatform] = []

    async def open_one(**options: object) -> FakePlatform:
        platform = FakePlatform(tmp_path, FakeHost(FakeClock()), options)
        opened.append(platform)
        return await platform.start()

    yield open_one
    for platform in opened:
        await platform.runtime.reclaim(keep=frozenset())
    await asyncio.sleep(0)


@pytest.fixture
async def platform(open_platform: OpenPlatform) -> AsyncIterator[FakePlatform]:
    opened = await open_platform()
    yield opened
    await opened.executor.aclose()
