"""The README of the Python SDK says what is so: each of its examples runs against a gateway."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.live_gateway import LiveGateway

from faas_sdk import FaaSClient

README = Path(__file__).parent.parent.parent / "sdks" / "python" / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)

pytestmark = pytest.mark.needs_root


@pytest.mark.parametrize("number", range(len(BLOCKS)))
async def test_an_example_of_the_readme_runs(gateway: LiveGateway, number: int) -> None:
    code = BLOCKS[number].replace("http://localhost:8080", gateway.url)
    names: dict[str, Any] = {}
    exec("async def example(client):\n" + textwrap.indent(code, "    "), names)
    async with FaaSClient(gateway.url) as client:
        await names["example"](client)


def test_the_readme_has_examples() -> None:
    assert len(BLOCKS) >= 8
