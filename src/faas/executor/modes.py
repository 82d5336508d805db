"""What each mode does with its sandbox, one short function a mode.

Only `ephemeral` is built: a fresh sandbox, destroyed afterwards, never answered from a cache.
"""

from collections.abc import Awaitable, Callable, Mapping

from faas.errors import UnsupportedError
from faas.executor.active import Active
from faas.executor.run import Workshop, run_once
from faas.model import ExecutionResult, ExecutionSpec, Mode

RunMode = Callable[[Active, Workshop], Awaitable[ExecutionResult]]

MODES: Mapping[Mode, RunMode] = {Mode.EPHEMERAL: run_once}


def check_mode(spec: ExecutionSpec) -> None:
    """Refuse what is not built.

    Raises:
        UnsupportedError: the mode, or a field that only such a mode uses.
    """
    supported: dict[str, object] = {"supported": [mode.value for mode in MODES]}
    if spec.mode not in MODES:
        raise UnsupportedError(
            f"the mode {spec.mode.value} is not built yet; ephemeral is", details=supported
        )
    given = {
        "cache_key": spec.cache_key,
        "snapshot_id": spec.snapshot_id,
        "branch_from": spec.branch_from,
    }
    for name, value in given.items():
        if value is not None:
            raise UnsupportedError(
                f"{name} belongs to a mode that is not built yet", details=supported
            )
