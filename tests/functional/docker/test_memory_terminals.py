"""A shell on a terminal in a container is taken with its memory and typed to elsewhere."""

import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.functional.docker.test_memory import docker_engine, opened, script, until

from faas.assembly import Platform
from faas.ids import ExecutionId
from faas.model import ExecutionSpec, Limits, Mode, RuntimeChoice
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL

__all__ = ["docker_engine"]
pytestmark = [
    pytest.mark.needs_criu,
    pytest.mark.needs_docker,
    pytest.mark.needs_root,
    pytest.mark.timeout(180),
]
SLEEP = "sh -c 'echo be\"\"gun; exec sleep 1000'\n"
"""A job that is in the foreground when it says so."""


@pytest.fixture(params=["crun", "runc"])
async def platform(docker_engine: str, request) -> AsyncIterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as directory:
        settings = {"docker_oci_runtime": request.param}
        async with await opened(docker_engine, directory, **settings) as platform:
            await platform.images.import_("alpine", Path(script("test_images.sh", "alpine")))
            yield platform


async def typed(platform: Platform, execution: ExecutionId, text: str, waits_for: str) -> str:
    await platform.executor.write_stdin(execution, LOCAL, text.encode())

    def said() -> str:
        logs = platform.executor.logs(execution, LOCAL)
        return logs.read("stdout", offset=0, length=1 << 20).decode()

    try:
        await until(lambda: waits_for in said())
    except AssertionError:
        pytest.fail(f"waited for {waits_for!r} in {said()!r}")
    return said()


async def test_children_of_one_shell_go_on_with_a_terminal_each(platform: Platform) -> None:
    shell = ExecutionSpec(
        argv=("sh", "-i"), memory=True, mode=Mode.CHECKPOINTED, tty=True, stdin_open=True,
        runtime=RuntimeChoice.DOCKER, image="alpine", limits=Limits(timeout_ms=100_000),
    )  # fmt: skip
    made = await platform.executor.submit(shell, LOCAL)
    await typed(platform, made.id, "word=kept; stty rows 40 cols 99; echo re''ady\n", "ready")
    kept = await platform.executor.origins.memory_of(made.id, LOCAL)
    child = replace(shell, argv=(), image="", runtime=RuntimeChoice.AUTO, snapshot_id=kept.id)
    children = [await platform.executor.submit(child, LOCAL) for _ in range(2)]
    for one in (*children, made):
        said = await typed(platform, one.id, "echo $word-$((6*7)); stty size; tty\n", "/dev/pts/")
        assert "kept-42" in said
        assert "40 99" in said
        await typed(platform, one.id, SLEEP, "begun")
        await typed(platform, one.id, "\x03", "^C")
        await typed(platform, one.id, "echo code $?\n", "code 130")
    for one in (*children, made):
        await platform.executor.cancel(one.id, LOCAL)
