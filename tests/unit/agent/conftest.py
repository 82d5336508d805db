"""An agent whose answers the test writes."""

import pytest
from tests.unit.agent.fake_agent import FakeAgent


@pytest.fixture
async def agent():
    made = FakeAgent()
    yield made
    made.close()
