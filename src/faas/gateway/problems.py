"""From an error to `application/problem+json`. Nothing else here knows a status code of a
failure."""

import logging

import msgspec
from msgspec import UNSET

from faas import errors
from faas.gateway.replies import Headers, Reply
from faas.gateway.wire import ProblemView

_log = logging.getLogger(__name__)

STATUS: dict[type[errors.FaasError], int] = {
    errors.InvalidArgumentError: 400,
    errors.UnauthenticatedError: 401,
    errors.PermissionDeniedError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.PortClosedError: 502,
    errors.TooLargeError: 413,
    errors.ResourceExhaustedError: 429,
    errors.UnsupportedError: 501,
    errors.UnavailableError: 503,
    errors.DeadlineExceededError: 504,
    errors.DataLossError: 500,
    errors.InternalError: 500,
}

CLIENT_CLOSED_REQUEST = 499
"""Never seen by anyone: the client is gone. For the logs of whatever stands in front of us."""

_RETRY_AFTER_SECONDS = 1.0
"""When whoever refused did not say: a queue of short executions has moved by then."""


class MethodNotAllowedError(errors.InvalidArgumentError):
    """This path does not take that method. The header Allow lists those it takes."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(
            f"{method[:16]} is not allowed here",
            hint=f"this path takes {', '.join(allowed)}",
            details={"allowed": allowed},
        )
        self.allowed = allowed


class UnsupportedMediaTypeError(errors.InvalidArgumentError):
    """The body has another media type than this path takes. Send the one named in details."""

    code = "unsupported_media_type"
    status = 415


class NotAcceptableError(errors.InvalidArgumentError):
    """None of the media types in Accept can be answered here. Accept one named in details."""

    code = "not_acceptable"
    status = 406


class RouteNotFoundError(errors.NotFoundError):
    """There is no such path. See /docs or /openapi.json."""

    code = "route_not_found"


class BadGatewayError(errors.UnavailableError):
    """The server in the sandbox did not answer as HTTP demands. Look at what it logs."""

    code = "bad_gateway"
    status = 502


HTTP_ONLY: tuple[type[errors.FaasError], ...] = (
    MethodNotAllowedError,
    UnsupportedMediaTypeError,
    NotAcceptableError,
    RouteNotFoundError,
    BadGatewayError,
)
"""Failures that only a door can have; they are in `spec/errors.yaml` beside the tree's."""


def status_of(kind: type[errors.FaasError]) -> int:
    """The HTTP status of an error class: its own, or that of the nearest ancestor in the table."""
    for ancestor in kind.__mro__:
        own = ancestor.__dict__.get("status")
        if isinstance(own, int):
            return own
        if ancestor in STATUS:
            return STATUS[ancestor]
    return 500


def reply(failure: BaseException, trace_id: str) -> Reply:
    """Answer a failure. What is not a `FaasError` is our bug: logged here, and not told to the
    caller."""
    if not isinstance(failure, errors.FaasError):
        _log.error(
            "unexpected exception while answering", extra={"trace_id": trace_id}, exc_info=failure
        )
        failure = errors.InternalError()
    kind = type(failure)
    status = status_of(kind)
    view = ProblemView(
        type=f"urn:faas:error:{kind.code}",
        title=_title(kind),
        status=status,
        code=kind.code,
        detail=failure.message,
        hint=failure.hint,
        retryable=kind.retryable,
        trace_id=trace_id,
        details=dict(failure.details) if failure.details else UNSET,
    )
    return Reply(
        msgspec.json.encode(view),
        status=status,
        media_type=b"application/problem+json",
        headers=_headers(failure, status),
    )


def _title(kind: type[errors.FaasError]) -> str:
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0].partition(". ")[0].rstrip(".")


def _headers(failure: errors.FaasError, status: int) -> Headers:
    headers: Headers = []
    if kind_waits(failure):
        seconds = failure.retry_after_seconds or _RETRY_AFTER_SECONDS
        headers.append((b"retry-after", b"%d" % max(1, -int(-seconds // 1))))
    if isinstance(failure, MethodNotAllowedError):
        headers.append((b"allow", ", ".join(failure.allowed).encode()))
    if status == STATUS[errors.UnauthenticatedError]:
        headers.append((b"www-authenticate", b'Bearer realm="faas"'))
    return headers


def kind_waits(failure: errors.FaasError) -> bool:
    """Whether the caller is told when to come back."""
    return failure.retry_after_seconds is not None or isinstance(
        failure, errors.ResourceExhaustedError | errors.UnavailableError
    )
