"""Memory checkpoints of containers, through the gateway's executor: real CRIU, a real Engine."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.plugins.criu import criu_prefix
from tests.plugins.docker import docker_engine, remapping_engine, script

from faas.assembly import Platform, open_platform
from faas.config import Settings
from faas.errors import UnsupportedError
from faas.executor.instance_records import InstanceSpec
from faas.model import ExecutionRecord, ExecutionSpec, ExitReason, Limits, Mode, RuntimeChoice
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL

__all__ = ["docker_engine", "remapping_engine"]
pytestmark = [
    pytest.mark.needs_criu,
    pytest.mark.needs_docker,
    pytest.mark.needs_root,
    pytest.mark.timeout(180),
]
COUNTING = "i=0; while :; do echo $i; i=$((i+1)); echo $i > /workspace/at; sleep 0.01; done"
SECONDS = 60


async def opened(engine: str, directory: str, **settings: object) -> Platform:
    prefix = criu_prefix()
    if prefix is None:
        pytest.skip("CRIU is not installed: scripts/criu.sh .faas/criu")
    options = {"runtimes": ("embedded", "docker"), "default_image": "alpine", **settings}
    return open_platform(
        Settings(
            data_dir=Path(directory), docker_host=engine, pool_size=0, criu_prefix=str(prefix),
            **options,
        )
    )  # fmt: skip


@pytest.fixture(params=["crun", "runc"])
async def platform(docker_engine: str, request) -> AsyncIterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as directory:
        settings = {"docker_oci_runtime": request.param}
        async with await opened(docker_engine, directory, **settings) as platform:
            await platform.images.import_("alpine", Path(script("test_images.sh", "alpine")))
            yield platform


async def run(platform: Platform, text: str | None, **fields: object) -> ExecutionRecord:
    fields.setdefault("runtime", RuntimeChoice.DOCKER if text else RuntimeChoice.AUTO)
    fields.setdefault("image", "alpine" if text else "")
    fields.setdefault("limits", Limits(timeout_ms=60_000))
    argv = ("sh", "-c", text) if text else ()
    spec = ExecutionSpec(argv=argv, memory=True, mode=Mode.CHECKPOINTED, **fields)
    return await platform.executor.execute(spec, LOCAL)


def numbers(record: ExecutionRecord) -> list[int]:
    """Whole lines only: the first and the last may be parts of one."""
    assert record.result is not None
    return [int(line) for line in record.result.stdout.rpartition(b"\n")[0].split()]


async def until(is_so) -> None:
    gives_up_at = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < gives_up_at
        await asyncio.sleep(0.02)


async def test_a_count_goes_on_over_slices_and_nothing_is_lost_between(platform: Platform) -> None:
    part = await run(platform, COUNTING, checkpoint_after_ms=400)
    whole = b""
    for _ in range(3):
        assert part.result is not None
        assert part.result.reason is ExitReason.CHECKPOINTED, part.result
        assert part.result.runtime_used == "docker"
        assert part.result.isolation == "docker+uid+seccomp"
        whole += part.result.stdout
        part = await run(
            platform, None, snapshot_id=part.result.snapshot_id, checkpoint_after_ms=200
        )
    seen = [int(line) for line in whole.split()]
    assert seen == list(range(len(seen)))
    assert len(seen) > 10
