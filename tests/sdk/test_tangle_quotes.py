"""Quotes are asked for with a signature; what a stranger answers is looked at before its use."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from aiohttp import web
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from eth_hash.auto import keccak

from faas_sdk import PermissionDeniedError, ProtocolError, UnavailableError
from faas_sdk.tangle import _quotes
from faas_sdk.tangle._quotes import QuoteRequest
from faas_sdk.tangle._signer import LocalSigner

CHAIN = 31337
TANGLE = "0x" + "00" * 19 + "17"
USER = Account.from_key("0x" + "11" * 32)
OPERATOR = Account.from_key("0x" + "22" * 32)
STRANGER = Account.from_key("0x" + "33" * 32)
INPUTS = b"inputs"


class Operator:
    """Answers as it is told to."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.signs = OPERATOR
        self.changes: dict = {}
        self.answer: web.StreamResponse | None = None
        self.is_endless = False

    @contextlib.asynccontextmanager
    async def run(self):
        app = web.Application()
        app.router.add_post("/quote", self._quote)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        finally:
            await runner.cleanup()

    async def _quote(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.asked.append(asked)
        if self.is_endless:
            endless = web.StreamResponse()
            await endless.prepare(request)
            with contextlib.suppress(ConnectionError):
                for _ in range(1000):
                    await endless.write(b" " * 4096)
            return endless
        if self.answer is not None:
            return self.answer
        details = {
            "requester": asked["requester"],
            "serviceId": asked["service_id"],
            "jobIndex": asked["job_index"],
            "price": 700,
            "timestamp": int(time.time()),
            "expiry": int(time.time()) + 60,
            "confidentiality": 0,
            "inputsHash": bytes.fromhex(asked["inputs_hash"][2:]),
        } | self.changes
        domain = {
            "name": "TangleQuote",
            "version": "1",
            "chainId": CHAIN,
            "verifyingContract": TANGLE,
        }
        signed = self.signs.sign_message(encode_typed_data(domain, _quotes._TYPES, details))
        told = details | {"price": "700", "inputsHash": "0x" + details["inputsHash"].hex()}
        return web.json_response(
            {
                "details": told,
                "signature": "0x" + bytes(signed.signature).hex(),
                "operator": OPERATOR.address,
            }
        )


def _request() -> QuoteRequest:
    return QuoteRequest(
        LocalSigner(USER),
        chain_id=CHAIN,
        tangle=TANGLE,
        service_id=3,
        job=1,
        inputs=INPUTS,
    )


async def test_request_is_signed_by_its_requester_for_this_chain_service_and_job() -> None:
    operator = Operator()
    async with operator.run() as url:
        quote = await _request().ask(url)
    assert (quote.operator, quote.price) == (OPERATOR.address, 700)
    [asked] = operator.asked
    digest = keccak(
        encode(
            ("bytes32", "uint64", "address", "uint64", "uint8", "bytes32", "uint64"),
            (
                *(keccak(b"FaaSQuoteRequest.v1"), CHAIN, TANGLE, 3, 1, keccak(INPUTS)),
                asked["timestamp"],
            ),
        )
    )
    signer = Account.recover_message(encode_defunct(digest), signature=asked["signature"])
    assert signer == asked["requester"] == USER.address
    assert abs(asked["timestamp"] - time.time()) < 30


@pytest.mark.parametrize(
    "changes",
    [
        {"requester": STRANGER.address},
        {"serviceId": 4},
        {"jobIndex": 2},
        {"inputsHash": bytes(32)},
        {"expiry": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_quote_for_something_else_is_left_out(changes: dict) -> None:
    operator = Operator()
    operator.changes = changes
    async with operator.run() as url:
        with pytest.raises(ProtocolError):
            await _request().ask(url)


async def test_quote_that_another_signed_is_left_out() -> None:
    operator = Operator()
    operator.signs = STRANGER
    async with operator.run() as url:
        with pytest.raises(ProtocolError, match="not signed"):
            await _request().ask(url)


@pytest.mark.parametrize("body", ["", "[]", "null", "{}", '{"details": 3}'])
async def test_answer_that_is_no_quote_is_told(body: str) -> None:
    operator = Operator()
    operator.answer = web.Response(text=body)
    async with operator.run() as url:
        with pytest.raises(ProtocolError):
            await _request().ask(url)


async def test_refusal_is_the_operators_word() -> None:
    operator = Operator()
    operator.answer = web.json_response(
        {"code": "permission_denied", "title": "not you"}, status=403
    )
    async with operator.run() as url:
        with pytest.raises(PermissionDeniedError, match="not you"):
            await _request().ask(url)


async def test_answer_without_end_is_not_read_on() -> None:
    operator = Operator()
    operator.is_endless = True
    async with operator.run() as url:
        with pytest.raises(ProtocolError, match="without end"):
            await _request().ask(url)


async def test_operator_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is in time, and all of them together are not."""
    monkeypatch.setattr(_quotes, "QUOTE_SECONDS", 0.4)
    ended = asyncio.Event()

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await _request().ask(f"http://127.0.0.1:{port}")
    assert time.monotonic() - began < 5
    server.close()
    await ended.wait()
