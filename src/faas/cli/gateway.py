"""The command line's view of a gateway: HTTP by the standard library, errors as our own classes.

Only loopback and the gateway named are ever spoken to; proxies of the environment are not used.
"""

import base64
import http.client
import json
import os
import secrets
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, cast
from urllib.parse import urlsplit

from faas import errors
from faas.config import ClientSettings, load_client

_CONNECT_SECONDS_MAX = 10.0
_IDLE_SECONDS_MAX = 60.0
"""Longer than the gateway's heartbeats (15 s) on a stream, so silence means it is gone."""
_RECONNECT_SECONDS = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
"""Waits between attempts to take up a stream again: long enough for a gateway's restart."""

_PIECE_BYTES = 256 << 10

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One server-sent event."""

    name: str
    data: Json
    id: str | None


class Gateway:
    """One gateway, by its address."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._parts = urlsplit(settings.url)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise errors.InvalidArgumentError(
                f"{settings.url!r} is not the address of a gateway",
                hint="addresses look like http://127.0.0.1:8080",
            )

    @classmethod
    def at(cls, url: str | None) -> "Gateway":
        """Find the gateway that a flag or the environment names."""
        return cls(load_client(url))

    def get(self, path: str) -> Json:
        """Ask for something."""
        return self._json("GET", path, None, {})

    def post(
        self,
        path: str,
        body: Json | bytes | None = None,
        *,
        seconds_max: float = _IDLE_SECONDS_MAX,
        idempotency_key: str | None = None,
    ) -> Json:
        """Ask for something to be done."""
        is_raw = isinstance(body, bytes)
        payload = body if is_raw else json.dumps(body or {}).encode()
        headers = {"Content-Type": "application/octet-stream" if is_raw else "application/json"}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        return self._json("POST", path, payload, headers, seconds_max=seconds_max)

    def get_list(self, path: str) -> list[Json]:
        """Ask for what is answered as a bare list."""
        content, _ = self.get_bytes(path)
        return _list(content)

    def post_for_list(self, path: str, body: Json, *, seconds_max: float) -> list[Json]:
        """Ask for something to be done that is answered by a bare list."""
        headers = {"Content-Type": "application/json"}
        content = self._content("POST", path, json.dumps(body).encode(), headers, seconds_max)
        return _list(content)

    def put(self, path: str, content: bytes) -> None:
        """Send raw bytes."""
        headers = {"Content-Type": "application/octet-stream"}
        self._json("PUT", path, content, headers)

    def delete(self, path: str) -> None:
        """Ask for something to be taken away."""
        self._json("DELETE", path, None, {})

    def get_bytes(self, path: str) -> tuple[bytes, dict[str, str]]:
        """Ask for raw bytes; return them with the headers, names in lower case."""
        connection, response = self._open("GET", path, None, {}, _IDLE_SECONDS_MAX)
        try:
            content = response.read()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return content, headers
        finally:
            connection.close()

    def download(self, path: str, sink: IO[bytes]) -> int:
        """Write a long answer to `sink` as it comes; return how long it was.

        Raises:
            UnavailableError: the gateway cut it.
        """
        size = 0
        for piece in self._pieces(path):
            size += sink.write(piece)
        return size

    def _pieces(self, path: str) -> Iterator[bytes]:
        try:
            connection, response = self._open("GET", path, None, {}, _IDLE_SECONDS_MAX)
            try:
                while piece := response.read(_PIECE_BYTES):
                    yield piece
                if response.length:  # what is still announced; of pieces cut short it raises
                    raise errors.UnavailableError("the gateway cut its answer", hint="try again")
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as failure:
            raise self._unreachable(failure) from failure

    def upload(self, method: str, path: str, source: IO[bytes], *, seconds_max: float) -> Json:
        """Send a file as the body, a piece at a time."""
        size = os.fstat(source.fileno()).st_size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        return self._json(method, path, source, headers, seconds_max=seconds_max)

    def stream(self, execution_id: str) -> Iterator[StreamEvent]:
        """Yield what an execution writes, from its start to its end, across broken connections."""
        last_id: str | None = None
        waits: list[float] = []
        while True:
            try:
                for event in self._stream_once(execution_id, last_id):
                    waits = list(_RECONNECT_SECONDS)
                    last_id = event.id or last_id
                    yield event
                    if event.name == "exit":
                        return
                failure: Exception = errors.UnavailableError("the gateway ended the stream early")
            except (OSError, http.client.HTTPException) as broken:
                failure = self._unreachable(broken)
            if not waits:
                raise failure
            time.sleep(waits.pop(0))

    def events(self, path: str) -> Iterator[StreamEvent]:
        """Yield server-sent events that cannot be resumed, until the gateway ends them.

        Raises:
            UnavailableError: the connection broke.
        """
        try:
            connection, response = self._open(
                "GET", path, None, {"Accept": "text/event-stream"}, _IDLE_SECONDS_MAX
            )
            try:
                yield from parse_events(response)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as broken:
            raise self._unreachable(broken) from broken

    def _stream_once(self, execution_id: str, last_id: str | None) -> Iterator[StreamEvent]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        path = f"/api/v1/logs/{execution_id}/stream"
        connection, response = self._open("GET", path, None, headers, _IDLE_SECONDS_MAX)
        try:
            yield from parse_events(response)
        finally:
            connection.close()

    def _json(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes] | None,
        headers: dict[str, str],
        *,
        seconds_max: float = _IDLE_SECONDS_MAX,
    ) -> Json:
        return _object(self._content(method, path, body, headers, seconds_max))

    def _content(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes] | None,
        headers: dict[str, str],
        seconds_max: float,
    ) -> bytes:
        try:
            connection, response = self._open(method, path, body, headers, seconds_max)
        except (OSError, http.client.HTTPException) as failure:
            raise self._unreachable(failure) from failure
        try:
            return response.read()
        finally:
            connection.close()

    def _open(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes] | None,
        headers: dict[str, str],
        seconds_max: float,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connect()
        try:
            if self._settings.api_key:
                headers = headers | {"Authorization": f"Bearer {self._settings.api_key}"}
            connection.connect()
            connection.sock.settimeout(seconds_max)
            with suppress(BrokenPipeError, ConnectionResetError):
                # A body that is refused before its end: the answer says why.
                connection.request(method, self._parts.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            _refuse_problem(response)
        except BaseException:
            connection.close()
            raise
        return connection, response

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                host, port, timeout=_CONNECT_SECONDS_MAX, context=context, blocksize=_PIECE_BYTES
            )
        return http.client.HTTPConnection(
            host, port, timeout=_CONNECT_SECONDS_MAX, blocksize=_PIECE_BYTES
        )

    def _unreachable(self, failure: Exception) -> errors.UnavailableError:
        reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else "closed"
        hint = "start one with `faas serve`, or name it with --url or FAAS_GATEWAY_URL"
        if isinstance(failure, ssl.SSLError) and failure.reason == "WRONG_VERSION_NUMBER":
            reason, hint = "plain HTTP is spoken there", f"http://{self._parts.netloc}"
        return errors.UnavailableError(
            f"no gateway answers at {self._settings.url} ({reason.lower()})", hint=hint
        )


def _refuse_problem(response: http.client.HTTPResponse) -> None:
    if response.status >= http.client.BAD_REQUEST:
        raise problem_to_error(response.status, response.read())


def new_idempotency_key() -> str:
    """Make a key, so that a request that is sent twice runs once."""
    return secrets.token_hex(16)


def parse_events(lines: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[StreamEvent]:
    """Yield the events of a `text/event-stream`; comments and a torn last event are dropped."""
    name, data, event_id = "message", list[str](), None
    for raw in lines:
        line = raw.decode("utf-8").rstrip("\r\n")
        if not line:
            if data:
                yield StreamEvent(name, _object("\n".join(data).encode()), event_id)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            event_id = value


def event_bytes(event: StreamEvent) -> bytes:
    """The bytes that an output event carries."""
    return base64.b64decode(str(event.data.get("data", "")))


def problem_to_error(status: int, body: bytes) -> errors.FaasError:
    """Turn a problem document back into the class it was made from."""
    try:
        problem = _object(body)
    except errors.UnavailableError:
        problem = {}
    code = str(problem.get("code", ""))
    message = str(problem.get("detail") or f"the gateway answered {status}")
    hint = problem.get("hint")
    details = problem.get("details")
    merged = cast("Json", details) if isinstance(details, dict) else {}
    merged = merged | {"trace_id": problem.get("trace_id"), "status": status}
    kind = _class_by_code().get(code) or _class_by_status(status)
    return kind(message, hint=str(hint) if hint else None, details=merged)


def _class_by_code() -> dict[str, type[errors.FaasError]]:
    found: dict[str, type[errors.FaasError]] = {}
    waiting = [errors.FaasError]
    while waiting:
        kind = waiting.pop()
        found.setdefault(kind.code, kind)
        waiting.extend(kind.__subclasses__())
    return found


def _class_by_status(status: int) -> type[errors.FaasError]:
    if status == http.client.NOT_FOUND:
        return errors.NotFoundError
    if status in (http.client.BAD_GATEWAY, http.client.SERVICE_UNAVAILABLE):
        return errors.UnavailableError
    is_callers = status < http.client.INTERNAL_SERVER_ERROR
    return errors.InvalidArgumentError if is_callers else errors.InternalError


def _object(content: bytes) -> Json:
    try:
        value = json.loads(content or b"{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise errors.UnavailableError(
            "what answers there is not a gateway", hint="check --url or FAAS_GATEWAY_URL"
        )
    return cast("Json", value)


def _list(content: bytes) -> list[Json]:
    try:
        value: object = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise errors.UnavailableError(
            "what answers there is not a gateway", hint="check --url or FAAS_GATEWAY_URL"
        )
    return cast("list[Json]", value)
