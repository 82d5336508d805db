"""Executions that are kept with their memory and go on in another: a slice of a long run each.

The end of a slice is `Origins.keep_memory` with `is_final`: when all is read the command is killed
here, and the result says `checkpointed` and names the snapshot it goes on from.
"""

import asyncio
import logging

from faas.errors import FaasError
from faas.executor.active import Active
from faas.executor.origins import Origins
from faas.executor.spool import read_whole
from faas.model import ExecutionResult, ExitReason, Timings, Usage
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import Exit, Process

_log = logging.getLogger(__name__)


async def end_of(active: Active, origins: Origins | None, process: Process) -> Exit:
    """Wait for the command's end, or bring about the end of its slice."""
    after_ms = active.entry.spec.checkpoint_after_ms
    if after_ms is None or origins is None:
        return await process.wait()
    try:
        async with asyncio.timeout(after_ms / 1000):
            return await process.wait()
    except TimeoutError:
        pass
    try:
        await origins.keep_memory(active, is_final=True)
    except FaasError:
        # It runs on as it was, to its end or its time limit; then its files are kept.
        _log.warning(
            "the memory of an execution was not kept",
            exc_info=True,
            extra={"execution_id": active.entry.id},
        )
    return await process.wait()


def result(
    active: Active, sandbox: GuardedSandbox, snapshot_id: str, wall_ns: int
) -> ExecutionResult:
    """Make the result of a slice."""
    most = active.entry.spec.limits.output_bytes_max
    stdout = read_whole(active.output.stdout, most)
    stderr = read_whole(active.output.stderr, most)
    return ExecutionResult(
        execution_id=active.entry.id,
        exit_code=0,
        signal=None,
        reason=ExitReason.CHECKPOINTED,
        stdout=stdout,
        stderr=stderr,
        stdout_total_bytes=len(stdout),
        stderr_total_bytes=len(stderr),
        duration_ms=max(1, -(-wall_ns // 1_000_000)),
        usage=Usage(),
        timings=Timings(exec_us=wall_ns // 1000),
        runtime_used=sandbox.runtime,
        isolation=sandbox.isolation,
        image_digest=sandbox.image_digest,
        sandbox_id=sandbox.id,
        snapshot_id=snapshot_id,
    )
