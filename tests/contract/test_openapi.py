"""The document and the running gateway agree on every documented route, says schemathesis."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, settings
from tests.plugins.fake_gateway import fake_gateway

from faas import __version__
from faas.gateway import GatewaySettings
from faas.gateway.docs import document

EXAMPLES = 25

GATEWAY = GatewaySettings(version=__version__, heartbeat_seconds=5.0)
ENDLESS_OR_BINARY = ["/api/v1/instances/{instance_id}/files/watch", "/api/v1/snapshots/import"]
"""A stream without an end, and a file that nobody can make up: both are tested by hand."""

schema = schemathesis.openapi.from_file(document(GATEWAY).decode()).exclude(path=ENDLESS_OR_BINARY)


@pytest.fixture(scope="module")
def gateway_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data_dir: Path = tmp_path_factory.mktemp("gateway")
    with fake_gateway(data_dir, GATEWAY) as gateway:
        yield gateway.url


def _has_whole_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_whole_float(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_whole_float(item) for item in value)
    return isinstance(value, float) and value.is_integer()


def not_a_failure_of_ours(_context: Any, response: Any, _case: Any) -> None:
    """501 is a documented answer for what is not built; 500 never is."""
    assert response.status_code in (501, 503) or response.status_code < 500


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_the_gateway_does_what_its_document_says(case: Any, gateway_url: str) -> None:
    # JSON Schema calls 7.0 an integer; the gateway wants it written as one.
    assume(not _has_whole_float(case.body))
    # Nor can it say that bytes are a tar; what is none is refused, and tested by hand.
    assume(not (isinstance(case.body, dict) and case.body.get("archive_base64")))
    case.call_and_validate(
        base_url=gateway_url,
        excluded_checks=[schemathesis.checks.not_a_server_error],
        additional_checks=[not_a_failure_of_ours],
    )
