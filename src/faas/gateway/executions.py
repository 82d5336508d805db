"""Executions: run, list, look at, cancel, feed."""

import asyncio
import re

import msgspec

from faas.errors import ExecutionNotFoundError, InvalidArgumentError
from faas.executor import IdempotencyKey
from faas.executor.images import ImageAsk
from faas.gateway import views
from faas.gateway.connection import while_connected
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange, choice, number
from faas.gateway.problems import UnsupportedMediaTypeError
from faas.gateway.replies import Headers, Reply
from faas.gateway.specs import ask_of, decoded, digest, read_request
from faas.gateway.strict import Faults, decode
from faas.gateway.wire import ExecuteRequest, StdinRequest, StdinView
from faas.ids import ExecutionId, parse
from faas.model import ExecutionRecord, ExecutionSpec, ExecutionState

PAGE_DEFAULT, PAGE_MAX = 50, 500
WAIT_MS_MAX = 60_000
"""Of one long poll: below what proxies allow a silent request."""

_KEY = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
_REPLAYED: Headers = [(b"idempotency-replayed", b"true")]
STATES = tuple(state.value for state in ExecutionState)

encode = msgspec.json.Encoder().encode


async def execute(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/execute`"""
    exchange.require_json()
    request, spec = read_request(await exchange.body(), door.settings)
    return await run(door, exchange, request, spec)


async def run(
    door: Door, exchange: Exchange, request: ExecuteRequest, spec: ExecutionSpec
) -> Reply:
    """Run what was asked for, or store it when the caller does not wait."""
    key = _idempotency(exchange, request)
    is_replay = key is not None and await door.executor.recall(exchange.principal, key) is not None
    headers = _REPLAYED if is_replay else None
    ask = ask_of(request)
    if not request.wait:
        return await _submit(door, exchange, spec, key, headers, ask=ask)
    record = await while_connected(
        door.executor.execute(spec, exchange.principal, idempotency=key, ask=ask),
        exchange.receive,
        after_seconds=door.settings.disconnect_watch_seconds,
    )
    return Reply(encode(views.execution(record)), headers=headers)


async def _submit(
    door: Door,
    exchange: Exchange,
    spec: ExecutionSpec,
    key: IdempotencyKey | None,
    headers: Headers | None,
    *,
    ask: ImageAsk,
) -> Reply:
    record = await door.executor.submit(spec, exchange.principal, idempotency=key, ask=ask)
    location = (b"location", f"/api/v1/executions/{record.id}".encode())
    return Reply(encode(views.execution(record)), status=202, headers=[location, *(headers or [])])


def _idempotency(exchange: Exchange, request: ExecuteRequest) -> IdempotencyKey | None:
    key = exchange.headers.get(b"idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise InvalidArgumentError(
            "the header Idempotency-Key must be 1 to 255 printable ASCII characters"
        )
    return IdempotencyKey(key.decode("ascii"), digest(request))


async def list_executions(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/executions`"""
    query = exchange.query("limit", "cursor", "state")
    limit: int = number(query, "limit", PAGE_DEFAULT, least=1, most=PAGE_MAX)
    state = choice(query, "state", STATES)
    cursor = query.get("cursor")
    records = await door.executor.list(
        exchange.principal,
        limit=limit + 1,
        before=None if cursor is None else ExecutionId(parse(cursor, prefix="exec")),
        state=None if state is None else ExecutionState(state),
    )
    return Reply(encode(views.page(records, limit=limit)))


async def get_execution(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/executions/{id}`"""
    execution_id = execution_id_of(exchange)
    wait_ms: int = number(exchange.query("wait_ms"), "wait_ms", 0, most=WAIT_MS_MAX)
    record = await door.executor.get(execution_id, exchange.principal)
    if wait_ms and record.state in (ExecutionState.QUEUED, ExecutionState.RUNNING):
        record = await _wait(door, exchange, execution_id, wait_ms / 1000)
    return Reply(encode(views.execution(record)))


async def _wait(
    door: Door, exchange: Exchange, execution_id: ExecutionId, seconds: float
) -> ExecutionRecord:
    async def final_or_present() -> ExecutionRecord:
        try:
            async with asyncio.timeout(seconds):
                return await door.executor.wait(execution_id, exchange.principal)
        except TimeoutError:
            return await door.executor.get(execution_id, exchange.principal)

    return await while_connected(
        final_or_present(),
        exchange.receive,
        after_seconds=door.settings.disconnect_watch_seconds,
    )


async def cancel_execution(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/executions/{id}/cancel`"""
    execution_id = execution_id_of(exchange)
    exchange.query()
    record = await door.executor.cancel(execution_id, exchange.principal)
    return Reply(encode(views.execution(record)))


async def write_stdin(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/executions/{id}/stdin`"""
    execution_id = execution_id_of(exchange)
    query = exchange.query("offset", "last")
    offset: int | None = number(query, "offset")
    is_last = choice(query, "last", ("false", "true")) == "true"
    if exchange.media_type() == "application/octet-stream":
        data = await exchange.body()
    else:
        request, data = await _stdin_json(exchange)
        offset = offset if request.offset is None else request.offset
        is_last = is_last or request.last
    taken = await door.executor.write_stdin(
        execution_id, exchange.principal, data, offset=offset, is_last=is_last
    )
    return Reply(encode(StdinView(execution_id, taken)))


async def _stdin_json(exchange: Exchange) -> tuple[StdinRequest, bytes]:
    try:
        exchange.require_json()
    except UnsupportedMediaTypeError as refused:
        supported = ["application/json", "application/octet-stream"]
        raise UnsupportedMediaTypeError(
            refused.message, hint="send raw bytes or JSON", details={"supported": supported}
        ) from refused
    request = decode(await exchange.body(), StdinRequest)
    if request.data_base64 is None:
        return request, (request.data or "").encode()
    faults = Faults()
    if request.data is not None:
        faults.add("$.data_base64", "was given beside `data`; give one of the two")
    data = decoded(request.data_base64, "$.data_base64", faults)
    faults.raise_if_any()
    return request, data


def execution_id_of(exchange: Exchange) -> ExecutionId:
    """The id in the path. What does not look like one names nothing.

    Raises:
        ExecutionNotFoundError: it is no id of an execution.
    """
    text = exchange.path_parameter("execution_id")
    try:
        return ExecutionId(parse(text, prefix="exec"))
    except InvalidArgumentError as wrong:
        raise ExecutionNotFoundError(details={"execution_id": text[:64]}) from wrong
