"""The values of the client: what you configure, what you get back. Frozen, made whole."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union, cast

from faas_sdk._errors import (
    CommandFailedError,
    ExecutionTimeoutError,
    FaaSError,
    InternalError,
    ProtocolError,
    error_from_problem,
)

DEFAULT_BASE_URL = "http://localhost:8080"


def nothing() -> Dict[str, Any]:
    """Make the default of a mapping."""
    return {}


class Runtime(str, Enum):
    """What runs the sandbox. `AUTO` lets the gateway choose."""

    AUTO = "auto"
    EMBEDDED = "embedded"
    DOCKER = "docker"
    FIRECRACKER = "firecracker"
    MICROVM = "microvm"


class ExecutionMode(str, Enum):
    """How an execution uses its sandbox."""

    EPHEMERAL = "ephemeral"
    CACHED = "cached"
    CHECKPOINTED = "checkpointed"
    BRANCHED = "branched"
    PERSISTENT = "persistent"


@dataclass(frozen=True)
class ClientConfig:
    """How a client behaves. The defaults suit a gateway on this machine."""

    base_url: str = DEFAULT_BASE_URL
    runtime: Union[Runtime, str] = Runtime.AUTO
    cache_enabled: bool = False
    """Answer repeated requests from memory, when they say mode `cached` or name a `cache_key`."""
    max_retries: int = 3
    """Further attempts after the first, for what is safe to repeat."""
    timeout: float = 30.0
    """Seconds the gateway may take to answer, on top of the command's own time limit."""
    api_key: Optional[str] = field(default=None, repr=False)
    cache_entries_max: int = 256
    retry_delay_seconds: float = 0.1
    """Before the first repeat; doubled each time, with jitter."""
    retry_delay_seconds_max: float = 5.0


@dataclass(frozen=True)
class Timings:
    """Where the time went, milliseconds by phase."""

    queue_ms: float = 0.0
    sandbox_ms: float = 0.0
    exec_ms: float = 0.0
    collect_ms: float = 0.0


@dataclass(frozen=True)
class ExecutionResult:
    """How a command ended, and what it said.

    `output` is `stdout`, `logs` is `stderr`: both spellings stay. Text has U+FFFD where the bytes
    are not UTF-8; `stdout_bytes` and `stderr_bytes` are exact.
    """

    request_id: str
    output: str
    logs: str
    error: Optional[str]
    duration_ms: float
    """Wall time of the command, at least 1."""
    cache_hit: bool
    runtime_used: Optional[str]
    stdout: str
    stderr: str
    exit_code: int
    """The command's own; 128+n when signal n ended it, 124 when its time limit did."""
    stdout_bytes: bytes = field(default=b"", repr=False)
    stderr_bytes: bytes = field(default=b"", repr=False)
    signal: Optional[int] = None
    reason: str = "exited"
    """`exited`, `signalled`, `timed_out`, `out_of_memory` or `cancelled`."""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    stdout_total_bytes: int = 0
    stderr_total_bytes: int = 0
    cpu_ms: Optional[float] = None
    memory_peak_bytes: Optional[int] = None
    isolation: Optional[str] = None
    runtime_reason: Optional[str] = None
    """Why it ran on `runtime_used`: `asked for`, or how `auto` chose."""
    image: Optional[str] = None
    image_digest: Optional[str] = None
    container_id: Optional[str] = None
    snapshot_id: Optional[str] = None
    timings: Timings = Timings()
    raw: Mapping[str, Any] = field(default_factory=nothing, repr=False, compare=False)
    """The answer as the gateway sent it."""

    @property
    def execution_id(self) -> str:
        """The same as `request_id`."""
        return self.request_id

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself with exit code 0."""
        return self.exit_code == 0 and self.reason == "exited"

    @property
    def timed_out(self) -> bool:
        """Whether its own time limit ended it."""
        return self.reason == "timed_out"

    def raise_for_exit(self) -> ExecutionResult:
        """Return self when the command succeeded.

        Raises:
            CommandFailedError: it did not.
        """
        if self.ok:
            return self
        self.raise_for_timeout()
        last = self.stderr.strip().splitlines()[-1:] or [""]
        message = f"the command ended with code {self.exit_code} ({self.reason})"
        raise CommandFailedError(f"{message}: {last[0]}" if last[0] else message, result=self)

    def raise_for_timeout(self) -> ExecutionResult:
        """Return self unless the command ran out of time.

        Raises:
            ExecutionTimeoutError: it did.
        """
        if self.timed_out:
            raise ExecutionTimeoutError(
                f"the command ran out of its time and was ended after {self.duration_ms:g} ms",
                result=self,
            )
        return self


@dataclass(frozen=True)
class Execution:
    """One execution as the gateway keeps it, in whatever state."""

    id: str
    state: str
    """`queued`, `running`, `finished` (there is a result) or `failed` (there is an error)."""
    result: Optional[ExecutionResult] = None
    """How it ended and what it said. None until then, and in lists, which leave output out."""
    error: Optional[FaaSError] = None
    """Why the platform failed to run it."""
    command: Tuple[str, ...] = ()
    """Only in lists; long ones are cut."""
    image: Optional[str] = None
    exit_code: Optional[int] = None
    reason: Optional[str] = None
    duration_ms: Optional[float] = None
    created_at: Optional[str] = None
    started_at: Optional[str] = None
    finished_at: Optional[str] = None
    raw: Mapping[str, Any] = field(default_factory=nothing, repr=False, compare=False)

    @property
    def is_final(self) -> bool:
        """Whether nothing about it will change any more."""
        return self.state in ("finished", "failed")


@dataclass(frozen=True)
class ExecutionPage:
    """Some executions, newest first."""

    executions: List[Execution]
    next_cursor: Optional[str] = None
    """Pass as `cursor=` for the next page; None when this was the last."""


@dataclass(frozen=True)
class OutputEvent:
    """Some bytes a command wrote, in order, each exactly once."""

    stream: str
    """`stdout` or `stderr`."""
    offset: int
    data: bytes

    @property
    def text(self) -> str:
        """The bytes as text. A character cut in two by a chunk's end shows as U+FFFD."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True)
class ExitEvent:
    """The command ended; the last event of a stream."""

    exit_code: int
    reason: str
    signal: Optional[int] = None
    duration_ms: Optional[float] = None


StreamEvent = Union[OutputEvent, ExitEvent]


def result_from_answer(answer: Mapping[str, Any]) -> ExecutionResult:
    """Read the gateway's answer to an execution that has ended.

    Raises:
        ProtocolError: it is not such an answer.
    """
    request_id = answer.get("request_id") or answer.get("execution_id") or answer.get("id")
    exit_code = answer.get("exit_code")
    if not isinstance(request_id, str) or not isinstance(exit_code, int):
        raise ProtocolError("the answer has no request_id or no exit_code")
    stdout = _first_text(answer, "stdout", "output")
    stderr = _first_text(answer, "stderr", "logs")
    stdout_bytes = _exact(answer.get("stdout_base64"), stdout)
    stderr_bytes = _exact(answer.get("stderr_base64"), stderr)
    return ExecutionResult(
        request_id=request_id,
        output=stdout,
        logs=stderr,
        error=answer.get("error"),
        duration_ms=answer.get("duration_ms") or 0,
        cache_hit=bool(answer.get("cache_hit")),
        runtime_used=answer.get("runtime_used"),
        stdout=stdout,
        stderr=stderr,
        exit_code=exit_code,
        stdout_bytes=stdout_bytes,
        stderr_bytes=stderr_bytes,
        signal=answer.get("signal"),
        reason=answer.get("reason") or "exited",
        stdout_truncated=bool(answer.get("stdout_truncated")),
        stderr_truncated=bool(answer.get("stderr_truncated")),
        stdout_total_bytes=answer.get("stdout_total_bytes", len(stdout_bytes)),
        stderr_total_bytes=answer.get("stderr_total_bytes", len(stderr_bytes)),
        cpu_ms=answer.get("cpu_ms"),
        memory_peak_bytes=answer.get("memory_peak_bytes"),
        isolation=answer.get("isolation"),
        runtime_reason=answer.get("runtime_reason"),
        image=answer.get("image"),
        image_digest=answer.get("image_digest"),
        container_id=answer.get("container_id"),
        snapshot_id=answer.get("snapshot_id"),
        timings=_timings(answer.get("timings")),
        raw=dict(answer),
    )


def execution_from_answer(answer: Mapping[str, Any]) -> Execution:
    """Read one execution in any state.

    Raises:
        ProtocolError: it is not one.
    """
    execution_id = answer.get("execution_id") or answer.get("request_id") or answer.get("id")
    state = answer.get("state")
    if not isinstance(execution_id, str) or not isinstance(state, str):
        raise ProtocolError("the answer has no execution_id or no state")
    return Execution(
        id=execution_id,
        state=state,
        result=result_from_answer(answer) if answer.get("stdout") is not None else None,
        error=failure_of(answer),
        command=tuple(answer.get("command") or ()),
        image=answer.get("image"),
        exit_code=answer.get("exit_code"),
        reason=answer.get("reason"),
        duration_ms=answer.get("duration_ms"),
        created_at=answer.get("created_at"),
        started_at=answer.get("started_at"),
        finished_at=answer.get("finished_at"),
        raw=dict(answer),
    )


def failure_of(answer: Mapping[str, Any]) -> Optional[FaaSError]:
    """Make the error of an execution that the platform failed to run; None when it did not."""
    failure = answer.get("failure")
    if isinstance(failure, dict):
        problem = cast("Dict[str, Any]", failure)
        return error_from_problem(500, {**problem, "detail": problem.get("message")})
    if answer.get("state") == "failed":
        return InternalError()
    return None


def _first_text(answer: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = answer.get(name)
        if isinstance(value, str):
            return value
    return ""


def _exact(encoded: Any, text: str) -> bytes:
    """The gateway sends base64 only where text cannot carry the bytes."""
    if isinstance(encoded, str):
        return base64.b64decode(encoded)
    return text.encode("utf-8", "surrogatepass")


def _timings(value: Any) -> Timings:
    if not isinstance(value, dict):
        return Timings()
    given = cast("Dict[str, Any]", value)
    known: Dict[str, float] = {
        name: float(given.get(name) or 0.0)
        for name in ("queue_ms", "sandbox_ms", "exec_ms", "collect_ms")
    }
    return Timings(**known)
