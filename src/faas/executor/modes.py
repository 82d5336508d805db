"""What each mode does with its sandbox, one short function a mode.

`ephemeral`: a fresh sandbox, destroyed afterwards, never answered from a cache. `cached`: the
answer of a former run when there is one. `checkpointed`: the command really runs, then its files
become a snapshot. `branched`: a run that starts from the files of a parent. `persistent`: a command
in an instance, which is made when there is none, and stays.

`after` is what remains to be done once the command has ended, also for a command that was started
by a former gateway; doing it twice does it once.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from faas.errors import InvalidArgumentError, UnsupportedError
from faas.executor.active import Active
from faas.executor.cached_mode import run_cached
from faas.executor.run import Workshop, run_once, run_persistent
from faas.model import ExecutionResult, ExecutionSpec, Mode

RunMode = Callable[[Active, Workshop], Awaitable[ExecutionResult]]


async def run_checkpointed(active: Active, shop: Workshop) -> ExecutionResult:
    """Run it, then keep its files.

    Raises:
        FaasError: we failed; when its files could not be kept, that is a failure too.
    """
    return await after(await run_once(active, shop), active, shop)


async def after(result: ExecutionResult, active: Active, shop: Workshop) -> ExecutionResult:
    """Do what the mode asks for when the command has ended."""
    if active.entry.spec.mode is not Mode.CHECKPOINTED or result.snapshot_id is not None:
        return result
    assert shop.origins is not None  # noqa: S101  check_mode refused it otherwise
    record = await shop.origins.checkpoint(active)
    return replace(result, snapshot_id=record.id)


MODES: Mapping[Mode, RunMode] = {
    Mode.EPHEMERAL: run_once,
    Mode.CACHED: run_cached,
    Mode.CHECKPOINTED: run_checkpointed,
    Mode.BRANCHED: run_once,
    Mode.PERSISTENT: run_persistent,
}


def check_mode(spec: ExecutionSpec) -> None:
    """Refuse what is not built, and what does not fit the mode.

    Raises:
        UnsupportedError: the mode.
        InvalidArgumentError: a field that the mode does not have.
    """
    if spec.mode not in MODES:
        raise UnsupportedError(
            f"the mode {spec.mode.value} is not built yet",
            details={"supported": [mode.value for mode in MODES]},
        )
    if spec.memory and spec.mode is Mode.CACHED:
        raise InvalidArgumentError(
            "an answer from the cache has no memory", hint="leave out memory, or use another mode"
        )
    if spec.checkpoint_after_ms is not None and not (
        spec.memory and spec.mode is Mode.CHECKPOINTED
    ):
        raise InvalidArgumentError(
            "checkpoint_after_ms goes with mode checkpointed and memory",
            hint="set both, or leave it out",
        )
    if spec.memory and not spec.argv and spec.mode is Mode.PERSISTENT:
        raise InvalidArgumentError(
            "an instance goes on from memory when it is made",
            hint="POST /api/v1/instances with snapshot_id and memory",
        )
    if spec.instance_id is not None and spec.mode is not Mode.PERSISTENT:
        raise InvalidArgumentError(
            f"instance_id means nothing in mode {spec.mode.value}", hint="set mode to persistent"
        )
    if spec.caches and spec.mode is Mode.PERSISTENT:
        raise InvalidArgumentError(
            "an instance keeps its own caches: its files stay",
            hint="leave out `caches`, or use another mode",
        )
    if spec.mode is Mode.CACHED and (spec.stdin_open or spec.tty):
        raise InvalidArgumentError(
            "a command that is typed to cannot be answered from the cache",
            hint="leave out stdin_open and tty, or use mode ephemeral",
        )
    if spec.cache_key is not None and spec.mode is not Mode.CACHED:
        raise InvalidArgumentError(
            f"cache_key means nothing in mode {spec.mode.value}", hint="set mode to cached"
        )
