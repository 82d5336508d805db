"""Asks operators for what price they do a job; their answers are signed for `submit_from_quote`."""

from __future__ import annotations

import asyncio
import json
import time
from http import HTTPStatus
from typing import Any, Dict, Tuple, cast
from urllib.parse import urlsplit

import httpx
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from faas_sdk._connection import is_loopback
from faas_sdk._errors import ProtocolError, UnavailableError, error_from_problem
from faas_sdk.tangle._models import SignedQuote
from faas_sdk.tangle._signer import Signer, sign_message

QUOTE_SECONDS = 10.0
"""An operator that takes longer to name a price will not be quick either."""
_ANSWER_BYTES_MAX = 64 * 1024
"""A quote has less than one kilobyte; a stranger's answer is not read without end."""
_TYPES = {
    "JobQuoteDetails": [
        {"name": "requester", "type": "address"},
        {"name": "serviceId", "type": "uint64"},
        {"name": "jobIndex", "type": "uint8"},
        {"name": "price", "type": "uint256"},
        {"name": "timestamp", "type": "uint64"},
        {"name": "expiry", "type": "uint64"},
        {"name": "confidentiality", "type": "uint8"},
        {"name": "inputsHash", "type": "bytes32"},
    ]
}


class QuoteRequest:
    """Who wants which job done."""

    def __init__(
        self,
        signer: Signer,
        *,
        chain_id: int,
        tangle: str,
        service_id: int,
        job: int,
        inputs: bytes,
    ) -> None:
        self._inputs_hash = keccak(inputs)
        self._facts = (chain_id, tangle, service_id, job)
        self._signer = signer

    async def ask(self, url: str) -> SignedQuote:
        """Ask one operator.

        Raises:
            UnavailableError: it does not answer.
            ProtocolError: its answer is no quote for this job that Tangle would take.
            FaaSError: it refuses; the class says who must act.
        """
        try:
            status, body = await asyncio.wait_for(self._post(url), QUOTE_SECONDS)
        except (httpx.HTTPError, asyncio.TimeoutError) as failure:
            said = str(failure) or "it takes too long"
            raise UnavailableError(f"the operator at {url} gives no quote: {said}") from failure
        try:
            found = cast("Dict[str, Any]", json.loads(body))
            if status >= HTTPStatus.BAD_REQUEST:
                raise error_from_problem(status, found)
            quote = _quote(found)
        except (ValueError, KeyError, TypeError, AttributeError) as failure:
            raise ProtocolError(
                f"the operator at {url} answers otherwise than a quote"
            ) from failure
        if problem := self._problem_of(quote):
            raise ProtocolError(f"the quote of the operator at {url} {problem}")
        return quote

    async def _post(self, url: str) -> Tuple[int, bytes]:
        trust_env = not is_loopback(urlsplit(url).hostname or "")
        address = url.rstrip("/") + "/quote"
        body = bytearray()
        async with (
            httpx.AsyncClient(timeout=QUOTE_SECONDS, trust_env=trust_env) as client,
            client.stream("POST", address, json=self._body()) as answer,
        ):
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _ANSWER_BYTES_MAX:
                    raise ProtocolError(f"the operator at {url} answers without end")
            return answer.status_code, bytes(body)

    def _problem_of(self, quote: SignedQuote) -> str:
        """Say why Tangle would refuse it; a bad one among many would spoil a submission."""
        _chain_id, _tangle, service_id, job = self._facts
        if quote.requester.lower() != self._signer.address.lower():
            return "is for another caller"
        wanted = (service_id, job, self._inputs_hash)
        if (quote.service_id, quote.job_id, quote.inputs_hash) != wanted:
            return "is for another job"
        if quote.expiry <= time.time():
            return "has expired"
        return "" if self._signer_of(quote) == quote.operator else "was not signed by it"

    def _signer_of(self, quote: SignedQuote) -> str:
        chain_id, tangle, _service_id, _job = self._facts
        details = quote.as_tuple()[0]
        names = (field["name"] for field in _TYPES["JobQuoteDetails"])
        domain = {
            "name": "TangleQuote",
            "version": "1",
            "chainId": chain_id,
            "verifyingContract": tangle,
        }
        try:
            message = encode_typed_data(domain, _TYPES, dict(zip(names, details)))
            return str(cast("Any", Account).recover_message(message, signature=quote.signature))
        except Exception:  # noqa: BLE001  whatever a stranger sent that is no signature
            return ""

    def _body(self) -> Dict[str, object]:
        chain_id, tangle, service_id, job = self._facts
        timestamp = int(time.time())
        digest = keccak(
            encode(
                ("bytes32", "uint64", "address", "uint64", "uint8", "bytes32", "uint64"),
                (
                    *(keccak(b"FaaSQuoteRequest.v1"), chain_id, tangle, service_id, job),
                    *(self._inputs_hash, timestamp),
                ),
            )
        )
        return {
            "requester": self._signer.address,
            "service_id": service_id,
            "job_index": job,
            "inputs_hash": "0x" + self._inputs_hash.hex(),
            "timestamp": timestamp,
            "signature": "0x" + sign_message(self._signer, digest).hex(),
        }


def _quote(found: Dict[str, Any]) -> SignedQuote:
    details = found["details"]
    return SignedQuote(
        requester=str(to_checksum_address(details["requester"])),
        service_id=details["serviceId"],
        job_id=details["jobIndex"],
        price=int(details["price"]),
        timestamp=details["timestamp"],
        expiry=details["expiry"],
        confidentiality=details["confidentiality"],
        inputs_hash=bytes.fromhex(details["inputsHash"][2:]),
        signature=bytes.fromhex(found["signature"][2:]),
        operator=str(to_checksum_address(found["operator"])),
    )
