"""The committed documents are what the code says, and the code agrees with itself."""

import json
import runpy
from pathlib import Path

import pytest

from faas import __version__, errors
from faas.gateway import GatewaySettings, problems
from faas.gateway.docs import document
from faas.gateway.table import ENDPOINTS

ROOT = Path(__file__).parents[3]
SCRIPT = runpy.run_path(str(ROOT / "scripts/generate_spec.py"))


def test_the_openapi_document_is_fresh() -> None:
    expected = document(GatewaySettings(version=__version__))
    assert (ROOT / "spec/openapi.json").read_bytes() == expected, "run scripts/generate_spec.py"


def test_the_error_table_is_fresh() -> None:
    assert (ROOT / "spec/errors.yaml").read_text() == SCRIPT["errors_yaml"]()


def test_every_documented_route_is_on_the_reference_page() -> None:
    page = (ROOT / "docs/reference/http.md").read_text()
    for row in ENDPOINTS:
        assert f"`{row.path}`" in page, row.path


def test_every_error_has_a_code_of_its_own_and_says_what_to_do() -> None:
    kinds = [*SCRIPT["every_error"](), *problems.HTTP_ONLY]
    codes = [kind.code for kind in kinds]
    assert len(codes) == len(set(codes))
    for kind in kinds:
        assert (kind.__doc__ or "").count(". ") >= 1, kind


@pytest.mark.parametrize("kind", SCRIPT["every_error"](), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_that_says_who_must_act(kind: type[errors.FaasError]) -> None:
    status = problems.status_of(kind)
    assert 400 <= status <= 599
    if kind.retryable:
        assert status in (429, 500, 502, 503, 504)


@pytest.mark.parametrize(
    ("path", "events"),
    [
        ("/api/v1/instances/{instance_id}/files/watch", {"ready", "file_event", "end"}),
        ("/api/v1/logs/{execution_id}/stream", {"image", "stdout", "stderr", "exit", "error"}),
    ],
)
def test_the_document_tells_what_each_event_of_a_stream_is(path: str, events: set[str]) -> None:
    told = json.loads(document(GatewaySettings(version=__version__)))
    content = told["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert content["x-events"].keys() == events
    for kind in content["x-events"].values():
        assert kind["$ref"].rpartition("/")[2] in told["components"]["schemas"]
