"""`faas doctor` on memory checkpoints: really takes a process out of one sandbox into another."""

import asyncio
import time
from pathlib import Path

from faas.errors import FaasError
from faas.ids import new_sandbox_id
from faas.model import Limits
from faas.sandbox.capabilities import Checkpointable, Resumption
from faas.sandbox.protocols import Command, OutputFiles, RootFilesystem, Runtime, SandboxSpec

_COUNTING = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
_LIMITS = Limits(memory_bytes=64 << 20, disk_bytes=16 << 20, pids_max=32)
_SECONDS = 30.0


async def try_memory(runtime: Runtime, scratch: Path) -> tuple[bool, str, str | None, float]:
    """Return whether a count went on in another sandbox, what was found, a hint, milliseconds."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_SECONDS):
            detail = await _count_on(runtime, scratch)
    except FaasError as failure:
        return False, failure.message, failure.hint, 0.0
    except TimeoutError:
        return False, "a checkpoint did not come to its end", None, 0.0
    return True, detail, None, (time.perf_counter() - began) * 1000


async def _count_on(runtime: Runtime, scratch: Path) -> str:
    root = RootFilesystem(digest="host", path=None)
    images = scratch / "doctor" / "images"
    images.mkdir(parents=True)
    made = [
        await runtime.create(
            SandboxSpec(new_sandbox_id(), root, _LIMITS, keeps_memory=True, is_refilled=is_second)
        )
        for is_second in (False, True)
    ]
    try:
        first, second = made
        assert isinstance(first, Checkpointable)  # noqa: S101  the runtime said it can
        assert isinstance(second, Checkpointable)  # noqa: S101
        before, after = _output(scratch, "before"), _output(scratch, "after")
        command = Command(("/bin/sh", "-c", _COUNTING), timeout_ms=20_000)
        await first.start("count", command, before)
        await _lines(before.stdout, 3)
        async with first.processes_taken(images):
            reached = await _lines(before.stdout, 3)
        await second.restore_processes(images, {"": Resumption("count", after, is_continued=False)})
        went_on = (await _lines(after.stdout, 2))[0]
    finally:
        for sandbox in made:
            await sandbox.destroy("tried")
    return f"a count reached {reached[-1]} in one sandbox and went on with {went_on} in another"


def _output(scratch: Path, name: str) -> OutputFiles:
    return OutputFiles(scratch / f"doctor-{name}.out", scratch / f"doctor-{name}.err")


async def _lines(path: Path, count: int) -> list[str]:
    while True:
        lines = path.read_text().splitlines() if path.exists() else []  # noqa: ASYNC240
        if len(lines) >= count:
            return lines
        await asyncio.sleep(0.01)
