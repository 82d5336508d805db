"""The fake keeps the rules too, or tests above it would prove nothing."""

from collections.abc import AsyncIterator

import pytest

from faas.sandbox.conformance import Reopen, ScriptedConformance
from faas.sandbox.fake import FakeHost, FakeRuntime
from faas.sandbox.protocols import Runtime


class TestFakeRuntime(ScriptedConformance):
    @pytest.fixture
    async def runtime(self) -> AsyncIterator[Runtime]:
        runtime = FakeRuntime(FakeHost())
        await runtime.start()
        yield runtime
        await runtime.aclose()

    @pytest.fixture
    async def reopen(self, runtime: Runtime) -> Reopen:
        async def open_next() -> Runtime:
            return FakeRuntime(runtime.host)

        return open_next
