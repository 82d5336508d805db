"""The reference pages say what the code says, and leave nothing out."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "scripts/generate_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", list(_generator().PAGES))
def test_a_generated_page_is_fresh(name: str) -> None:
    assert (REFERENCE / name).read_text() == _generator().PAGES[name](), "run `make docs`"


def test_every_route_is_documented() -> None:
    page = (REFERENCE / "http.md").read_text()
    document = json.loads((ROOT / "spec" / "openapi.json").read_text())
    missing = [path for path in document["paths"] if path not in page]
    assert missing == []


def test_operator_alerts_ask_for_metrics_that_there_are() -> None:
    from faas.chain.alerts import ALERTS
    from faas.chain.gauges import COUNTERS, GAUGES, JOBS, PREFIX

    known = {f"{name}_total" for name in COUNTERS} | {*GAUGES, JOBS}
    rules = yaml.safe_load((ROOT / "packaging" / "operator-alerts.yml").read_text())
    told = [rule["expr"] for rule in rules["groups"][0]["rules"]]
    assert told == [alert.query for alert in ALERTS]
    asked = {name for query in told for name in re.findall(PREFIX + r"(\w+)", query)}
    assert asked <= known
