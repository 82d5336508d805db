"""Every promise names something that holds it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SPECIFICATION.md").read_text()
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)(?:::(\w+))?`", TEXT)))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: str(part).rpartition("/")[2])
def test_what_holds_a_promise_exists(file: str, name: str) -> None:
    path = ROOT / file
    assert path.is_file(), f"{file} is gone"
    if name:
        assert re.search(rf"def {name}\(", path.read_text()), f"{file} has no {name}"


def test_every_row_of_a_promise_names_what_holds_it() -> None:
    promises = TEXT.partition("## Results")[2].partition("## Not promised")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")]
    bare = [row for row in rows if ".py" not in row and not row.startswith("| promise")]
    assert bare == []
