"""Logs: one JSON object a line, whatever is logged."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from faas import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = kept
    root.setLevel(level)


def test_a_line_is_one_json_object_with_its_facts(stream: io.StringIO) -> None:
    logs.configure(level="info", style="json", stream=stream)
    logs.bind("here", tenant="a").bind(runtime="b").info("made\nit", count=3, path="x\ny")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    del line["time"]
    assert line == {
        "level": "info",
        "logger": "here",
        "message": "made\nit",
        "tenant": "a",
        "runtime": "b",
        "count": 3,
        "path": "x\ny",
    }


def test_extra_of_the_standard_library_becomes_facts(stream: io.StringIO) -> None:
    logs.configure(level="info", style="json", stream=stream)
    logging.getLogger("there").warning("left", extra={"count": 2})
    assert json.loads(stream.getvalue())["count"] == 2


def test_an_exception_stays_on_the_line(stream: io.StringIO) -> None:
    logs.configure(level="info", style="json", stream=stream)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("there").exception("broke")
    assert "ValueError: why" in json.loads(stream.getvalue())["exception"]


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    logs.configure(level="warning", style="json", stream=stream)
    logs.bind("here").info("quiet")
    assert stream.getvalue() == ""


def test_text_is_for_people(stream: io.StringIO) -> None:
    logs.configure(level="info", style="text", stream=stream)
    logs.bind("here").info("made", count=3)
    assert stream.getvalue().endswith("info    made count=3\n")


def test_a_long_value_is_cut(stream: io.StringIO) -> None:
    logs.configure(level="info", style="json", stream=stream)
    logs.bind("here").info("made", text="x" * 100_000)
    assert len(stream.getvalue()) < 3000
