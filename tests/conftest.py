"""Fixtures for every ring: real sandboxes, and the proof that nothing is left behind."""

import os
import tempfile
from pathlib import Path

import pytest
from tests.plugins.criu import criu_prefix
from tests.plugins.embedded import Embedded
from tests.plugins.leftovers import look, settle

from faas.embedded.settings import packaged_binary


@pytest.fixture
def nothing_left():
    """Give a function `watch(tag=…, data_dir=…)`; what it saw then must be all there is after."""
    watched = []

    def watch(*, tag, data_dir):
        watched.append((look(tag=tag, data_dir=data_dir), tag, data_dir))

    yield watch
    for before, tag, data_dir in watched:
        left = settle(before, tag=tag, data_dir=data_dir)
        assert not left, f"left behind: {left}"


@pytest.fixture
async def keeping(nothing_left):
    """A started embedded runtime that can keep memory."""
    prefix = criu_prefix()
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if prefix is None:
        pytest.skip("CRIU is not installed: scripts/criu.sh .faas/criu")
    with tempfile.TemporaryDirectory(prefix="faas-test-") as directory:
        made = Embedded(Path(directory), criu_prefix=prefix)
        nothing_left(tag=made.tag, data_dir=made.data_dir)
        await made.runtime.start()
        yield made
        await made.runtime.aclose()


@pytest.fixture
async def embedded(nothing_left):
    """A started embedded runtime; all it made is gone afterwards, and that is counted."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not packaged_binary().is_file():
        pytest.skip("the native program is not built: make native")
    # Not below pytest's own directory: that one is private to root, and a sandbox's first
    # process, being nobody there, must be able to pass through to what it binds.
    with tempfile.TemporaryDirectory(prefix="faas-test-") as directory:
        made = Embedded(Path(directory))
        nothing_left(tag=made.tag, data_dir=made.data_dir)
        await made.runtime.start()
        yield made
        await made.runtime.aclose()


@pytest.fixture
async def sandbox(embedded):
    """One ready sandbox of the image `host`."""
    made = await embedded.sandbox()
    yield made
    await made.destroy("tested")
