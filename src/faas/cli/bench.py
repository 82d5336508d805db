"""`faas bench`: a quick, honest measurement of this machine, in its own process and directory.

Three ways to run `echo`, interleaved so that a busy moment hits all alike: from the warm pool, on
demand, and a bare fork+exec on the host as the floor. No HTTP: `benchmarks/` measures that, side by
side with others.
"""

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import click
import uvloop

from faas.assembly import Platform, default_limits, open_platform
from faas.cli import render
from faas.config import Settings, load
from faas.model import ExecutionSpec
from faas.tenancy import LOCAL_PRINCIPAL

_ECHO = ("echo", "hello")
_PAUSE_SECONDS = 0.01
"""Between rounds, so that the pool is full again: this measures a lone request, not throughput."""


@click.command()
@click.option("--rounds", default=100, show_default=True, type=click.IntRange(5, 10_000))
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(*, rounds: int, as_json: bool) -> None:
    """Measure this machine: echo from the pool, on demand, and the floor."""
    scratch = Path(tempfile.mkdtemp(prefix="faas-bench-"))
    settings = replace(load().settings, data_dir=scratch)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(_measure(settings, rounds))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if as_json:
        render.json_data({name: _summary(times) for name, times in found.items()})
        return
    rows = [
        (name, *(f"{value:.2f}" for value in _summary(times).values()))
        for name, times in found.items()
    ]
    render.table(rows, headings=("echo hello", "p50 ms", "p99 ms", "min ms"))
    render.say(
        f"\n{rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; in process,"
        " without HTTP"
    )


def _summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "p50_ms": statistics.median(ordered),
        "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "min_ms": ordered[0],
    }


async def _measure(settings: Settings, rounds: int) -> dict[str, list[float]]:
    pooled, floor = "from the pool", "bare fork+exec on this host"
    cold = "on demand"
    found: dict[str, list[float]] = {pooled: [], cold: [], floor: []}
    async with open_platform(settings) as platform:
        # A disk limit that nothing is pooled for makes the executor create the sandbox on demand.
        limits = default_limits(settings)
        odd = replace(limits, disk_bytes=limits.disk_bytes + (1 << 20))
        warm_spec = ExecutionSpec(argv=_ECHO, image=settings.default_image, limits=limits)
        for number in range(rounds):
            cold_spec = replace(
                warm_spec, limits=replace(odd, disk_bytes=odd.disk_bytes + (number << 20))
            )
            found[pooled].append(await _timed(_execution(platform, warm_spec)))
            await asyncio.sleep(_PAUSE_SECONDS)
            found[cold].append(await _timed(_execution(platform, cold_spec)))
            found[floor].append(await _timed(_bare))
            await asyncio.sleep(_PAUSE_SECONDS)
    return found


async def _timed(action: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await action()
    return (time.perf_counter() - started) * 1000


def _execution(platform: Platform, spec: ExecutionSpec) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await platform.executor.execute(spec, LOCAL_PRINCIPAL)

    return run


async def _bare() -> None:
    process = await asyncio.create_subprocess_exec(*_ECHO, stdout=asyncio.subprocess.PIPE)
    await process.communicate()
