"""The SDK's `FakeGateway` answers as a gateway does: the same cases, both judged alike.

The gateway here is a real process over the runtime that runs nothing, so this needs no root.
"""

import io
import tarfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway

from faas_sdk import (
    ExecutionNotFoundError,
    ExecutionTimeoutError,
    ExitEvent,
    FaaSClient,
    IdempotencyConflictError,
    ImageNotFoundError,
    InvalidArgumentError,
    InvalidImageError,
    OutputEvent,
    UnsupportedError,
    WrongStateError,
)
from faas_sdk.testing import FakeGateway


@pytest.fixture(scope="module")
def process() -> Iterator[LiveGateway]:
    with live_gateway(FAAS_RUNTIMES="fake") as gateway:
        yield gateway


@pytest.fixture(params=["FakeGateway", "process"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[FaaSClient]:
    if request.param == "FakeGateway":
        client = FakeGateway().client()
    else:
        client = FaaSClient(request.getfixturevalue("process").url)
    async with client:
        yield client


async def test_a_command_is_answered(client: FaaSClient) -> None:
    result = await client.execute("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    assert (result.reason, result.error, result.ok) == ("exited", None, True)
    assert result.duration_ms >= 1


async def test_every_field_of_a_result_is_there(client: FaaSClient) -> None:
    raw = (await client.execute("echo out")).raw
    for name in (
        "request_id",
        "execution_id",
        "state",
        "mode",
        "exit_code",
        "reason",
        "stdout",
        "output",
        "stderr",
        "logs",
        "duration_ms",
        "error",
        "runtime_used",
        "isolation",
        "image",
        "image_digest",
        "cache_hit",
        "timings",
        "created_at",
    ):
        assert name in raw, name


async def test_a_failure_is_data(client: FaaSClient) -> None:
    result = await client.execute("exit 3")
    assert (result.exit_code, result.error) == (3, "Process exited with code 3")


async def test_input_comes_back(client: FaaSClient) -> None:
    assert (await client.execute(["cat"], stdin=b"\xff\x00")).stdout_bytes == b"\xff\x00"


async def test_time_runs_out(client: FaaSClient) -> None:
    with pytest.raises(ExecutionTimeoutError) as caught:
        await client.execute("sleep 9", timeout_ms=100)
    assert (caught.value.result.exit_code, caught.value.result.reason) == (124, "timed_out")


async def test_a_stream_has_the_bytes_and_the_end(client: FaaSClient) -> None:
    events = [event async for event in client.stream("echo out; echo err >&2")]
    assert OutputEvent("stdout", 0, b"out\n") in events
    assert OutputEvent("stderr", 0, b"err\n") in events
    assert isinstance(events[-1], ExitEvent)
    assert len(events) == 3


async def test_input_is_taken_once_by_its_offset(client: FaaSClient) -> None:
    execution = await client.submit("cat", stdin_open=True)
    assert execution.state in ("queued", "running")
    assert await client.write_stdin(execution.id, "abc", offset=0) == 3
    assert await client.write_stdin(execution.id, "abc", offset=0) == 3
    assert await client.write_stdin(execution.id, "def", offset=3, is_last=True) == 6
    assert (await client.wait(execution.id)).output == "abcdef"
    with pytest.raises(WrongStateError):
        await client.write_stdin(execution.id, "late", offset=6)


async def test_a_cancelled_execution_says_so(client: FaaSClient) -> None:
    execution = await client.submit("cat", stdin_open=True)
    for _ in range(2):
        cancelled = await client.cancel(execution.id)
    assert (cancelled.state, cancelled.reason) == ("finished", "cancelled")
    assert cancelled.exit_code == 137


async def test_a_key_is_one_run(client: FaaSClient) -> None:
    first = await client.execute("echo once", idempotency_key="one key")
    again = await client.execute("echo once", idempotency_key="one key")
    assert first.request_id == again.request_id
    with pytest.raises(IdempotencyConflictError):
        await client.execute("echo twice", idempotency_key="one key")


async def test_kept_output_is_read_by_offset(client: FaaSClient) -> None:
    execution_id = (await client.execute("echo abcdef")).request_id
    assert await client.get_logs(execution_id, offset=2, limit=3) == b"cde"
    assert await client.get_logs(execution_id, offset=99) == b""
    assert await client.get_logs(execution_id, stream="stderr") == b""


async def test_lists_are_paged_newest_first_and_without_output(client: FaaSClient) -> None:
    ids = [(await client.execute(f"echo {i}")).request_id for i in range(3)]
    page = await client.list_executions(limit=2)
    assert [one.id for one in page.executions] == [ids[2], ids[1]]
    assert page.executions[0].command == ("sh", "-c", "echo 2")
    assert page.executions[0].exit_code == 0
    assert page.executions[0].result is None
    rest = await client.list_executions(limit=1, cursor=page.next_cursor)
    assert [one.id for one in rest.executions] == [ids[0]]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"mode": "nonsense"}, InvalidArgumentError),
        ({"runtime": "nonsense"}, InvalidArgumentError),
        ({"timeout_ms": 0}, InvalidArgumentError),
    ],
    ids=str,
)
async def test_refusals_are_the_same(
    client: FaaSClient, options: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        await client.execute("true", **options)


async def test_what_is_not_there_is_not_found_or_unsupported(client: FaaSClient) -> None:
    with pytest.raises(ExecutionNotFoundError):
        await client.get_execution("exec-" + "z" * 26)
    with pytest.raises(UnsupportedError):
        await client.execute("true", isolation="microvm")


async def test_pre_warming_says_what_is_ready(client: FaaSClient) -> None:
    made = await client.prewarm("host", 2)
    assert (made["image"], made["requested"], made["ready"]) == ("host", 2, made["target"])
    assert made["complete"] is True
    row = next(row for row in (await client.pools())["pools"] if row["image"] == "host")
    assert row["ready"] >= 2
    assert row["why"]
    with pytest.raises(InvalidArgumentError):
        await client.prewarm("host", 1_000_000)
    assert (await client.prewarm("host", 0))["requested"] == 0


async def test_an_image_is_imported_listed_and_removed(client: FaaSClient) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as packed:
        packed.addfile(tarfile.TarInfo("etc"))
    made = await client.import_image("faas-test-sdk:1", sink.getvalue())
    assert made["source"] == "tar"
    listed = {one["reference"]: one for one in await client.list_images()}
    assert listed[made["reference"]]["digest"] == made["digest"]
    await client.remove_image("faas-test-sdk:1")
    for gone in ("faas-test-sdk:1", "faas-test-nobody:1"):
        with pytest.raises(ImageNotFoundError):
            await client.remove_image(gone)
    with pytest.raises(InvalidImageError):
        await client.import_image("faas-test-sdk:2", b"no tar")
    with pytest.raises(InvalidArgumentError):
        await client.remove_image("faas-test-sdk:1", runtime="nonsense")


async def test_health_and_metrics_have_the_names_of_the_contract(client: FaaSClient) -> None:
    assert {"status", "timestamp", "components"} <= set(await client.health_check())
    assert {"total_requests", "cache_hits"} <= set(await client.get_metrics())
