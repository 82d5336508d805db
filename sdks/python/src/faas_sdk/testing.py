"""A gateway for your tests: the real client, over a transport that answers from memory.

    gateway = FakeGateway()
    gateway.on("python3 *", stdout="42\\n")
    async with gateway.client() as client:
        assert (await client.run_python("print(6 * 7)")).output == "42\\n"

Nothing is run on your machine. Commands are answered by what you scripted, else by a tiny
interpreter that knows `echo`, `printf`, `cat`, `env`, `pwd`, `true`, `false`, `exit` and `sleep`
(which takes no time); anything else exits 127 and says so. State is real: executions are kept,
listed, streamed, cancelled and recognised by idempotency key, and refusals are the gateway's own.
"""

from __future__ import annotations

import asyncio
import base64
import fnmatch
import itertools
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import (
    Any,
    AsyncIterator,
    Callable,
    Deque,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
    Type,
    Union,
    cast,
)

import httpx

from faas_sdk._client import FaaSClient
from faas_sdk._errors import (
    ExecutionNotFoundError,
    FaaSError,
    IdempotencyConflictError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
    WrongStateError,
    platform_errors,
)
from faas_sdk._fake_images import FakeImages
from faas_sdk._fake_shell import Outcome, interpret
from faas_sdk._models import ClientConfig, ExecutionMode, Runtime
from faas_sdk._request import option_names
from faas_sdk._sync import SyncFaaSClient

__all__ = ["FakeCommand", "FakeGateway", "Outcome"]

Handler = Callable[["FakeCommand"], Optional[Outcome]]

_STATUS = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "resource_exhausted": 429,
    "unsupported": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}


@dataclass(frozen=True)
class FakeCommand:
    """What a handler is asked to answer."""

    argv: Tuple[str, ...]
    body: Mapping[str, Any]
    stdin: bytes
    env: Mapping[str, str]

    @property
    def text(self) -> str:
        """The command as one line: what `on` matches its pattern against."""
        is_shell = self.argv[:2] == ("sh", "-c") and len(self.argv) == 3  # noqa: PLR2004
        return self.argv[2] if is_shell else " ".join(self.argv)


@dataclass
class _Execution:
    id: str
    body: Mapping[str, Any]
    outcome: Optional[Outcome] = None
    stdin: bytearray = field(default_factory=bytearray)
    created_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())

    @property
    def state(self) -> str:
        return "running" if self.outcome is None else "finished"


class FakeGateway(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """Answers the platform's HTTP interface from memory.

    `requests` lists what was asked, as (method, path, body); `executions` counts what was run.
    """

    def __init__(self, *, heartbeat_seconds: float = 0.01) -> None:
        self.requests: List[Tuple[str, str, Any]] = []
        self._handlers: List[Handler] = []
        self._troubles: Deque[Union[FaaSError, str]] = deque()
        self._executions: Dict[str, _Execution] = {}
        self._by_key: Dict[str, Tuple[str, _Execution]] = {}
        self._ids = itertools.count(1)
        self._stream_cuts: Deque[int] = deque()
        self._heartbeat_seconds = heartbeat_seconds
        self._warm: Dict[str, int] = {}
        self._images = FakeImages()
        self._lock = threading.RLock()

    def client(self, config: Optional[ClientConfig] = None) -> FaaSClient:
        """Make an async client of this gateway."""
        return FaaSClient("http://fake.localhost", config, transport=self)

    def sync_client(self, config: Optional[ClientConfig] = None) -> SyncFaaSClient:
        """Make a sync client of this gateway."""
        return SyncFaaSClient("http://fake.localhost", config, transport=self)

    @property
    def executions(self) -> int:
        """How many commands were run; a replayed request runs none."""
        return len(self._executions)

    def on(
        self,
        pattern: str,
        *,
        stdout: Union[str, bytes] = b"",
        stderr: Union[str, bytes] = b"",
        exit_code: int = 0,
        reason: str = "exited",
        duration_ms: int = 1,
    ) -> FakeGateway:
        """Answer commands whose line matches a shell-style pattern; the latest match wins."""
        outcome = Outcome(_bytes(stdout), _bytes(stderr), exit_code, reason, duration_ms)

        def handler(command: FakeCommand) -> Optional[Outcome]:
            return outcome if fnmatch.fnmatchcase(command.text, pattern) else None

        return self.answer(handler)

    def answer(self, handler: Handler) -> FakeGateway:
        """Ask `handler(command)` for the outcome; None passes the question on."""
        self._handlers.insert(0, handler)
        return self

    def fail_next(self, error: Union[FaaSError, Type[FaaSError]], *, times: int = 1) -> FakeGateway:
        """Refuse the next requests with this error."""
        instance = error if isinstance(error, FaaSError) else error()
        self._troubles.extend([instance] * times)
        return self

    def refuse_connection(self, *, times: int = 1) -> FakeGateway:
        """Let the next requests find nobody listening."""
        self._troubles.extend(["refused"] * times)
        return self

    def lose_answer(self, *, times: int = 1) -> FakeGateway:
        """Do what the next requests ask, and break the connection before they are answered."""
        self._troubles.extend(["lost"] * times)
        return self

    def cut_stream(self, *after_bytes: int) -> FakeGateway:
        """Break the next log streams after that many bytes each."""
        self._stream_cuts.extend(after_bytes)
        return self

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer the sync client."""
        request.read()
        return self._answer(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer the async client."""
        await request.aread()
        return self._answer(request)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            body = _decode(request.content)
            self.requests.append((request.method, request.url.path, body))
            trouble = self._troubles.popleft() if self._troubles else None
            if trouble == "refused":
                raise httpx.ConnectError("connection refused", request=request)
            try:
                if isinstance(trouble, FaaSError):
                    raise trouble
                response = self._route(request, body)
            except FaaSError as error:
                response = _problem(error)
            if trouble == "lost":
                raise httpx.RemoteProtocolError("server disconnected", request=request)
            return response

    def _route(self, request: httpx.Request, body: Any) -> httpx.Response:
        method, path = request.method, request.url.path
        parts = path.strip("/").split("/")
        if method == "GET" and path in ("/health", "/api/v1/metrics"):
            return _json(200, self._system(path))
        if method == "POST" and path in ("/api/v1/execute", "/api/v1/execute/advanced"):
            return self._execute(request, body)
        if parts[:3] == ["api", "v1", "executions"]:
            return self._on_executions(request, parts[3:], body)
        if parts[:3] == ["api", "v1", "logs"] and parts[4:] == ["stream"]:
            execution = self._find(parts[3])
            cut = self._stream_cuts.popleft() if self._stream_cuts else None
            stream = _LogStream(
                execution,
                request.headers.get("Last-Event-ID"),
                cut=cut,
                heartbeat_seconds=self._heartbeat_seconds,
            )
            return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=stream)
        if parts[2:3] == ["images"]:
            return self._images.answer(request, parts[3:], body)
        if parts[2:3] in (["prewarm"], ["pools"]):
            return _json(200, self._prewarm(body) if method == "POST" else self._pools())
        if parts[2:3] and parts[2] in _LATER:
            raise UnsupportedError(f"the fake gateway has no {parts[2]}")
        raise NotFoundError(f"no route {path}")

    def _system(self, path: str) -> Dict[str, Any]:
        if path == "/health":
            return {"status": "healthy", "timestamp": _now(), "components": {}}
        return {"total_requests": self.executions, "cache_hits": 0}

    def _prewarm(self, given: Any) -> Dict[str, Any]:
        body = cast("Dict[str, Any]", given) if isinstance(given, dict) else {}
        if not body.get("image"):
            raise InvalidArgumentError("$.image: is missing")
        count = body.get("count")
        if not isinstance(count, int) or not 0 <= count <= _WARM_MAX:
            raise InvalidArgumentError(f"$.count: must be from 0 to {_WARM_MAX}")
        self._warm[body["image"]] = count
        return {**self._pool(body["image"]), "requested": count, "complete": True}

    def _pools(self) -> Dict[str, Any]:
        rows = [self._pool(image) for image in self._warm]
        return {"pools": rows, "queued": 0, "running": 0}

    def _pool(self, image: str) -> Dict[str, Any]:
        count = self._warm[image]
        why = f"{count} pre-warmed"
        counts = {"ready": count, "making": 0, "target": count}
        return {"runtime": "fake", "image": image, "image_digest": image, "why": why, **counts}

    def _execute(self, request: httpx.Request, given: Any) -> httpx.Response:
        body = _check(given)
        asked = json.dumps({**body, "wait": True}, sort_keys=True)
        key = request.headers.get("Idempotency-Key")
        known = self._by_key.get(key) if key else None
        if known is not None and known[0] != asked:
            raise IdempotencyConflictError
        execution = known[1] if known else self._start(body)
        if key:
            self._by_key[key] = (asked, execution)
        is_waiting = body.get("wait") is not False
        if is_waiting and execution.outcome is None:
            raise InvalidArgumentError("stdin_open needs wait=false at the fake gateway")
        headers = {"Idempotency-Replayed": "true"} if known else {}
        return _json(200 if is_waiting else 202, _view(execution), headers)

    def _start(self, body: Mapping[str, Any]) -> _Execution:
        execution = _Execution(f"exec-{next(self._ids):026d}", body)
        self._executions[execution.id] = execution
        execution.stdin.extend(_payload(body))
        if not body.get("stdin_open"):
            self._finish(execution)
        return execution

    def _finish(self, execution: _Execution) -> None:
        command = FakeCommand(
            argv=_argv(execution.body),
            body=execution.body,
            stdin=bytes(execution.stdin),
            env=execution.body.get("env_vars") or {},
        )
        outcome = next(filter(None, (handler(command) for handler in self._handlers)), None)
        if outcome is None:
            outcome = interpret(
                command.argv,
                stdin=command.stdin,
                env=command.env,
                working_dir=execution.body.get("working_dir") or "/",
                timeout_ms=execution.body.get("timeout_ms") or 30_000,
            )
        execution.outcome = outcome

    def _on_executions(self, request: httpx.Request, parts: List[str], body: Any) -> httpx.Response:
        if not parts:
            return self._page(request)
        execution, verb = self._find(parts[0]), parts[1:]
        if request.method == "GET" and not verb:
            return _json(200, _view(execution))
        if request.method == "GET" and verb == ["logs"]:
            return _logs(execution, request)
        if request.method == "POST" and verb == ["cancel"]:
            if execution.outcome is None:
                execution.outcome = Outcome(b"", b"", 137, "cancelled", 1)
            return _json(200, _view(execution))
        if request.method == "POST" and verb == ["stdin"]:
            return self._write(execution, body or {})
        raise NotFoundError

    def _page(self, request: httpx.Request) -> httpx.Response:
        limit = int(request.url.params.get("limit", 50))
        cursor = request.url.params.get("cursor")
        state = request.url.params.get("state")
        found = [
            execution
            for execution in reversed(list(self._executions.values()))
            if (cursor is None or execution.id < cursor) and state in (None, execution.state)
        ]
        shown = found[:limit]
        next_cursor = shown[-1].id if len(found) > limit else None
        output = ("stdout", "stderr", "output", "logs", "stdout_base64", "stderr_base64")
        summaries = [
            {name: value for name, value in _view(execution).items() if name not in output}
            for execution in shown
        ]
        return _json(200, {"executions": summaries, "next_cursor": next_cursor})

    def _write(self, execution: _Execution, body: Mapping[str, Any]) -> httpx.Response:
        if execution.outcome is not None:
            raise WrongStateError("the command takes no input any more")
        data = base64.b64decode(body.get("data_base64", "")) or body.get("data", "").encode()
        given = len(execution.stdin) - len(_payload(execution.body))
        offset = body.get("offset", given)
        if offset > given:
            raise InvalidArgumentError(f"bytes are missing before offset {offset}")
        execution.stdin.extend(data[given - offset :])
        if body.get("last"):
            self._finish(execution)
        return _json(200, {"execution_id": execution.id, "offset": max(given, offset + len(data))})

    def _find(self, execution_id: str) -> _Execution:
        if execution_id not in self._executions:
            raise ExecutionNotFoundError
        return self._executions[execution_id]


class _LogStream(httpx.AsyncByteStream, httpx.SyncByteStream):
    """Server-sent events of one execution, from where the reader stood."""

    def __init__(
        self,
        execution: _Execution,
        last_event_id: Optional[str],
        *,
        cut: Optional[int],
        heartbeat_seconds: float,
    ) -> None:
        self._execution = execution
        self._from = tuple(int(part) for part in (last_event_id or "0-0").split("-"))
        self._cut = cut
        self._heartbeat_seconds = heartbeat_seconds

    def __iter__(self) -> Iterator[bytes]:
        while self._execution.outcome is None:
            yield b": still running\n\n"
            time.sleep(self._heartbeat_seconds)
        yield from self._rest(self._execution.outcome)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._execution.outcome is None:
            yield b": still running\n\n"
            await asyncio.sleep(self._heartbeat_seconds)
        for chunk in self._rest(self._execution.outcome):
            yield chunk

    def _rest(self, outcome: Outcome) -> Iterator[bytes]:
        whole = b"".join(self._events(outcome))
        yield whole if self._cut is None else whole[: self._cut]
        if self._cut is not None:
            raise httpx.ReadError("the fake gateway cut the stream")

    def _events(self, outcome: Outcome) -> Iterator[bytes]:
        stdout_from, stderr_from = self._from
        for at in range(stdout_from, len(outcome.stdout), _CHUNK_BYTES):
            chunk = outcome.stdout[at : at + _CHUNK_BYTES]
            yield _event("stdout", _piece("stdout", at, chunk), f"{at + len(chunk)}-{stderr_from}")
        for at in range(stderr_from, len(outcome.stderr), _CHUNK_BYTES):
            chunk = outcome.stderr[at : at + _CHUNK_BYTES]
            place = f"{len(outcome.stdout)}-{at + len(chunk)}"
            yield _event("stderr", _piece("stderr", at, chunk), place)
        place = f"{len(outcome.stdout)}-{len(outcome.stderr)}"
        yield _event("exit", _view(self._execution), place)


_CHUNK_BYTES = 4096
_WARM_MAX = 64
_PIECE_BYTES = 1 << 20
_LATER = ("fork", "snapshots", "instances", "branches", "ports")
_WIRE_NAMES = {"archive": "archive_base64"}


def _check(given: Any) -> Dict[str, Any]:
    body = cast("Dict[str, Any]", given) if isinstance(given, dict) else {}
    if not body.get("command"):
        raise InvalidArgumentError("$.command: is required")
    known = {_WIRE_NAMES.get(name, name) for name in option_names()} | {"command", "wait"}
    unknown = sorted(set(body) - known)
    if unknown:
        raise InvalidArgumentError(f"unknown fields: {', '.join(unknown)}")
    for name, kind in (("mode", ExecutionMode), ("runtime", Runtime)):
        words = [one.value for one in kind]
        if body.get(name, words[0]) not in words:
            raise InvalidArgumentError(f"$.{name}: known are {', '.join(words)}")
    if body.get("timeout_ms", 1) < 1:
        raise InvalidArgumentError("$.timeout_ms: must be at least 1")
    if body.get("isolation", "none") != "none":
        raise UnsupportedError(f"nothing here isolates at least by {body['isolation']}")
    if body.get("mode", "ephemeral") not in ("ephemeral", "cached"):
        raise UnsupportedError(f"the fake gateway has no mode {body['mode']}")
    return body


def _argv(body: Mapping[str, Any]) -> Tuple[str, ...]:
    command = body["command"]
    return ("sh", "-c", command) if isinstance(command, str) else tuple(command)


def _payload(body: Mapping[str, Any]) -> bytes:
    payload = body.get("payload") or b""
    if isinstance(payload, dict):
        return base64.b64decode(cast("Dict[str, str]", payload)["base64"])
    return _bytes(payload)


def _view(execution: _Execution) -> Dict[str, Any]:
    view: Dict[str, Any] = {
        "request_id": execution.id,
        "execution_id": execution.id,
        "state": execution.state,
        "mode": execution.body.get("mode", "ephemeral"),
        "command": list(_argv(execution.body)),
        "image": execution.body.get("image", "host"),
        "created_at": execution.created_at,
    }
    outcome = execution.outcome
    if outcome is None:
        return view
    for name, other, data in (
        ("stdout", "output", outcome.stdout),
        ("stderr", "logs", outcome.stderr),
    ):
        view[name] = view[other] = data.decode("utf-8", "replace")
        view[f"{name}_total_bytes"] = len(data)
        if view[name].encode() != data:
            view[f"{name}_base64"] = base64.b64encode(data).decode("ascii")
    code = outcome.exit_code
    view.update(
        exit_code=code,
        reason=outcome.reason,
        duration_ms=outcome.duration_ms,
        error=f"Process exited with code {code}" if code else None,
        runtime_used="fake",
        runtime_reason="asked for",
        isolation="none: nothing is run",
        image_digest="fake",
        cache_hit=False,
        timings={"queue_ms": 0.0, "sandbox_ms": 0.0, "exec_ms": 1.0, "collect_ms": 0.0},
    )
    return view


def _logs(execution: _Execution, request: httpx.Request) -> httpx.Response:
    query = request.url.params
    offset, limit = int(query.get("offset", 0)), int(query.get("limit", _PIECE_BYTES))
    outcome = execution.outcome or Outcome()
    whole = outcome.stderr if query.get("stream") == "stderr" else outcome.stdout
    data = whole[offset : offset + limit]
    is_ended = execution.outcome is not None and offset + len(data) >= len(whole)
    headers = {"X-Next-Offset": str(offset + len(data)), "X-Ended": str(is_ended).lower()}
    return httpx.Response(200, headers=headers, content=data)


def _piece(stream: str, offset: int, data: bytes) -> Dict[str, Any]:
    encoded = base64.b64encode(data).decode("ascii")
    text = data.decode("utf-8", "replace")
    return {"stream": stream, "offset": offset, "data": encoded, "text": text}


def _event(name: str, facts: Mapping[str, Any], place: str) -> bytes:
    return f"event: {name}\nid: {place}\ndata: {json.dumps(facts)}\n\n".encode()


def _problem(error: FaaSError) -> httpx.Response:
    status = error.status or _status_of(type(error))
    problem = {
        "type": "about:blank",
        "title": error.code,
        "status": status,
        "code": error.code,
        "detail": error.message,
        "hint": error.hint,
        "retryable": error.retryable,
        "trace_id": "fake",
        "details": dict(error.details),
    }
    headers = {"Content-Type": "application/problem+json"}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = f"{error.retry_after_seconds:g}"
    return httpx.Response(status, headers=headers, content=json.dumps(problem).encode())


def _status_of(kind: Type[FaaSError]) -> int:
    known = platform_errors()
    for ancestor in kind.__mro__:
        code = getattr(ancestor, "code", "")
        if code in _STATUS and code in known:
            return _STATUS[code]
    return 500


def _json(
    status: int, answer: Mapping[str, Any], headers: Optional[Mapping[str, str]] = None
) -> httpx.Response:
    return httpx.Response(status, json=answer, headers=dict(headers or {}))


def _decode(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None


def _bytes(text: Union[str, bytes]) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
