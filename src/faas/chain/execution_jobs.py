"""Jobs 0 and 1: commands. Made once by the executor: the key of the call finds the earlier run.

Only a run whose sandbox was lost, with the machine or by its own doing, is no answer: it runs anew.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final, cast

from faas import logs
from faas.chain.codec import ExecuteAdvanced, ExecuteFunction, JobCall
from faas.chain.job_context import Answer, Executor, JobContext
from faas.chain.receipts import Means
from faas.errors import InternalError, InvalidArgumentError, SandboxBrokenError, TooLargeError
from faas.model import ExecutionRecord, ExecutionResult, ExecutionSpec, ExitReason, Mode

_log = logs.bind(__name__)

COMMAND_FAILED: Final = "command_failed"
"""The code of a job whose command ended with another code than 0; the platform did its part."""

_STDERR_TOLD: Final = 1024
_RUNS_MAX: Final = 3
"""A job that breaks its own sandbox ends here; one whose machine was restarted has had its luck."""
_RUN_AGAIN: Final = frozenset({Mode.EPHEMERAL, Mode.CHECKPOINTED, Mode.BRANCHED})
"""Modes whose sandbox nobody else sees: a run that was cut off has left nothing to stumble over."""
_BY_MODE: Final = {
    Mode.CACHED: "cache_key",
    Mode.CHECKPOINTED: "snapshot_id",
    Mode.BRANCHED: "branch_from",
    Mode.PERSISTENT: "instance_id",
}


async def execute_function(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Run a command in a fresh sandbox."""
    job = cast("ExecuteFunction", call)
    spec = ExecutionSpec(
        argv=_argv(job.command),
        image=job.image or context.settings.default_image,
        env=_env((*job.env, *context.env)),
        stdin=job.payload or None,
        limits=context.limits(),
    )
    return await _run(executor, spec, context)


async def execute_advanced(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Run a command in a mode, on a resource where the mode has one."""
    job = cast("ExecuteAdvanced", call)
    mode = _mode(job.mode)
    # A child has its parent's image when it names none.
    default = "" if mode in (Mode.BRANCHED, Mode.CHECKPOINTED) and job.resource else None
    spec = ExecutionSpec(
        argv=_argv(job.command),
        image=job.image or (context.settings.default_image if default is None else default),
        mode=mode,
        env=_env((*job.env, *context.env)),
        stdin=job.payload or None,
        limits=context.limits(job.timeout_ms),
    )
    return await _run(executor, _on_resource(spec, job.resource), context, job.resource)


async def _run(
    executor: Executor, spec: ExecutionSpec, context: JobContext, resource: str = ""
) -> Answer:
    record = await _executed(executor, spec, context)
    result = record.result
    if result is None:
        raise InternalError("the executor answered without a result")
    answer = Answer(
        result.stdout,
        _kept(record, result, resource),
        Means(
            result.image_digest,
            result.runtime_used,
            result.isolation,
            Means.limits_of(record.spec.limits),
        ),
        _times(record),
    )
    if failure := _failure(result, is_secret=context.is_sealed):
        return replace(answer, failure=failure, resource="")
    if result.stdout_truncated:
        raise TooLargeError("the command wrote more than is kept")
    return answer


async def _executed(
    executor: Executor, spec: ExecutionSpec, context: JobContext
) -> ExecutionRecord:
    """Run it, and once more when its sandbox was lost: under a key of its own, for the executor
    answers the first key with the loss for ever."""
    for attempt in range(_RUNS_MAX):
        key = context.idempotency
        named = replace(key, key=f"{key.key}/{attempt}") if attempt else key
        try:
            return await executor.execute(spec, context.principal, idempotency=named)
        except SandboxBrokenError as failure:
            if spec.mode not in _RUN_AGAIN or attempt + 1 == _RUNS_MAX:
                raise
            _log.warning("a job runs again, for its sandbox was lost", why=failure.message)
    raise AssertionError("the loop ends by returning or raising")


def _kept(record: ExecutionRecord, result: ExecutionResult, asked: str) -> str:
    """What of it can be used again, by the name that the next call will use."""
    if record.spec.mode is Mode.PERSISTENT:
        return asked or record.spec.instance_id or ""
    if record.spec.mode is Mode.CACHED:
        return asked
    return result.snapshot_id or ""


def _times(record: ExecutionRecord) -> tuple[int, int] | None:
    if record.started_at is None or record.finished_at is None:
        return None
    return _ms(record.started_at), _ms(record.finished_at)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _failure(result: ExecutionResult, *, is_secret: bool) -> tuple[str, str] | None:
    if result.reason is ExitReason.TIMED_OUT:
        code, said = "deadline_exceeded", "the command ran out of time"
    elif result.exit_code != 0:
        code = COMMAND_FAILED
        said = f"the command ended with code {result.exit_code} ({result.reason.value})"
    else:
        return None
    # What the command said about a sealed payload may be the payload.
    tail = "" if is_secret else result.stderr[-_STDERR_TOLD:].decode(errors="replace").strip()
    return code, f"{said}: {tail}" if tail else said


def _argv(command: tuple[str, ...]) -> tuple[str, ...]:
    if not command or not command[0]:
        raise InvalidArgumentError("the command is empty")
    if any("\0" in argument for argument in command):
        raise InvalidArgumentError("the command has a NUL in it")
    return command


def _env(entries: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = {}
    for entry in entries:
        name, sign, value = entry.partition("=")
        if not sign or not name or "\0" in entry:
            raise InvalidArgumentError("a variable is not NAME=VALUE")
        pairs[name] = value
    return tuple(pairs.items())


def _mode(text: str) -> Mode:
    try:
        return Mode(text or Mode.EPHEMERAL)
    except ValueError:
        able = ", ".join(mode.value for mode in Mode)
        raise InvalidArgumentError(f"there is no such mode; there are {able}") from None


def _on_resource(spec: ExecutionSpec, resource: str) -> ExecutionSpec:
    if not resource:
        return spec
    name = _BY_MODE.get(spec.mode)
    if name is None:
        raise InvalidArgumentError("an ephemeral execution has no resource")
    return replace(spec, **{name: resource})
