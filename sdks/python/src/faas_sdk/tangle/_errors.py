"""What the chain refuses, as classes: each is also the SDK's class of who must act.

A contract refuses with a custom error; its selector says which. `ContractError` is the parent of
them all, so `except ContractError` catches every refusal and `except ResourceExhaustedError` also
those that only ask to wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Tuple, Type

from faas_sdk._errors import (
    ConflictError,
    DeadlineExceededError,
    FaaSError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    WrongStateError,
)
from faas_sdk.tangle._abi import read_revert

if TYPE_CHECKING:
    from faas_sdk.tangle._models import JobResult


class ContractError(FaaSError):
    """The contract refused. `revert` names its reason, `arguments` are what it says about it."""

    code = "contract_refused"
    revert: str = ""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What the contract says about it, by name."""
        return self.details.get("arguments", {})


class NoOperatorFreeError(ContractError, ResourceExhaustedError):
    """Every operator of the service is full, draining or gone. Submit again later."""

    code = "no_operator_free"
    retryable = True


class HolderUnavailableError(ContractError, UnavailableError):
    """The one operator that holds the resource is full, draining or gone. Submit again later."""

    code = "holder_unavailable"
    retryable = True


class NotPermittedCallerError(ContractError, PermissionDeniedError):
    """This account may not submit jobs to the service. Ask its owner to permit it."""

    code = "not_permitted_caller"


class ServiceNotActiveError(ContractError, WrongStateError):
    """The service is not active, or its time is over. Use another service."""

    code = "service_not_active"


class ServiceNotFoundError(ContractError, NotFoundError):
    """There is no such service. Check `service_id`."""

    code = "service_not_found"


class JobNotFoundError(ContractError, NotFoundError):
    """There is no such job call in the service. Check the call id."""

    code = "job_not_found"


class JobNotPendingError(ContractError, WrongStateError):
    """The job is not open any more. Look at its result."""

    code = "job_not_pending"


class DeadlineNotReachedError(ContractError, WrongStateError):
    """The assigned operator still has time. Try again after the deadline in `arguments`."""

    code = "deadline_not_reached"


class JobCannotMoveError(ContractError, WrongStateError):
    """The job cannot be passed on: it is on a resource, or had all its attempts."""

    code = "job_cannot_move"


class QuoteRefusedError(ContractError, ConflictError):
    """The quote was used, is too old, or is of another job. Ask for a new one."""

    code = "quote_refused"


class PaymentError(ContractError, InvalidArgumentError):
    """The value sent is not the price. `arguments` tell what is expected."""

    code = "wrong_payment"


class BadJobError(ContractError, InvalidArgumentError):
    """The blueprint does not take such a job."""

    code = "bad_job"


class ForbiddenError(ContractError, PermissionDeniedError):
    """This account may not do that."""

    code = "forbidden"


class RefusedError(ContractError, ConflictError):
    """The contract refused. The message has its reason."""

    code = "refused"


_CLASSES: Dict[str, Type[ContractError]] = {
    "NoOperatorFree": NoOperatorFreeError,
    "HolderUnavailable": HolderUnavailableError,
    "NotPermittedCaller": NotPermittedCallerError,
    "ServiceNotActive": ServiceNotActiveError,
    "ServiceExpired": ServiceNotActiveError,
    "ServiceNotFound": ServiceNotFoundError,
    "JobCallNotFound": JobNotFoundError,
    "JobNotPending": JobNotPendingError,
    "JobAlreadyCompleted": JobNotPendingError,
    "DeadlineNotReached": DeadlineNotReachedError,
    "JobIsSticky": JobCannotMoveError,
    "NoAttemptsLeft": JobCannotMoveError,
    "QuoteAlreadyUsed": QuoteRefusedError,
    "QuoteExpired": QuoteRefusedError,
    "QuoteTimestampTooOld": QuoteRefusedError,
    "InvalidQuoteSignature": QuoteRefusedError,
    "DuplicateOperatorQuote": QuoteRefusedError,
    "HolderNotQuoted": QuoteRefusedError,
    "NoQuotes": QuoteRefusedError,
    "JobQuoteInputsMismatch": QuoteRefusedError,
    "JobQuoteJobIndexMismatch": QuoteRefusedError,
    "JobQuoteRequesterMismatch": QuoteRefusedError,
    "JobQuoteServiceMismatch": QuoteRefusedError,
    "InvalidMsgValue": PaymentError,
    "InvalidJobIndex": BadJobError,
    "UnknownJob": BadJobError,
    "NotServiceOwner": ForbiddenError,
    "NotHolder": ForbiddenError,
    "OnlyOwner": ForbiddenError,
    "Unauthorized": ForbiddenError,
}


def error_of_revert(data: bytes) -> ContractError:
    """Turn revert data into the error of whoever must act."""
    found = read_revert(data)
    if found is None:
        said = "0x" + data[:64].hex() if data else "without a reason"
        return RefusedError(f"the contract refused: {said}")
    error = _CLASSES.get(found.name, RefusedError)(
        f"the contract refused: {found}",
        details={"revert": found.name, "arguments": dict(found.arguments)},
    )
    error.revert = found.name
    return error


class JobFailedError(FaaSError):
    """The job ended and did not succeed. `failure_code` and `result` tell how."""

    code = "job_failed"

    def __init__(self, message: Optional[str] = None, *, result: JobResult) -> None:
        super().__init__(message)
        self.result = result

    @property
    def failure_code(self) -> str:
        """The platform's code for what happened, such as `command_failed`."""
        return self.result.failure.code if self.result.failure else "unknown"


class JobTimedOutError(JobFailedError):
    """No operator answered before the deadline, and another one closed the job."""

    code = "job_timed_out"


class ResultsDisagreeError(FaaSError):
    """Operators that ran the same job answered differently. `results` has each answer with its
    operator and receipt; `majority` what more than half of them say, if they do. Do not trust it
    before you know why: a command whose output is not the same each time differs by itself."""

    code = "results_disagree"

    def __init__(
        self,
        message: Optional[str] = None,
        *,
        results: Tuple[JobResult, ...],
        majority: Optional[JobResult],
    ) -> None:
        said = ", ".join(f"{each.operator} (call {each.call_id})" for each in results)
        super().__init__(
            message or f"the operators do not agree: {said}",
            hint="faas receipt get CALL, and faas receipt compare, show what each has signed",
        )
        self.results = results
        self.majority = majority


class TooFewOperatorsError(ResourceExhaustedError):
    """So many different operators cannot be had now. Ask for fewer, or later. The job calls in
    `calls` were submitted and go on."""

    code = "too_few_operators"

    def __init__(self, message: Optional[str] = None, *, calls: Tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.calls = calls


class JobOverdueError(DeadlineExceededError):
    """The operator did not answer in time. Pass the job on with `reassign(call_id)`."""

    code = "job_overdue"


class ResultPendingError(DeadlineExceededError):
    """There is no result yet. The job goes on: take it up with `job(call_id)`."""

    code = "result_pending"
