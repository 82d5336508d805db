"""The embedded runtime keeps every rule of `faas.sandbox.protocols`."""

import pytest

from faas.sandbox.conformance import RuntimeConformance


@pytest.mark.needs_root
class TestEmbedded(RuntimeConformance):
    @pytest.fixture
    async def runtime(self, embedded):
        return embedded.runtime

    @pytest.fixture
    async def reopen(self, embedded):
        opened = []

        async def another():
            made = embedded.new_runtime()
            await made.start()
            opened.append(made)
            return made

        yield another
        for made in opened:
            await made.aclose()
