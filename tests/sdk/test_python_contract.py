"""The Python SDK against a real gateway process: what clients of the original platform rely on."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway

from faas_sdk import (
    CommandFailedError,
    ExecutionNotFoundError,
    ExecutionTimeoutError,
    ExitEvent,
    FaaSClient,
    IdempotencyConflictError,
    ImageNotFoundError,
    InvalidArgumentError,
    OutputEvent,
    Runtime,
    RuntimeUnavailableError,
    SyncFaaSClient,
    UnsupportedError,
    run,
)

pytestmark = pytest.mark.needs_root


@pytest.fixture
async def client(gateway: LiveGateway) -> AsyncIterator[FaaSClient]:
    client = FaaSClient(gateway.url)
    yield client
    await client.aclose()


async def test_health_is_a_dict_with_a_status(client: FaaSClient) -> None:
    health = await client.health_check()
    assert health["status"] == "healthy"
    assert isinstance(health["timestamp"], str)


async def test_an_echo_is_answered_with_an_id_and_a_duration(client: FaaSClient) -> None:
    result = await client.execute('echo "Hello from Docker"', image="alpine:latest")
    assert "Hello from Docker" in result.output
    assert result.request_id
    assert result.duration_ms > 0


async def test_environment_variables_arrive(client: FaaSClient) -> None:
    result = await client.execute('sh -c "echo $MY_VAR"', env_vars={"MY_VAR": "test-value"})
    assert result.output == "test-value\n"


async def test_python_code_of_several_lines_runs(client: FaaSClient) -> None:
    result = await client.run_python("print('Python works')\nx = 2 + 2\nprint(x)")
    assert result.raise_for_exit().output == "Python works\n4\n"


async def test_javascript_with_double_quotes_runs(client: FaaSClient) -> None:
    has_node = (await client.execute("command -v node")).ok
    result = await client.run_javascript('console.log("JavaScript works"); console.log(2 + 2);')
    # The host image has node when the host has; without, the answer is the shell's.
    expected = ("JavaScript works\n4\n", 0) if has_node else ("", 127)
    assert (result.output, result.exit_code) == expected


async def test_typescript_runs_or_says_what_the_image_lacks(client: FaaSClient) -> None:
    result = await client.run_typescript("const answer: number = 42; console.log(`${answer}`)")
    assert result.output == "42\n" or (
        result.exit_code == 127 and "nothing here runs TypeScript" in result.stderr
    )


async def test_a_shell_script_runs(client: FaaSClient) -> None:
    result = await client.run_bash('echo "Bash works"; expr 2 + 2')
    assert result.raise_for_exit().output == "Bash works\n4\n"


async def test_a_shell_script_expands_its_own_variables(client: FaaSClient) -> None:
    result = await client.run_bash('A="x y"; for i in 1 2; do echo "$A $i `echo z`"; done')
    assert result.output == "x y 1 z\nx y 2 z\n"


async def test_a_runtime_that_is_not_there_is_refused_and_never_replaced(
    client: FaaSClient,
) -> None:
    if (await client.health_check())["docker"]:
        result = await client.execute("echo docker", runtime=Runtime.DOCKER)
        assert (result.output, result.runtime_used) == ("docker\n", "docker")
        return
    with pytest.raises((UnsupportedError, RuntimeUnavailableError)):
        await client.execute("echo docker", runtime=Runtime.DOCKER)


async def test_the_runtime_by_name_answers_as_that(client: FaaSClient) -> None:
    result = await client.execute("echo here", runtime=Runtime.EMBEDDED)
    assert (result.output, result.runtime_used) == ("here\n", "embedded")


async def test_a_failing_command_raises_nothing(client: FaaSClient) -> None:
    result = await client.execute('sh -c "echo error && exit 1"')
    assert result.request_id
    assert (result.exit_code, result.output) == (1, "error\n")
    with pytest.raises(CommandFailedError):
        result.raise_for_exit()


async def test_a_command_that_takes_too_long_raises_with_what_it_said(client: FaaSClient) -> None:
    with pytest.raises(ExecutionTimeoutError) as caught:
        await client.execute("echo before; sleep 60", timeout_ms=1000)
    result = caught.value.result
    assert (result.output, result.reason, result.exit_code) == ("before\n", "timed_out", 124)
    assert 1000 <= result.duration_ms < 60_000


async def test_metrics_are_a_dict_that_counts(client: FaaSClient) -> None:
    before = (await client.get_metrics())["total_requests"]
    await client.execute("true")
    assert (await client.get_metrics())["total_requests"] > before


async def test_three_at_once_get_their_own_answers(client: FaaSClient) -> None:
    results = await asyncio.gather(*(client.execute(f'echo "Test {i}"') for i in range(3)))
    assert [result.output for result in results] == [f"Test {i}\n" for i in range(3)]


async def test_exit_code_and_streams_are_kept_apart(client: FaaSClient) -> None:
    result = await client.execute('echo "fatal error" >&2; exit 17')
    assert (result.exit_code, result.stdout, result.stderr) == (17, "", "fatal error\n")


async def test_one_line_runs_code_or_a_command(gateway: LiveGateway) -> None:
    assert await run("print(6 * 7)", base_url=gateway.url) == "42\n"
    assert await run("echo $((6 * 7))", "sh", gateway.url) == "42\n"
    assert await run("echo 42", "command", gateway.url) == "42\n"
    with pytest.raises(CommandFailedError):
        await run("raise SystemExit(3)", base_url=gateway.url)


async def test_a_signal_is_named(client: FaaSClient) -> None:
    result = await client.execute(["sh", "-c", "kill -TERM $$"])
    assert (result.exit_code, result.signal, result.reason) == (143, 15, "signalled")


async def test_input_comes_back_byte_for_byte(client: FaaSClient) -> None:
    data = bytes(range(256)) * 64
    result = await client.execute(["cat"], stdin=data)
    assert result.stdout_bytes == data


async def test_a_megabyte_of_input_is_counted(client: FaaSClient) -> None:
    result = await client.execute("wc -c", payload=b"x" * (1 << 20))
    assert result.output.strip() == "1048576"


async def test_injection_in_the_input_stays_data(client: FaaSClient) -> None:
    text = "'; echo injected; $(touch /tmp/x) `id`"
    assert (await client.execute(["cat"], stdin=text)).output == text


async def test_code_of_any_length_and_quotes_runs(client: FaaSClient) -> None:
    code = f"data = '{'x' * 300_000}'\nprint(len(data), \"it's $HOME `x`\")"
    result = await client.run_python(code)
    assert result.raise_for_exit().output == "300000 it's $HOME `x`\n"


async def test_one_run_leaves_nothing_for_the_next(client: FaaSClient) -> None:
    await client.execute("echo secret > /tmp/secret")
    assert (await client.execute("cat /tmp/secret")).exit_code == 1


async def test_files_are_there_before_the_command_starts(
    client: FaaSClient, tmp_path: Path
) -> None:
    script = tmp_path / "run.sh"
    script.write_text('#!/bin/sh\ncat "$@"\n')
    script.chmod(0o755)
    result = await client.execute(
        ["/job/run.sh", "/job/deep/er/data.bin", "/job/text"],
        files={
            "/job/run.sh": script,
            "/job/deep/er/data.bin": b"\xff\x00",
            "/job/text": "text",
        },
    )
    assert result.stdout_bytes == b"\xff\x00text"


async def test_a_directory_is_unpacked_where_the_command_runs(
    client: FaaSClient, tmp_path: Path
) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "__main__.py").write_text("import os; print(os.getcwd())")
    result = await client.execute(
        ["python3", "-m", "pkg"], archive=tmp_path, working_dir="/workspace"
    )
    assert result.raise_for_exit().output == "/workspace\n"


async def test_output_arrives_while_the_command_runs(client: FaaSClient) -> None:
    script = "echo first; read line; echo got $line; echo end >&2"
    seen: list[object] = []
    async with client.stream(["sh", "-c", script], stdin_open=True) as stream:
        async for event in stream:
            seen.append(event)
            if event == OutputEvent("stdout", 0, b"first\n"):
                await stream.write_stdin("answer\n", is_last=True)
        result = await stream.result()
    assert OutputEvent("stdout", 6, b"got answer\n") in seen
    assert isinstance(seen[-1], ExitEvent)
    assert (result.stdout, result.stderr) == ("first\ngot answer\n", "end\n")


async def test_streamed_output_is_byte_exact(client: FaaSClient) -> None:
    script = (
        "import sys, hashlib, random\n"
        "random.seed(7)\n"
        "data = random.randbytes(3_000_000)\n"
        "sys.stdout.buffer.write(data); sys.stdout.flush()\n"
        "sys.stderr.write(hashlib.sha256(data).hexdigest())\n"
    )
    stdout, stderr = hashlib.sha256(), b""
    async for event in client.stream(["python3", "-c", script]):
        if isinstance(event, OutputEvent) and event.stream == "stdout":
            stdout.update(event.data)
        elif isinstance(event, OutputEvent):
            stderr += event.data
    assert stdout.hexdigest() == stderr.decode()


async def test_logs_of_an_ended_execution_are_kept(client: FaaSClient) -> None:
    result = await client.execute("printf abcdef; printf oops >&2")
    events = [event async for event in client.stream_logs(result.request_id)]
    assert b"".join(e.data for e in events if isinstance(e, OutputEvent)) in (
        b"abcdefoops",
        b"oopsabcdef",
    )
    assert await client.get_logs(result.request_id, offset=2, limit=3) == b"cde"
    assert await client.get_logs(result.request_id, stream="stderr") == b"oops"


async def test_a_submitted_execution_can_be_waited_for(client: FaaSClient) -> None:
    execution = await client.submit("sleep 0.2; echo done")
    assert not execution.is_final
    assert (await client.wait(execution.id)).output == "done\n"
    listed = await client.list_executions(limit=100)
    assert execution.id in [one.id for one in listed.executions]


async def test_a_cancelled_execution_ends_as_that(client: FaaSClient) -> None:
    execution = await client.submit("sleep 60")
    await client.cancel(execution.id)
    assert (await client.wait(execution.id)).reason == "cancelled"


async def test_a_caller_that_gives_up_ends_its_command(client: FaaSClient) -> None:
    mark = f"given-up-{uuid.uuid4()}"
    running = asyncio.ensure_future(client.execute(["sh", "-c", "sleep 60", mark]))

    async def mine() -> list[str]:
        page = await client.list_executions(limit=20)
        return [one.id for one in page.executions if mark in one.command]

    while not await mine():
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (execution_id,) = await mine()
    assert (await client.wait(execution_id)).reason == "cancelled"


async def test_one_key_is_one_run_also_in_parallel(client: FaaSClient) -> None:
    key = f"key-{uuid.uuid4()}"
    command = "cat /proc/sys/kernel/random/uuid"
    results = await asyncio.gather(
        *(client.execute(command, idempotency_key=key) for _ in range(5))
    )
    assert len({(result.request_id, result.output) for result in results}) == 1
    with pytest.raises(IdempotencyConflictError):
        await client.execute("true", idempotency_key=key)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"mode": "branched", "branch_from": "exec-x"}, ExecutionNotFoundError),
        ({"mode": "nonsense"}, InvalidArgumentError),
        ({"image": "no-such-image:1"}, ImageNotFoundError),
        ({"timeout_ms": -1}, InvalidArgumentError),
        ({"memory_mb": 1 << 40}, InvalidArgumentError),
        ({"env_vars": {"A=B": "c"}}, InvalidArgumentError),
        ({"working_dir": "relative"}, InvalidArgumentError),
    ],
    ids=str,
)
async def test_refusals_are_typed(client: FaaSClient, options: dict, kind: type) -> None:
    with pytest.raises(kind) as caught:
        await client.execute("true", **options)
    assert caught.value.trace_id
    assert client.metrics.retries == 0


async def test_an_unknown_execution_is_not_found(client: FaaSClient) -> None:
    with pytest.raises(ExecutionNotFoundError):
        await client.get_execution("exec-" + "0" * 26)


async def test_pre_warming_answers_when_they_are_ready(client: FaaSClient) -> None:
    made = await client.prewarm("host", 2)
    assert made["complete"]
    assert made["ready"] >= 2
    result = await client.execute("true", image="host")
    assert result.runtime_used == "embedded"
    assert result.runtime_reason


async def test_what_this_host_cannot_do_is_unsupported(client: FaaSClient) -> None:
    with pytest.raises(UnsupportedError):
        await client.execute("true", isolation="microvm")


def test_the_sync_twin_does_the_same(gateway: LiveGateway) -> None:
    with SyncFaaSClient(gateway.url) as client:
        assert client.health_check()["status"] == "healthy"
        assert client.run_python("print(6 * 7)").output == "42\n"
        with client.stream("echo out; echo err >&2") as stream:
            texts = {e.stream: e.text for e in stream if isinstance(e, OutputEvent)}
        assert texts == {"stdout": "out\n", "stderr": "err\n"}
        assert stream.result().ok


def test_a_client_may_outlive_its_event_loop(gateway: LiveGateway) -> None:
    client = FaaSClient(gateway.url)

    async def once() -> str:
        output = (await client.execute("echo again")).output
        await client.aclose()
        return output

    assert [asyncio.run(once()) for _ in range(2)] == ["again\n", "again\n"]


async def test_a_stream_survives_the_death_of_its_gateway() -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.2; done"
    with live_gateway() as gateway:
        client = FaaSClient(gateway.url)
        output = b""
        async for event in client.stream(script):
            if isinstance(event, OutputEvent):
                if not output:
                    gateway.kill()
                    gateway.start()
                output += event.data
        await client.aclose()
    assert output == b"".join(b"line %d\n" % i for i in range(1, 10))
    assert event == ExitEvent(0, "exited", None, event.duration_ms)


async def test_images_are_listed_and_one_that_nobody_has_is_not_found(client: FaaSClient) -> None:
    assert "host" in {one["reference"] for one in await client.list_images()}
    ready = await client.pull_image("host", pull_policy="missing")
    assert ready["digest"] == "host"
    with pytest.raises(ImageNotFoundError):
        await client.pull_image("faas-nobody:1", pull_policy="never")
    with pytest.raises(ImageNotFoundError):
        await client.execute("true", image="faas-nobody:1", pull_policy="never")


async def test_an_image_is_built_only_where_there_is_an_engine(client: FaaSClient) -> None:
    with pytest.raises(UnsupportedError):
        await client.build_image("faas-test-sdk:1", b"\0" * 1024)
