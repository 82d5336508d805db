"""The committed documents are what the code says, and the code agrees with itself."""

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
