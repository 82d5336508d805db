"""One call to the gateway as a value, and what its failure means. Shared by both twins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, cast

import httpx

from faas_sdk._errors import (
    DeadlineExceededError,
    FaaSError,
    GatewayUnreachableError,
    ProtocolError,
    error_from_problem,
)
from faas_sdk._models import nothing
from faas_sdk._retry import is_status_retryable, parse_retry_after


@dataclass(frozen=True)
class Call:
    """One request, and how patient to be with it."""

    method: str
    path: str
    read_seconds: float
    is_repeatable: bool = False
    """The gateway recognises it when it comes twice: a broken connection is no reason to stop."""
    body: Optional[Mapping[str, Any]] = None
    content: Optional[bytes] = None
    stream: Optional[Callable[[], Any]] = None
    """Makes the pieces of a long body, anew for each attempt."""
    query: Mapping[str, Any] = field(default_factory=nothing)
    headers: Mapping[str, str] = field(default_factory=nothing)
    accepted: Tuple[int, ...] = ()
    """Statuses that are an answer although they are not 2xx."""


@dataclass(frozen=True)
class Failure:
    """What went wrong with one attempt."""

    error: FaaSError
    is_retryable: bool
    cause: Optional[Exception] = None


def broken(error: httpx.HTTPError, call: Call) -> Failure:
    """Sort a transport's failure: was it before the gateway could have taken the request?"""
    if isinstance(error, httpx.ReadTimeout):
        message = f"no answer from the gateway within {call.read_seconds:g} s"
        hint = "for long work: raise ClientConfig.timeout, or submit() and wait()"
        late = DeadlineExceededError(message, hint=hint)
        return Failure(late, is_retryable=False, cause=error)
    if isinstance(error, (httpx.TransportError, httpx.StreamError)):
        never_taken = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
        reason = str(error) or type(error).__name__
        return Failure(
            GatewayUnreachableError(
                f"the gateway at {_origin(error)} could not be reached: {reason}"
                if never_taken
                else f"the connection to the gateway broke: {reason}",
                hint="start one with `faas serve`, or check base_url" if never_taken else None,
            ),
            is_retryable=never_taken or call.is_repeatable,
            cause=error,
        )
    return Failure(ProtocolError(str(error) or None), is_retryable=False, cause=error)


def _origin(error: httpx.HTTPError) -> str:
    try:
        url = error.request.url
    except RuntimeError:
        return "its address"
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"


def refused(response: httpx.Response) -> Failure:
    retry_after_seconds = parse_retry_after(response.headers.get("Retry-After"))
    try:
        answer = response.json()
    except ValueError:
        answer = None
    problem = cast("Dict[str, Any]", answer) if isinstance(answer, dict) else {}
    error = error_from_problem(
        response.status_code, problem, retry_after_seconds=retry_after_seconds
    )
    return Failure(
        error,
        is_retryable=is_status_retryable(
            response.status_code,
            retry_after_seconds=retry_after_seconds,
            said=problem.get("retryable") is True,
        ),
    )
