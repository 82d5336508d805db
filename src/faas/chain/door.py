"""The operator's HTTP door: `POST /quote` and `GET /info` for callers, metrics and health for its
keeper. Two ports, for the one faces strangers and the other must not.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

import msgspec
from eth_utils.address import is_address, to_checksum_address
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from faas.chain.quote_book import Quote
from faas.chain.quotes import CONFIDENTIALITY, QuoteDesk, Wish
from faas.errors import FaasError, InvalidArgumentError, TooLargeError

_BODY_BYTES_MAX: Final = 4096
_BODY_SECONDS: Final = 10
"""To send so little: who takes longer holds a connection for its own sake."""
_HASH_BYTES: Final = 32
_STATUS: Final = {
    "invalid_argument": 400,
    "permission_denied": 403,
    "wrong_state": 409,
    "too_large": 413,
    "resource_exhausted": 429,
    "unsupported": 501,
    "chain_unavailable": 503,
    "unavailable": 503,
}


class QuoteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /quote`; bytes are in hexadecimal."""

    requester: str
    service_id: int
    job_index: int
    inputs_hash: str
    timestamp: int
    signature: str


def keeper_app(metrics: Callable[[], str], problem: Callable[[], str | None]) -> Starlette:
    """What the operator's keeper asks, on loopback."""

    async def tell_metrics(_: Request) -> Response:
        return PlainTextResponse(metrics(), media_type="text/plain; version=0.0.4")

    async def tell_health(_: Request) -> Response:
        found = problem()
        return JSONResponse(
            {"status": "unhealthy" if found else "healthy", "problem": found},
            status_code=503 if found else 200,
        )

    return Starlette(
        routes=[
            Route("/metrics", tell_metrics),
            Route("/health", tell_health),
            Route("/", tell_metrics),
        ]
    )


def quote_app(desk: QuoteDesk, info: Callable[[], dict[str, Any]]) -> Starlette:
    """What callers ask."""

    async def tell_info(_: Request) -> Response:
        return JSONResponse(info())

    async def quote(request: Request) -> Response:
        try:
            found = await desk.quote(_wish(await _body(request)))
            return JSONResponse(_told(found, desk.operator))
        except FaasError as failure:
            return _problem(failure)

    return Starlette(routes=[Route("/info", tell_info), Route("/quote", quote, methods=["POST"])])


async def _body(request: Request) -> QuoteRequest:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > _BODY_BYTES_MAX:
                    raise TooLargeError(f"the body is above {_BODY_BYTES_MAX} bytes")
    except TimeoutError:
        raise InvalidArgumentError(f"no body within {_BODY_SECONDS} seconds") from None
    try:
        return msgspec.json.decode(bytes(body), type=QuoteRequest)
    except msgspec.MsgspecError as failure:
        raise InvalidArgumentError(f"the body: {failure}") from failure


def _wish(asked: QuoteRequest) -> Wish:
    if not is_address(asked.requester):
        raise InvalidArgumentError("requester is no address")
    inputs_hash = _hex(asked.inputs_hash, "inputs_hash")
    if len(inputs_hash) != _HASH_BYTES:
        raise InvalidArgumentError("inputs_hash has 32 bytes")
    for name in ("service_id", "job_index", "timestamp"):
        most = 255 if name == "job_index" else 2**63
        if not 0 <= getattr(asked, name) <= most:
            raise InvalidArgumentError(f"{name} is out of range")
    return Wish(
        requester=to_checksum_address(asked.requester),
        service=asked.service_id,
        job=asked.job_index,
        inputs_hash=inputs_hash,
        timestamp=asked.timestamp,
        signature=_hex(asked.signature, "signature"),
    )


def _told(quote: Quote, operator: str) -> dict[str, object]:
    return {
        "details": {
            "requester": quote.requester,
            "serviceId": quote.service,
            "jobIndex": quote.job,
            # As a string: not every JSON reader keeps a number of 256 bits whole.
            "price": str(quote.price),
            "timestamp": quote.timestamp,
            "expiry": quote.expiry,
            "confidentiality": CONFIDENTIALITY,
            "inputsHash": "0x" + quote.inputs_hash.hex(),
        },
        "signature": "0x" + quote.signature.hex(),
        "operator": operator,
    }


def _hex(text: str, name: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise InvalidArgumentError(f"{name} is not hexadecimal") from None


def _problem(failure: FaasError) -> Response:
    status = _STATUS.get(failure.code, 500)
    told = {
        "code": failure.code,
        "title": failure.message,
        "hint": failure.hint,
        "retryable": failure.retryable,
    }
    after = str(math.ceil(failure.retry_after_seconds or 1))
    headers = {"retry-after": after} if failure.retryable else None
    return JSONResponse(
        told, status_code=status, headers=headers, media_type="application/problem+json"
    )
