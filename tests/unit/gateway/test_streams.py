"""A stream may be cut anywhere and resumed; what was received is what was written."""

import asyncio
import base64
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message

from faas.errors import SandboxBrokenError
from faas.events import EventBus
from faas.gateway import GatewaySettings, build_app, streams
from faas.ids import new_execution_id, new_sandbox_id
from faas.metrics import Metrics
from faas.model import (
    ExecutionRecord,
    ExecutionResult,
    ExecutionSpec,
    ExecutionState,
    ExitReason,
    FailureRecord,
    Timings,
    Usage,
)
from faas.sandbox.protocols import Progress
from faas.tenancy import DEFAULT_TENANT


@dataclass
class Writer:
    """Stands in for an executor with one execution, whose output grows whenever somebody waits."""

    stdout: bytes
    stderr: bytes
    step: int
    record: ExecutionRecord
    failure: Exception | None = None
    shown: int = 0
    waits: int = 0
    image_watch: None = None

    def logs(self, *_: Any) -> "Writer":
        return self

    def progress(self) -> Progress:
        longest = max(len(self.stdout), len(self.stderr))
        return Progress(
            min(self.shown, len(self.stdout)),
            min(self.shown, len(self.stderr)),
            is_ended=self.shown >= longest,
        )

    async def changed(self, seen: Progress) -> Progress:
        if self.failure is not None:
            raise self.failure
        self.waits += 1
        self.shown += self.step
        return self.progress()

    def read(self, stream: str, *, offset: int, length: int) -> bytes:
        whole = self.stdout if stream == "stdout" else self.stderr
        return whole[offset : offset + length]

    async def wait(self, *_: Any) -> ExecutionRecord:
        return self.record


def writer(stdout: bytes, stderr: bytes = b"", *, step: int = 7) -> Writer:
    now = datetime.now(UTC)
    execution_id = new_execution_id()
    result = ExecutionResult(
        execution_id=execution_id,
        exit_code=3,
        signal=None,
        reason=ExitReason.EXITED,
        stdout=stdout,
        stderr=stderr,
        stdout_total_bytes=len(stdout),
        stderr_total_bytes=len(stderr),
        duration_ms=1,
        usage=Usage(),
        timings=Timings(),
        runtime_used="fake",
        isolation="none",
        image_digest="host",
        sandbox_id=new_sandbox_id(),
    )
    spec = ExecutionSpec(argv=("true",), image="host")
    record = ExecutionRecord(
        execution_id, DEFAULT_TENANT, ExecutionState.FINISHED, spec, now, now, now, result
    )
    return Writer(stdout, stderr, step, record)


class Follower:
    """A client that can be cut off after any number of bytes."""

    def __init__(self, source: Writer, **options: Any) -> None:
        self.source = source
        self.app = build_app(
            source,  # type: ignore[arg-type]  what a stream needs of an executor
            settings=replace(GatewaySettings(), **options),
            images=None,
            events=EventBus(),
            metrics=Metrics(),
        )
        self.got = {"stdout": b"", "stderr": b""}
        self.last_id: str | None = None
        self.exits: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.comments = 0
        self.status = 0

    async def follow(self, cut_after: int | None = None) -> None:
        """Connect, take at most that many bytes, and go away."""
        gone = asyncio.Event()
        received = bytearray()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.status = message.get("status", self.status)
            if gone.is_set():
                return
            piece = message.get("body", b"")
            received.extend(piece)
            if piece and cut_after is not None and len(received) >= cut_after:
                gone.set()
                await asyncio.Event().wait()

        headers = [] if self.last_id is None else [(b"last-event-id", self.last_id.encode())]
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/api/v1/logs/{self.source.record.id}/stream",
            "query_string": b"",
            "headers": headers,
        }
        async with asyncio.timeout(30):
            await self.app(scope, receive, send)
        self._take(bytes(received[:cut_after]))

    def _take(self, raw: bytes) -> None:
        *whole, _torn = raw.split(b"\n\n")
        for block in whole:
            self._event(dict(line.split(": ", 1) for line in block.decode().split("\n")))

    def _event(self, fields: dict[str, str]) -> None:
        if "" in fields:
            self.comments += 1
            return
        data = json.loads(fields["data"])
        self.last_id = fields["id"]
        match fields["event"]:
            case "exit":
                self.exits.append(data)
            case "error":
                self.errors.append(data)
            case stream:
                assert (data["stream"], data["offset"]) == (stream, len(self.got[stream]))
                self.got[stream] += base64.b64decode(data["data"])


@settings(deadline=None, max_examples=60)
@given(
    stdout=st.binary(max_size=3000),
    stderr=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 2500), max_size=6),
    step=st.integers(1, 2000),
    chunk=st.integers(1, 700),
)
async def test_a_stream_cut_anywhere_resumes_at_the_very_byte(
    stdout: bytes, stderr: bytes, cuts: list[int], step: int, chunk: int
) -> None:
    follower = Follower(writer(stdout, stderr, step=step))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK_BYTES", chunk)
        for cut in cuts:
            await follower.follow(cut)
        follower.exits.clear()
        await follower.follow()
    assert follower.got == {"stdout": stdout, "stderr": stderr}
    assert [event["exit_code"] for event in follower.exits] == [3]


async def test_the_exit_event_comes_last_and_says_everything() -> None:
    follower = Follower(writer(b"abc", b"de"))
    await follower.follow()
    (event,) = follower.exits
    assert event == {
        "execution_id": follower.source.record.id,
        "state": "finished",
        "exit_code": 3,
        "signal": None,
        "reason": "exited",
        "duration_ms": 1,
        "stdout_total_bytes": 3,
        "stderr_total_bytes": 2,
        "stdout_truncated": False,
        "stderr_truncated": False,
        "error": "Process exited with code 3",
        "failure": None,
    }
    assert follower.last_id == "3-2"


async def test_an_execution_that_failed_by_our_fault_ends_with_an_exit_that_says_so() -> None:
    source = writer(b"", b"")
    failure = FailureRecord("sandbox_broken", "the sandbox broke", "run it again")
    source.record = replace(
        source.record, state=ExecutionState.FAILED, result=None, failure=failure
    )
    follower = Follower(source)
    await follower.follow()
    (event,) = follower.exits
    assert (event["state"], event["exit_code"]) == ("failed", None)
    assert event["failure"] == {
        "code": "sandbox_broken",
        "message": "the sandbox broke",
        "hint": "run it again",
    }


async def test_a_failure_in_mid_stream_is_an_error_event_with_a_problem() -> None:
    source = writer(b"abc", step=1)
    source.failure = SandboxBrokenError()
    follower = Follower(source)
    await follower.follow()
    assert [event["code"] for event in follower.errors] == ["sandbox_broken"]


async def test_a_silent_command_gets_heartbeats() -> None:
    source = writer(b"abc", step=3)
    released = asyncio.Event()
    changed = source.changed

    async def slow(seen: Progress) -> Progress:
        await released.wait()
        return await changed(seen)

    source.changed = slow  # type: ignore[method-assign]
    follower = Follower(source, heartbeat_seconds=0.001)
    opening_and_three_heartbeats = 120
    await follower.follow(opening_and_three_heartbeats)
    assert follower.comments >= 2
    assert follower.got["stdout"] == b""
    released.set()
    await follower.follow()
    assert follower.got["stdout"] == b"abc"


async def test_nothing_is_read_ahead_of_a_slow_client() -> None:
    source = writer(b"x" * 1_000_000, step=1_000_000)
    follower = Follower(source)
    read = source.read
    reads: list[int] = []

    def counted(stream: str, *, offset: int, length: int) -> bytes:
        reads.append(length)
        return read(stream, offset=offset, length=length)

    source.read = counted  # type: ignore[method-assign]
    await follower.follow(1000)
    assert (len(reads), max(reads)) == (1, streams.CHUNK_BYTES)


async def test_a_client_that_takes_nothing_is_cut() -> None:
    source = writer(b"abc")
    follower = Follower(source, send_timeout_seconds=0.001)
    never = asyncio.Event()

    async def receive() -> Message:
        await never.wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await never.wait()

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/api/v1/logs/{source.record.id}/stream",
        "query_string": b"",
        "headers": [],
    }
    async with asyncio.timeout(30):
        await follower.app(scope, receive, send)
    assert follower.app.state.door.streams == set()


async def test_more_streams_than_allowed_are_a_429() -> None:
    follower = Follower(writer(b"abc"), streams_max=0)
    await follower.follow()
    assert follower.status == 429


async def test_streams_end_when_the_door_closes_and_new_ones_are_refused() -> None:
    source = writer(b"abc", step=1)
    entered, never = asyncio.Event(), asyncio.Event()

    async def silent(seen: Progress) -> Progress:
        entered.set()
        await never.wait()
        return seen

    source.changed = silent  # type: ignore[method-assign]
    follower = Follower(source)
    following = asyncio.ensure_future(follower.follow())
    await entered.wait()
    follower.app.state.door.close_streams()
    await following
    assert follower.exits == []
    await follower.follow()
    assert follower.status == 503


@pytest.mark.parametrize("last_id", ["x", "1", "1-", "-1-2", "1-2-3", "9" * 16 + "-0"])
async def test_an_event_id_that_is_not_ours_is_a_400(last_id: str) -> None:
    follower = Follower(writer(b"abc"))
    follower.last_id = last_id
    await follower.follow()
    assert follower.status == 400


async def test_an_event_id_beyond_the_end_gets_only_the_exit() -> None:
    follower = Follower(writer(b"abc"))
    follower.last_id = "99-99"
    await follower.follow()
    assert follower.got == {"stdout": b"", "stderr": b""}
    assert len(follower.exits) == 1
