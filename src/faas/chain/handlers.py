"""What each of the twelve jobs does with the platform: one table, one short function a job.

A job that is not in the table answers a failure with the code `unsupported`, through the same
envelope as every other failure. Failures that may pass (a full queue, a draining platform) are
raised, so that the worker tries again; all others are answers.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, cast

from faas.chain.codec import (
    INLINE_BYTES_MAX,
    ExecuteAdvanced,
    ExecuteFunction,
    JobCall,
    JobKind,
    JobStatus,
    ResultEnvelope,
    decode_call,
    encode_failure,
    encode_output,
    encode_result,
    resource_key_of,
)
from faas.chain.journal import SeenCall
from faas.errors import (
    FaasError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from faas.executor.idempotency import IdempotencyKey
from faas.ids import TenantId
from faas.model import ExecutionRecord, ExecutionResult, ExecutionSpec, ExitReason, Limits, Mode
from faas.tenancy import Principal, Quota, Scope, Tenant

_MESSAGE_MAX: Final = 2048
_MILLIS: Final = 1000
COMMAND_FAILED: Final = "command_failed"
"""The code of a job whose command ended with another code than 0; the platform did its part."""


class Executor(Protocol):
    """The part of `PlatformExecutor` that jobs use."""

    async def execute(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        *,
        idempotency: IdempotencyKey | None = None,
    ) -> ExecutionRecord:
        """Run to the end and return the final record."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a job made: its output, and the resource that it made or kept."""

    output: object
    resource: str = ""


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What a job gets that does not say."""

    chain_id: int
    default_image: str = "host"
    limits: Limits = field(default_factory=Limits)
    timeout_ms_max: int = 3_600_000
    tenant_running_max: int = 64


@dataclass(frozen=True, slots=True)
class JobContext:
    """Whose job it is, and how long it may take."""

    settings: JobSettings
    principal: Principal
    idempotency: IdempotencyKey
    seconds: float

    def limits(self, timeout_ms: int = 0) -> Limits:
        """The limits of this job, its time not above the deadline's."""
        most = min(self.settings.timeout_ms_max, max(1, int(self.seconds * _MILLIS)))
        wanted = timeout_ms or self.settings.limits.timeout_ms
        return replace(self.settings.limits, timeout_ms=min(wanted, most))


Handler = Callable[[Executor, JobCall, JobContext], Awaitable[Answer]]


class JobRunner:
    """Turns calls into result bytes, through the executor."""

    def __init__(self, executor: Executor, settings: JobSettings) -> None:
        self._executor = executor
        self._settings = settings

    async def run(self, seen: SeenCall, *, seconds: float) -> bytes:
        """Run a call and return its envelope.

        Raises:
            ResourceExhaustedError: there is no room now.
            UnavailableError: a part does not answer now.
        """
        try:
            call = decode_call(seen.job, seen.inputs)
            handler = HANDLERS.get(call.kind)
            if handler is None:
                raise _unsupported(call.kind)
            answer = await handler(self._executor, call, self._context(seen, seconds))
            output = encode_output(call.kind, answer.output)
            if len(output) > INLINE_BYTES_MAX:
                raise TooLargeError(f"the output is above {INLINE_BYTES_MAX} bytes")
        except (ResourceExhaustedError, UnavailableError):
            raise
        except FaasError as failure:
            return self.failure(seen, failure)
        key = resource_key_of(answer.resource)
        return encode_result(ResultEnvelope(JobStatus.DONE, seen.inputs_hash, key, output))

    def failure(self, seen: SeenCall, error: FaasError) -> bytes:
        """Say in an envelope why there is no output."""
        code = str(error.details.get("code", error.code))
        # What went wrong inside us is for our log, not for the chain.
        message = "the operator failed" if isinstance(error, InternalError) else error.message
        output = encode_failure(code, message[:_MESSAGE_MAX])
        return encode_result(
            ResultEnvelope(JobStatus.FAILED, seen.inputs_hash, resource_key_of(""), output)
        )

    def _context(self, seen: SeenCall, seconds: float) -> JobContext:
        # A service is a tenant: its callers share its resources, other services see none of them.
        tenant = Tenant(
            TenantId(f"tangle-{self._settings.chain_id}-{seen.key.service}"),
            Quota(running_max=self._settings.tenant_running_max),
        )
        digest = seen.inputs_hash.hex()
        name = f"{self._settings.chain_id}/{seen.key.service}/{seen.key.call}/{digest}"
        return JobContext(
            self._settings,
            Principal(tenant, frozenset({Scope.EXECUTE, Scope.READ})),
            IdempotencyKey(name, digest),
            seconds,
        )


async def _execute_function(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    job = cast("ExecuteFunction", call)
    spec = ExecutionSpec(
        argv=_argv(job.command),
        image=job.image or context.settings.default_image,
        env=_env(job.env),
        stdin=job.payload or None,
        limits=context.limits(),
    )
    return _answer(await executor.execute(spec, context.principal, idempotency=context.idempotency))


async def _execute_advanced(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    job = cast("ExecuteAdvanced", call)
    spec = ExecutionSpec(
        argv=_argv(job.command),
        image=job.image or context.settings.default_image,
        mode=_mode(job.mode),
        env=_env(job.env),
        stdin=job.payload or None,
        limits=context.limits(job.timeout_ms),
    )
    spec = _on_resource(spec, job.resource)
    return _answer(await executor.execute(spec, context.principal, idempotency=context.idempotency))


HANDLERS: Final[Mapping[JobKind, Handler]] = {
    JobKind.EXECUTE_FUNCTION: _execute_function,
    JobKind.EXECUTE_ADVANCED: _execute_advanced,
}
"""A job becomes real by its row here."""


def _unsupported(kind: JobKind) -> UnsupportedError:
    able = ", ".join(known.name.lower() for known in HANDLERS)
    return UnsupportedError(f"this operator does not do {kind.name.lower()}; it does {able}")


def _answer(record: ExecutionRecord) -> Answer:
    result = record.result
    if result is None:
        raise InternalError("the executor answered without a result")
    if result.reason is ExitReason.TIMED_OUT:
        raise _command_failed("deadline_exceeded", "the command ran out of time", result)
    if result.exit_code != 0:
        said = f"the command ended with code {result.exit_code} ({result.reason.value})"
        raise _command_failed(COMMAND_FAILED, said, result)
    if result.stdout_truncated:
        raise TooLargeError("the command wrote more than is kept")
    return Answer(result.stdout, result.snapshot_id or "")


def _command_failed(code: str, said: str, result: ExecutionResult) -> InvalidArgumentError:
    tail = result.stderr[-1024:].decode(errors="replace").strip()
    return InvalidArgumentError(f"{said}: {tail}" if tail else said, details={"code": code})


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
    name = {
        Mode.CACHED: "cache_key",
        Mode.CHECKPOINTED: "snapshot_id",
        Mode.BRANCHED: "branch_from",
        Mode.PERSISTENT: "instance_id",
    }.get(spec.mode)
    if name is None:
        raise InvalidArgumentError("an ephemeral execution has no resource")
    return replace(spec, **{name: resource})
