"""What each of the twelve jobs does with the platform: one table, one short function a job.

A job that is not in the table answers a failure with the code `unsupported`, through the same
envelope as every other failure. Failures that may pass (a full queue, a draining platform) are
raised, so that the worker tries again; all others are answers. Every answer is signed for, but one:
what does not decode was not run, and gets the same bytes from every operator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from eth_abi.abi import encode
from eth_hash.auto import keccak

from faas.chain import execution_jobs, instance_jobs, state_jobs
from faas.chain.carriage import Cargo, Carriage
from faas.chain.codec import (
    CALLS,
    INLINE_BYTES_MAX,
    JobKind,
    JobStatus,
    ResultEnvelope,
    decode_call,
    encode_failure,
    encode_output,
    encode_result,
    resource_key_of,
)
from faas.chain.job_context import (
    Answer,
    Executor,
    Handler,
    JobContext,
    JobSettings,
    context_of,
    millis,
)
from faas.chain.journal import SeenCall
from faas.chain.receipts import Notary, Receipt, SignedReceipt, encode_receipt
from faas.clock import Clock
from faas.errors import (
    FaasError,
    InternalError,
    InvalidArgumentError,
    QuotaExceededError,
    ResourceExhaustedError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)

_MESSAGE_MAX: Final = 2048
_COMMANDS: Final = frozenset({JobKind.EXECUTE_FUNCTION, JobKind.EXECUTE_ADVANCED})

HANDLERS: Final[Mapping[JobKind, Handler]] = {
    JobKind.EXECUTE_FUNCTION: execution_jobs.execute_function,
    JobKind.EXECUTE_ADVANCED: execution_jobs.execute_advanced,
    JobKind.CREATE_SNAPSHOT: state_jobs.create_snapshot,
    JobKind.RESTORE_SNAPSHOT: state_jobs.restore_snapshot,
    JobKind.CREATE_BRANCH: state_jobs.create_branch,
    JobKind.MERGE_BRANCHES: state_jobs.merge_branches,
    JobKind.START_INSTANCE: instance_jobs.start_instance,
    JobKind.STOP_INSTANCE: instance_jobs.stop_instance,
    JobKind.PAUSE_INSTANCE: instance_jobs.pause_instance,
    JobKind.RESUME_INSTANCE: instance_jobs.resume_instance,
    JobKind.EXPOSE_PORT: instance_jobs.expose_port,
    JobKind.UPLOAD_FILES: instance_jobs.upload_files,
}
"""A job becomes real by its row here."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A job at its end, before it is written down."""

    status: JobStatus
    output: bytes
    answer: Answer
    payload_sha256: bytes = bytes(32)


class JobRunner:
    """Turns calls into result bytes, through the executor."""

    def __init__(
        self,
        executor: Executor,
        settings: JobSettings,
        *,
        carriage: Carriage,
        clock: Clock,
        notary: Notary | None = None,
    ) -> None:
        self._executor = executor
        self._settings = settings
        self._carriage = carriage
        self._clock = clock
        self._notary = notary

    async def run(self, seen: SeenCall, *, seconds: float) -> bytes:
        """Run a call and return its envelope.

        Raises:
            ResourceExhaustedError: there is no room now.
            UnavailableError: a part does not answer now.
        """
        began = millis(self._clock)
        try:
            call = decode_call(seen.job, seen.inputs)
        except InvalidArgumentError as failure:
            output = _failure_output(failure)
            return encode_result(
                ResultEnvelope(JobStatus.FAILED, seen.inputs_hash, resource_key_of(""), output)
            )
        try:
            handler = HANDLERS.get(call.kind)
            if handler is None:
                raise _unsupported(call.kind)
            cargo = await self._carriage.unload(call, seen)
            answer = await handler(self._executor, cargo.call, self._context(seen, seconds, cargo))
            done = await self._done(seen, cargo, answer)
        except FaasError as failure:
            if _passes(failure, call.kind):
                raise
            return await self._failed(seen, failure, began)
        return await self._signed(seen, done, began)

    async def failure(self, seen: SeenCall, error: FaasError) -> bytes:
        """Say in an envelope why there is no output."""
        return await self._failed(seen, error, millis(self._clock))

    async def _done(self, seen: SeenCall, cargo: Cargo, answer: Answer) -> _Done:
        if answer.failure is not None:
            output = encode_failure(answer.failure[0], answer.failure[1][:_MESSAGE_MAX])
            return _Done(JobStatus.FAILED, output, answer, cargo.payload_sha256)
        kind, value = cargo.call.kind, answer.output
        if CALLS[kind].output_type == "bytes" and isinstance(value, bytes):
            value = await self._carriage.load(value, seen, cargo)
        output = encode_output(kind, value)
        if len(output) > INLINE_BYTES_MAX:
            raise TooLargeError(f"the output is above {INLINE_BYTES_MAX} bytes")
        return _Done(JobStatus.DONE, output, answer, cargo.payload_sha256)

    async def _failed(self, seen: SeenCall, error: FaasError, began: int) -> bytes:
        done = _Done(JobStatus.FAILED, _failure_output(error), Answer(None))
        return await self._signed(seen, done, began)

    async def _signed(self, seen: SeenCall, done: _Done, began: int) -> bytes:
        key = resource_key_of(done.answer.resource)
        envelope = ResultEnvelope(done.status, seen.inputs_hash, key, done.output)
        if self._notary is None:
            return encode_result(envelope)
        receipt = self._receipt(seen, done, began, self._notary.address)
        signature = await self._notary.sign_receipt(receipt.digest)
        signed = encode_receipt(SignedReceipt(receipt, signature))
        return encode_result(replace(envelope, receipt=signed))

    def _receipt(self, seen: SeenCall, done: _Done, began: int, operator: str) -> Receipt:
        means = done.answer.means
        started, finished = done.answer.ran_ms or (began, millis(self._clock))
        return Receipt(
            chain_id=self._settings.chain_id,
            manager=self._settings.manager,
            service=seen.key.service,
            call=seen.key.call,
            job=seen.job,
            caller=seen.caller,
            operator=operator,
            status=done.status,
            inputs_hash=seen.inputs_hash,
            payload_sha256=done.payload_sha256,
            output_hash=keccak(done.output),
            image_digest=means.image_digest,
            runtime=means.runtime,
            isolation=means.isolation,
            limits=means.limits,
            resource=done.answer.resource,
            started_ms=started,
            finished_ms=finished,
        )

    def _context(self, seen: SeenCall, seconds: float, cargo: Cargo) -> JobContext:
        context = context_of(self._settings, seen, seconds, self._identity(seen))
        return replace(context, env=cargo.env, is_sealed=cargo.is_sealed)

    def _identity(self, seen: SeenCall) -> bytes:
        return keccak(
            encode(
                ("uint64", "address", "uint64", "uint64", "address", "bytes32"),
                (
                    *(self._settings.chain_id, self._settings.manager),
                    *(seen.key.service, seen.key.call, seen.caller, seen.inputs_hash),
                ),
            )
        )


def _passes(error: FaasError, kind: JobKind) -> bool:
    """Whether the same job may succeed a little later."""
    if isinstance(error, QuotaExceededError) and kind not in _COMMANDS:
        return False  # nothing of the tenant goes by itself
    return isinstance(error, ResourceExhaustedError | UnavailableError)


def _failure_output(error: FaasError) -> bytes:
    # What went wrong inside us is for our log, not for the chain.
    message = "the operator failed" if isinstance(error, InternalError) else error.message
    return encode_failure(error.code, message[:_MESSAGE_MAX])


def _unsupported(kind: JobKind) -> UnsupportedError:
    able = ", ".join(known.name.lower() for known in HANDLERS)
    return UnsupportedError(f"this operator does not do {kind.name.lower()}; it does {able}")
