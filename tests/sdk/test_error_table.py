"""The SDK's errors are the gateway's: `spec/errors.yaml` is the table both are held to."""

from pathlib import Path
from typing import Any

import yaml

from faas_sdk._errors import FaaSError, platform_errors

TABLE = Path(__file__).parent.parent.parent / "spec" / "errors.yaml"


def rows() -> list[dict[str, Any]]:
    table = yaml.safe_load(TABLE.read_text())
    return [*table["errors"], *table["http_only"]]


def test_every_code_of_the_table_has_a_class_of_the_same_name_and_parent() -> None:
    known = platform_errors()
    for row in rows():
        kind = known[row["code"]]
        assert kind.__name__ == row["class"]
        assert kind.retryable == row["retryable"], row["code"]
        parent = row.get("parent")
        expected = FaaSError.__name__ if parent in (None, "FaasError") else parent
        assert kind.__mro__[1].__name__ == expected, row["code"]


def test_the_sdk_knows_the_codes_of_the_table_and_no_others() -> None:
    assert set(platform_errors()) == {row["code"] for row in rows()}
