"""Asks operators for what price they do a job; their answers are signed for `submit_from_quote`."""

from __future__ import annotations

import time
from typing import Any, Dict, cast
from urllib.parse import urlsplit

import httpx
from eth_abi.abi import encode
from eth_hash.auto import keccak

from faas_sdk._connection import is_loopback
from faas_sdk._errors import FaaSError, ProtocolError, UnavailableError, error_from_problem
from faas_sdk.tangle._models import SignedQuote
from faas_sdk.tangle._signer import Signer, sign_message

QUOTE_SECONDS = 10.0
"""An operator that takes longer to name a price will not be quick either."""


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
            FaaSError: it refuses; the class says who must act.
        """
        trust_env = not is_loopback(urlsplit(url).hostname or "")
        try:
            async with httpx.AsyncClient(timeout=QUOTE_SECONDS, trust_env=trust_env) as client:
                answer = await client.post(url.rstrip("/") + "/quote", json=self._body())
        except httpx.HTTPError as failure:
            raise UnavailableError(f"the operator at {url} gives no quote: {failure}") from failure
        try:
            found = cast("Dict[str, Any]", answer.json())
            if answer.is_error:
                raise self._refusal(answer.status_code, found)
            return _quote(found)
        except (ValueError, KeyError, TypeError) as failure:
            raise ProtocolError(
                f"the operator at {url} answers otherwise than a quote"
            ) from failure

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

    @staticmethod
    def _refusal(status: int, found: Dict[str, Any]) -> FaaSError:
        return error_from_problem(status, found)


def _quote(found: Dict[str, Any]) -> SignedQuote:
    details = found["details"]
    return SignedQuote(
        requester=details["requester"],
        service_id=details["serviceId"],
        job_id=details["jobIndex"],
        price=int(details["price"]),
        timestamp=details["timestamp"],
        expiry=details["expiry"],
        confidentiality=details["confidentiality"],
        inputs_hash=bytes.fromhex(details["inputsHash"][2:]),
        signature=bytes.fromhex(found["signature"][2:]),
        operator=found["operator"],
    )
