"""An agent whose answers the test writes."""

import importlib.util
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "fake_agent", Path(__file__).with_name("fake_agent.py")
)
fake_agent = importlib.util.module_from_spec(_SPEC)
sys.modules["fake_agent"] = fake_agent
_SPEC.loader.exec_module(fake_agent)


@pytest.fixture
async def agent():
    made = fake_agent.FakeAgent()
    yield made
    made.close()
