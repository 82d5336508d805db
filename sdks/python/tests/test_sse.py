"""The stream's bytes, cut anywhere, come out once and in order."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas_sdk import (
    ClientConfig,
    ExitEvent,
    OutputEvent,
    ProtocolError,
    SandboxBrokenError,
    UnavailableError,
)
from faas_sdk._sse import OutputCursor, SseMessage, SseParser
from faas_sdk.testing import FakeGateway


def message(stream: str, offset: int, data: bytes, place: str = "") -> SseMessage:
    facts = {"stream": stream, "offset": offset, "data": base64.b64encode(data).decode()}
    return SseMessage(stream, json.dumps(facts), place or None)


WIRE = (
    b": heartbeat\n\n"
    b"event: stdout\nid: 3-0\ndata: {}\n\n"
    b"retry: 100\n"
    b"event: exit\r\nid: 3-4\r\ndata: one\r\ndata:two\r\n\r\n"
    b"data\n\n"
    b"event: cut off"
)
MESSAGES = [
    SseMessage("stdout", "{}", "3-0"),
    SseMessage("exit", "one\ntwo", "3-4"),
    SseMessage("message", "", None),
]


@given(st.lists(st.integers(0, len(WIRE)), max_size=12))
def test_messages_do_not_depend_on_where_chunks_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WIRE)]
    parser = SseParser()
    found = [one for start, end in zip(edges, edges[1:]) for one in parser.feed(WIRE[start:end])]
    assert found == MESSAGES


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faas_sdk._sse.LINE_BYTES_MAX", 1000)
    with pytest.raises(ProtocolError, match="without end"):
        list(SseParser().feed(b"x" * 1001))


def test_what_comes_twice_is_handed_on_once() -> None:
    cursor = OutputCursor()
    assert cursor.take(message("stdout", 0, b"abc")) == OutputEvent("stdout", 0, b"abc")
    assert cursor.take(message("stdout", 0, b"abc")) is None
    assert cursor.take(message("stdout", 1, b"bcde")) == OutputEvent("stdout", 3, b"de")
    assert dict(cursor.offsets) == {"stdout": 5, "stderr": 0}


def test_a_gap_is_an_error_and_never_silent() -> None:
    cursor = OutputCursor()
    with pytest.raises(ProtocolError, match="2 bytes of stderr are missing"):
        cursor.take(message("stderr", 2, b"c"))


def test_the_place_moves_only_with_messages_that_were_taken() -> None:
    cursor = OutputCursor()
    cursor.take(message("stdout", 0, b"abc", "3-0"))
    with pytest.raises(ProtocolError):
        cursor.take(SseMessage("stdout", "not json", "9-9"))
    assert cursor.last_event_id == "3-0"


def test_unknown_events_are_passed_over() -> None:
    assert OutputCursor().take(SseMessage("weather", "{}", None)) is None


def test_the_exit_ends_the_stream() -> None:
    cursor = OutputCursor()
    facts = {"state": "finished", "exit_code": 143, "reason": "signalled", "signal": 15}
    event = cursor.take(SseMessage("exit", json.dumps(facts), None))
    assert event == ExitEvent(143, "signalled", 15)
    assert cursor.is_ended


def test_an_execution_that_the_platform_failed_to_run_raises_its_error() -> None:
    failure = {"code": "sandbox_broken", "message": "gone", "hint": "again"}
    facts = {"state": "failed", "exit_code": None, "failure": failure}
    with pytest.raises(SandboxBrokenError, match="gone"):
        OutputCursor().take(SseMessage("exit", json.dumps(facts), None))


def test_a_problem_within_a_stream_is_raised() -> None:
    problem = {"code": "unavailable", "status": 503, "detail": "closing", "retryable": True}
    with pytest.raises(UnavailableError, match="closing") as caught:
        OutputCursor().take(SseMessage("error", json.dumps(problem), None))
    assert caught.value.status == 503


@given(
    st.binary(max_size=20_000),
    st.binary(max_size=9_000),
    st.lists(st.integers(0, 9000), max_size=3),
)
async def test_output_is_byte_exact_across_broken_connections(
    stdout: bytes, stderr: bytes, cuts: list[int]
) -> None:
    gateway = FakeGateway(heartbeat_seconds=0).on("x", stdout=stdout, stderr=stderr)
    gateway.cut_stream(*cuts)
    got = {"stdout": b"", "stderr": b""}
    async with (
        gateway.client(ClientConfig(retry_delay_seconds=0.0)) as client,
        client.stream("x") as stream,
    ):
        async for event in stream:
            if isinstance(event, OutputEvent):
                got[event.stream] += event.data
    assert got == {"stdout": stdout, "stderr": stderr}
    assert stream.exit == ExitEvent(0, "exited", duration_ms=1)
