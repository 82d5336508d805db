"""Children of one parent run side by side; the first that passes wins, the others are ended.

Passing is exit code 0 of the child, and, where a check is given, of the check too, run in a copy of
the child's files. Every child's files are kept as a snapshot before it is judged, so the winner's
state is durable when it is told.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from faas.errors import FaasError
from faas.executor.executor import PlatformExecutor
from faas.ids import ExecutionId
from faas.model import ExecutionRecord, ExecutionSpec, ExitReason, Mode
from faas.tenancy import Principal


@dataclass(frozen=True, slots=True)
class Race:
    """How it went."""

    winner: ExecutionRecord | None
    children: list[ExecutionRecord]


async def fork(
    executor: PlatformExecutor, parent: str, children: Sequence[ExecutionSpec], principal: Principal
) -> list[ExecutionRecord]:
    """Run children of one parent side by side and return their final records.

    Raises:
        FaasError: the parent cannot be found, or a child was refused; then none is left running.
    """
    ids = await _start(executor, parent, children, principal)
    return [await executor.wait(execution_id, principal) for execution_id in ids]


async def race(
    executor: PlatformExecutor,
    parent: str,
    children: Sequence[ExecutionSpec],
    principal: Principal,
    *,
    check: tuple[str, ...] | None,
) -> Race:
    """Run children of one parent side by side until one passes."""
    kept = [replace(child, mode=Mode.CHECKPOINTED) for child in children]
    ids = await _start(executor, parent, kept, principal)
    judging = [asyncio.ensure_future(_passes(executor, one, principal, check)) for one in ids]
    winner: ExecutionRecord | None = None
    try:
        for verdict in asyncio.as_completed(judging):
            winner = await verdict
            if winner is not None:
                break
    finally:
        for task in judging:
            task.cancel()
        await asyncio.gather(*judging, return_exceptions=True)
        await _end(executor, ids, principal)
    return Race(winner, [await executor.get(one, principal) for one in ids])


async def _start(
    executor: PlatformExecutor, parent: str, children: Sequence[ExecutionSpec], principal: Principal
) -> list[ExecutionId]:
    if any(child.is_resumption for child in children):
        begin = (await executor.origins.memory_of(parent, principal)).id
    else:
        begin = (await executor.origins.parent_of(parent, principal)).id
    started: list[ExecutionId] = []
    try:
        for child in children:
            spec = replace(child, branch_from=begin, snapshot_id=None)
            started.append((await executor.submit(spec, principal)).id)
    except FaasError:
        await _end(executor, started, principal)
        raise
    return started


async def _passes(
    executor: PlatformExecutor,
    execution_id: ExecutionId,
    principal: Principal,
    check: tuple[str, ...] | None,
) -> ExecutionRecord | None:
    record = await executor.wait(execution_id, principal)
    result = record.result
    if result is None or result.exit_code or result.reason is not ExitReason.EXITED:
        return None
    if check is None:
        return record
    judge = replace(
        record.spec, argv=check, mode=Mode.BRANCHED, branch_from=result.snapshot_id,
        snapshot_id=None, image="", stdin=None, files=(), archive=None,
    )  # fmt: skip
    judged = await executor.execute(judge, principal)
    return record if judged.result is not None and judged.result.exit_code == 0 else None


async def _end(
    executor: PlatformExecutor, ids: Sequence[ExecutionId], principal: Principal
) -> None:
    await asyncio.gather(*(executor.cancel(one, principal) for one in ids))
