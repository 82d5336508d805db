"""What the client raises: the gateway's own classes by the same names, and three of its own.

The gateway answers every refusal with `application/problem+json` and a `code`; each code has one
class here, with the same parent as in the gateway (`spec/errors.yaml` is the table both are held
to). The failure of *your command* is not an error: it is `ExecutionResult.exit_code`. The one
exception is time running out, which raises `ExecutionTimeoutError` with the result inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Dict, Mapping, Optional, Type, cast

if TYPE_CHECKING:
    from faas_sdk._models import ExecutionResult


class FaaSError(Exception):
    """The platform could not do what was asked. Read the hint."""

    code: ClassVar[str] = "unknown"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: Optional[str] = None,
        *,
        hint: Optional[str] = None,
        status: Optional[int] = None,
        trace_id: Optional[str] = None,
        details: Optional[Mapping[str, Any]] = None,
        retry_after_seconds: Optional[float] = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").splitlines()[0]
        self.hint = hint
        self.status = status
        self.trace_id = trace_id
        self.details: Mapping[str, Any] = details or {}
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.message)

    def __str__(self) -> str:
        parts = [self.message]
        if self.hint:
            parts.append("hint: " + self.hint)
        if self.trace_id:
            parts.append("trace: " + self.trace_id)
        return "\n".join(parts)


class InvalidArgumentError(FaaSError):
    """The request is not valid. Fix it and send it again."""

    code = "invalid_argument"


class InvalidImageError(InvalidArgumentError):
    """The image cannot be used. Import or name another."""

    code = "invalid_image"


class InvalidConfigError(InvalidArgumentError):
    """The gateway's configuration is wrong. Run `faas config` there."""

    code = "invalid_config"


class MethodNotAllowedError(InvalidArgumentError):
    """The gateway does not take that method here. Is it as new as this client?"""

    code = "method_not_allowed"


class UnsupportedMediaTypeError(InvalidArgumentError):
    """The gateway takes another kind of body here. Details name it."""

    code = "unsupported_media_type"


class NotAcceptableError(InvalidArgumentError):
    """The gateway cannot answer in the kind asked for. Details name what it can."""

    code = "not_acceptable"


class UnauthenticatedError(FaaSError):
    """No valid API key was given. Pass `api_key=`."""

    code = "unauthenticated"


class PermissionDeniedError(FaaSError):
    """This key may not do that. Ask the owner of the gateway for the scope named in details."""

    code = "permission_denied"


class NotFoundError(FaaSError):
    """There is no such thing, or this key may not see it. Check the id."""

    code = "not_found"


class RouteNotFoundError(NotFoundError):
    """The gateway has no such path. Is it as new as this client?"""

    code = "route_not_found"


class ExecutionNotFoundError(NotFoundError):
    """There is no such execution. `client.list_executions()` lists the ones kept."""

    code = "execution_not_found"


class InstanceNotFoundError(NotFoundError):
    """There is no such instance. `client.list_instances()` lists them."""

    code = "instance_not_found"


class SnapshotNotFoundError(NotFoundError):
    """Snapshot not found. `client.list_snapshots()` lists them."""

    code = "snapshot_not_found"


class ImageNotFoundError(NotFoundError):
    """There is no such image at the gateway. Import one there with `faas images import`."""

    code = "image_not_found"


class ConflictError(FaaSError):
    """That does not fit the present state. Look again, then decide."""

    code = "conflict"


class AlreadyExistsError(ConflictError):
    """It exists already. Choose another name or use the one that is there."""

    code = "already_exists"


class WrongStateError(ConflictError):
    """That step is not legal in the present state. Look at the state, then decide."""

    code = "wrong_state"


class PortClosedError(ConflictError):
    """Nothing answers at that port of the sandbox. Start the server in it, then try again."""

    code = "port_closed"
    retryable = True


class IdempotencyConflictError(ConflictError):
    """This idempotency key was used with another request. Use a new key for a new request."""

    code = "idempotency_conflict"


class LeaseLostError(ConflictError):
    """The lease ran out and somebody else may hold it now. Look again before going on."""

    code = "lease_lost"


class TooLargeError(FaaSError):
    """That is larger than the limit. Send less, or raise the limit named in details."""

    code = "too_large"


class ResourceExhaustedError(FaaSError):
    """There is no room right now. Wait, then try again."""

    code = "resource_exhausted"
    retryable = True


class QueueFullError(ResourceExhaustedError):
    """The queue is full. Try again after `retry_after_seconds`."""

    code = "queue_full"


class QuotaExceededError(ResourceExhaustedError):
    """The tenant's quota is used up. Wait for running work to end, or ask for more."""

    code = "quota_exceeded"


class RateLimitedError(ResourceExhaustedError):
    """Too many requests. Try again after `retry_after_seconds`."""

    code = "rate_limited"


class UnsupportedError(FaaSError):
    """This is not supported by this gateway. Details name what is."""

    code = "unsupported"


class UnavailableError(FaaSError):
    """A part the gateway needs does not answer. Run `faas doctor` there."""

    code = "unavailable"
    retryable = True


class RuntimeUnavailableError(UnavailableError):
    """The runtime cannot run anything on that machine. Run `faas doctor` there."""

    code = "runtime_unavailable"


class StoreUnavailableError(UnavailableError):
    """The object store does not answer. Run `faas doctor` on the gateway's machine."""

    code = "store_unavailable"


class ChainUnavailableError(UnavailableError):
    """The chain node does not answer. Run `faas chain check` on the gateway's machine."""

    code = "chain_unavailable"


class BadGatewayError(UnavailableError):
    """The server in the sandbox did not answer as HTTP demands. Look at what it logs."""

    code = "bad_gateway"


class DeadlineExceededError(FaaSError):
    """The platform did not finish in the time allowed. Ask again with more time."""

    code = "deadline_exceeded"
    retryable = True


class DataLossError(FaaSError):
    """Stored data is damaged and is not served. Its operator must restore it."""

    code = "data_loss"


class DigestMismatchError(DataLossError):
    """Stored bytes do not match their digest and are not served."""

    code = "digest_mismatch"


class ManifestError(DataLossError):
    """A manifest at the gateway cannot be read and is not used."""

    code = "manifest_invalid"


class InternalError(FaaSError):
    """Something went wrong at the gateway. Report it with the trace id."""

    code = "internal"
    retryable = True


class SandboxBrokenError(InternalError):
    """The sandbox broke and is gone. Run it again; report it with the trace id if it comes back."""

    code = "sandbox_broken"


_PLATFORM_ERRORS: Dict[str, Type[FaaSError]] = {}


def _learn(parent: Type[FaaSError]) -> None:
    for child in parent.__subclasses__():
        _PLATFORM_ERRORS[child.code] = child
        _learn(child)


_learn(FaaSError)
# Everything below is the client's own: no gateway sends these codes.


class GatewayUnreachableError(FaaSError):
    """No gateway answers at this address. Start one with `faas serve`, or check `base_url`."""

    code = "gateway_unreachable"
    retryable = True


class ProtocolError(FaaSError):
    """The answer is not one a gateway gives. Check that `base_url` is the gateway's."""

    code = "protocol"


class CommandFailedError(FaaSError):
    """The command failed. `result` tells how."""

    code = "command_failed"

    def __init__(self, message: str, *, result: ExecutionResult) -> None:
        super().__init__(message)
        self.result = result


class ExecutionTimeoutError(CommandFailedError):
    """The command ran out of its time and was ended. `result` has what it said until then."""

    code = "execution_timeout"


def platform_errors() -> Mapping[str, Type[FaaSError]]:
    """Return the class for every code a gateway sends."""
    return dict(_PLATFORM_ERRORS)


def error_from_problem(
    status: int, problem: Mapping[str, Any], *, retry_after_seconds: Optional[float] = None
) -> FaaSError:
    """Make the exception a problem document stands for."""
    kind = _PLATFORM_ERRORS.get(str(problem.get("code")))
    if kind is None:
        kind = _kind_of_status(status)
    details = problem.get("details")
    return kind(
        _text(problem.get("detail")) or _text(problem.get("title")) or f"HTTP {status}",
        hint=_text(problem.get("hint")),
        status=status,
        trace_id=_text(problem.get("trace_id")),
        details=cast("Dict[str, Any]", details) if isinstance(details, dict) else None,
        retry_after_seconds=retry_after_seconds,
    )


def _text(value: Any) -> Optional[str]:
    return value if isinstance(value, str) and value else None


_KIND_OF_STATUS: Dict[int, Type[FaaSError]] = {
    400: InvalidArgumentError,
    401: UnauthenticatedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    429: ResourceExhaustedError,
    501: UnsupportedError,
    503: UnavailableError,
    504: DeadlineExceededError,
}


def _kind_of_status(status: int) -> Type[FaaSError]:
    """A proxy in between, or a newer gateway, may send what we do not know by code."""
    is_theirs = status >= 500  # noqa: PLR2004  where HTTP's server errors begin
    fallback = InternalError if is_theirs else InvalidArgumentError
    return _KIND_OF_STATUS.get(status, fallback)
