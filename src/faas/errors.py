"""Every error the platform raises, sorted by who must act.

FaasError
├── InvalidArgumentError            the caller fixes the request
│   ├── InvalidImageError
│   └── InvalidConfigError
├── UnauthenticatedError            the caller fixes the key
├── PermissionDeniedError           the caller asks an owner
├── NotFoundError                   the caller; also for what the tenant may not see
│   ├── ExecutionNotFoundError
│   ├── InstanceNotFoundError
│   ├── SnapshotNotFoundError
│   └── ImageNotFoundError
├── ConflictError                   the caller looks again, then decides
│   ├── AlreadyExistsError
│   ├── WrongStateError
│   ├── PortClosedError
│   ├── IdempotencyConflictError
│   └── LeaseLostError
├── TooLargeError                   the caller sends less
├── ResourceExhaustedError          the caller waits
│   ├── QueueFullError
│   ├── QuotaExceededError
│   └── RateLimitedError
├── UnsupportedError                the caller picks something else; details name what can
├── UnavailableError                the operator
│   ├── RuntimeUnavailableError
│   ├── StoreUnavailableError
│   └── ChainUnavailableError
├── DeadlineExceededError           our deadline, not the command's
├── DataLossError                   the operator, now; never served
│   ├── DigestMismatchError
│   └── ManifestError
└── InternalError                   us: it is a bug
    └── SandboxBrokenError

The command's own failure is never one of these: it is a field of `model.ExecutionResult`.
The docstring of a class is its default message and says what to do. `spec/errors.yaml`
is the same table for every other language; a test holds the two together.
"""

from collections.abc import Mapping
from typing import ClassVar

Details = Mapping[str, object]


class FaasError(Exception):
    """The platform could not do what was asked. Read the hint."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str | None = None,
        *,
        hint: str | None = None,
        details: Details | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.message = message or _first_line(type(self).__doc__)
        self.hint = hint
        self.details: Details = details or {}
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.message)


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().splitlines()[0]


class InvalidArgumentError(FaasError):
    """The request is not valid. Fix it and send it again."""

    code = "invalid_argument"


class InvalidImageError(InvalidArgumentError):
    """The image cannot be used. Import or name another."""

    code = "invalid_image"


class InvalidConfigError(InvalidArgumentError):
    """The configuration is wrong. Run `faas config` to see every value and where it came from."""

    code = "invalid_config"


class UnauthenticatedError(FaasError):
    """No valid API key was given. Send `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    code = "unauthenticated"


class PermissionDeniedError(FaasError):
    """This key may not do that. Ask the owner of the gateway for the scope named in details."""

    code = "permission_denied"


class NotFoundError(FaasError):
    """There is no such thing, or this key may not see it. Check the id."""

    code = "not_found"


class ExecutionNotFoundError(NotFoundError):
    """There is no such execution. `faas executions` lists the ones kept."""

    code = "execution_not_found"


class InstanceNotFoundError(NotFoundError):
    """There is no such instance. `faas instance list` lists them."""

    code = "instance_not_found"


class SnapshotNotFoundError(NotFoundError):
    """Snapshot not found. `faas snapshot list` lists them."""

    code = "snapshot_not_found"


class ImageNotFoundError(NotFoundError):
    """There is no such image here. `faas images list` lists them, `faas images import` adds one."""

    code = "image_not_found"


class ConflictError(FaasError):
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
    """This Idempotency-Key was used with another body. Use a new key for a new request."""

    code = "idempotency_conflict"


class LeaseLostError(ConflictError):
    """The lease ran out and somebody else may hold it now. Look again before going on."""

    code = "lease_lost"


class TooLargeError(FaasError):
    """That is larger than the limit. Send less, or raise the limit named in details."""

    code = "too_large"


class ResourceExhaustedError(FaasError):
    """There is no room right now. Wait, then try again."""

    code = "resource_exhausted"
    retryable = True


class QueueFullError(ResourceExhaustedError):
    """The queue is full. Try again after the time in Retry-After."""

    code = "queue_full"


class QuotaExceededError(ResourceExhaustedError):
    """The tenant's quota is used up. Wait for running work to end, or ask for more."""

    code = "quota_exceeded"


class RateLimitedError(ResourceExhaustedError):
    """Too many requests. Try again after the time in Retry-After."""

    code = "rate_limited"


class UnsupportedError(FaasError):
    """This is not supported here. Details name what is."""

    code = "unsupported"


class UnavailableError(FaasError):
    """A part the platform needs does not answer. Run `faas doctor`."""

    code = "unavailable"
    retryable = True


class RuntimeUnavailableError(UnavailableError):
    """The runtime cannot run anything on this machine. Run `faas doctor`."""

    code = "runtime_unavailable"


class StoreUnavailableError(UnavailableError):
    """The object store does not answer. Run `faas doctor`."""

    code = "store_unavailable"


class ChainUnavailableError(UnavailableError):
    """The chain node does not answer. Run `faas chain check`."""

    code = "chain_unavailable"


class DeadlineExceededError(FaasError):
    """The platform did not finish in the time the caller allowed. Ask again with more time."""

    code = "deadline_exceeded"
    retryable = True


class DataLossError(FaasError):
    """Stored data is damaged and is not served. Restore it from another copy."""

    code = "data_loss"


class DigestMismatchError(DataLossError):
    """Stored bytes do not match their digest and are not served. Restore them from another copy."""

    code = "digest_mismatch"


class ManifestError(DataLossError):
    """A manifest cannot be read and is not used. Restore it from another copy."""

    code = "manifest_invalid"


class InternalError(FaasError):
    """Something went wrong on our side. Report it with the trace id."""

    code = "internal"
    retryable = True


class SandboxBrokenError(InternalError):
    """The sandbox broke and is gone. Run it again; report it with the trace id if it comes back."""

    code = "sandbox_broken"
