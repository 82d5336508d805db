"""Mode `cached`: the answer of a former run when the same thing ran before, else a run.

A hit is a recorded execution like any other: it has its own id, its own record, and `cache_hit`.
Nothing ran for it, so it used nothing, wrote nothing to stderr and had no sandbox; its stdout is
the former run's, byte for byte. Of the hits a share (`cache_verify_share`) is run all the same and
compared: a difference is told as an event, and the new answer replaces the old.
"""

import asyncio
import secrets
from dataclasses import replace

from faas.events import CachedResultDiffered
from faas.executor.active import Active
from faas.executor.records import OUTPUT_IN_ROW_BYTES_MAX
from faas.executor.result_cache import cache_key
from faas.executor.run import Workshop, run_once
from faas.ids import SandboxId
from faas.model import ExecutionResult, Timings, Usage

_SHARES = 1 << 30


async def run_cached(active: Active, shop: Workshop) -> ExecutionResult:
    """Answer from the cache, or run and keep the result.

    Raises:
        FaasError: we failed.
    """
    results = shop.results
    assert results is not None  # noqa: S101  opened before the first execution
    entry = active.entry
    started_ns = shop.clock.monotonic_ns()
    key = cache_key(
        entry.spec,
        tenant=entry.tenant,
        image_digest=active.root.digest,
        runtime=entry.runtime or "",
    )
    async with results.flight(key) as flight:
        hit = flight.hit
        if hit is not None and not _is_sampled(shop.settings.cache_verify_share):
            return await _answer(hit, active, queue_us=(started_ns - active.submitted_ns) // 1000)
        result = await run_once(active, shop)
        if hit is not None and (hit.stdout, hit.exit_code) != (result.stdout, result.exit_code):
            results.drop(key)
            shop.events.publish(
                CachedResultDiffered(
                    execution_id=entry.id,
                    cached_execution_id=hit.execution_id,
                    tenant=entry.tenant,
                )
            )
        results.put(key, result)
        return result


async def _answer(hit: ExecutionResult, active: Active, *, queue_us: int) -> ExecutionResult:
    if len(hit.stdout) > OUTPUT_IN_ROW_BYTES_MAX:
        await asyncio.to_thread(active.output.stdout.write_bytes, hit.stdout)
    return replace(
        hit,
        execution_id=active.entry.id,
        stderr=b"",
        stderr_total_bytes=0,
        duration_ms=1,
        usage=Usage(),
        timings=Timings(queue_us=queue_us),
        sandbox_id=SandboxId(""),
        cache_hit=True,
        snapshot_id=None,
    )


def _is_sampled(share: float) -> bool:
    return share > 0 and secrets.randbelow(_SHARES) < share * _SHARES
