"""The reference pages say what the code says."""

from pathlib import Path

from faas.cli.config import reference_page

ROOT = Path(__file__).parents[2]


def test_the_configuration_page_is_fresh() -> None:
    page = (ROOT / "docs/reference/configuration.md").read_text()
    assert page == reference_page() + "\n", "run `make docs`"
