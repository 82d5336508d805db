"""The client of the command line: streams cut anywhere, problems as our own errors."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas import errors
from faas.cli.gateway import Gateway, StreamEvent, event_bytes, parse_events, problem_to_error
from faas.config import ClientSettings


def test_events_are_read_and_comments_are_not() -> None:
    lines = [b": beat\n", b"event: stdout\n", b'data: {"data": "aGk="}\n', b"id: 2-0\n", b"\n"]
    found = list(parse_events(iter(lines)))
    assert found == [StreamEvent("stdout", {"data": "aGk="}, "2-0")]
    assert event_bytes(found[0]) == b"hi"


def test_a_torn_last_event_is_dropped() -> None:
    assert list(parse_events(iter([b"event: stdout\n", b'data: {"data": "aG']))) == []


@given(st.lists(st.text(max_size=20), max_size=8))
def test_whatever_text_travels_comes_out_the_same(texts: list[str]) -> None:
    lines = [
        line.encode() + b"\n"
        for text in texts
        for line in ("event: stdout", f"data: {json.dumps({'text': text})}", "")
    ]
    assert [event.data["text"] for event in parse_events(iter(lines))] == texts


def test_a_problem_becomes_the_class_it_was_made_from() -> None:
    body = {"code": "queue_full", "detail": "no room", "hint": "wait", "trace_id": "t"}
    failure = problem_to_error(429, json.dumps(body).encode())
    assert isinstance(failure, errors.QueueFullError)
    assert (failure.message, failure.hint) == ("no room", "wait")
    assert failure.details["trace_id"] == "t"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidArgumentError),
        (404, errors.NotFoundError),
        (500, errors.InternalError),
        (502, errors.UnavailableError),
    ],
)
def test_an_answer_of_something_else_is_told_by_its_status(
    status: int, kind: type[errors.FaasError]
) -> None:
    assert type(problem_to_error(status, b"<html>")) is kind


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8080", "http://"])
def test_what_is_not_an_address_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        Gateway(ClientSettings(url, None))
