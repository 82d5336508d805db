"""Job calls by number and bytes: submit, look at, wait for, pass on."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, AsyncIterator, Dict, List, Optional, Sequence, Union

from eth_abi.abi import encode
from eth_hash.auto import keccak

from faas_sdk._errors import (
    FaaSError,
    IdempotencyConflictError,
    InvalidArgumentError,
    PermissionDeniedError,
    ProtocolError,
)
from faas_sdk.tangle._abi import Function, Manager, Tangle
from faas_sdk.tangle._codec import JobCall
from faas_sdk.tangle._contracts import NOBODY, Contracts, Service
from faas_sdk.tangle._errors import JobNotFoundError, QuoteRefusedError, ServiceNotFoundError
from faas_sdk.tangle._handle import JobHandle
from faas_sdk.tangle._models import (
    Job,
    JobEvent,
    JobResult,
    OperatorState,
    ServiceCall,
    SignedQuote,
)
from faas_sdk.tangle._node import Receipt
from faas_sdk.tangle._quotes import QuoteRequest
from faas_sdk.tangle._sender import Sender
from faas_sdk.tangle._settlement import Settlements
from faas_sdk.tangle._submissions import Submission
from faas_sdk.tangle._watch import watch

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    from faas_sdk.tangle._sealing import SealedJob

    class SubmitOptions(TypedDict, total=False):
        """How a job is submitted."""

        service_id: int
        """Which service; default: the client's."""
        idempotency_key: str
        """Submitting again with the same key gives the same job call."""
        value: int
        """Wei to pay; default: what the service asks for a job of this kind."""


_BYTES_MAX = 128 * 1024
"""Nodes take no larger transaction."""


@dataclass(frozen=True)
class CallSettings:
    """How calls are made."""

    service_id: Optional[int]
    submit_seconds: float


class JobCalls:
    """What can be done with job calls, on one pair of contracts."""

    def __init__(
        self,
        contracts: Contracts,
        sender: Optional[Sender],
        settlements: Settlements,
        settings: CallSettings,
    ) -> None:
        self.contracts = contracts
        self.settlements = settlements
        self._sender = sender
        self._settings = settings
        self._services: Dict[int, Service] = {}

    async def submit_job(
        self,
        call: Union[JobCall, int],
        inputs: Optional[bytes] = None,
        **options: Unpack[SubmitOptions],
    ) -> JobHandle:
        """Submit a job, and return as soon as it is in a block.

        Raises:
            ContractError: Tangle or the manager refused; its class says who must act.
        """
        job, data = _job_of(call, inputs)
        service_id = self.service_of(options.get("service_id"))
        value = options.get("value")
        if value is None:
            value = await self._price(service_id, job)
        submission = Submission(
            options.get("idempotency_key") or uuid.uuid4().hex,
            self.contracts.tangle,
            Tangle.SUBMIT_JOB.encode(service_id, job, data),
            value,
        )
        return await self._submitted(submission, service_id, job, data)

    async def found_again(
        self, call: JobCall, idempotency_key: str, *, service_id: Optional[int] = None
    ) -> Optional[JobHandle]:
        """Take up what was submitted under this key, plainly or by quote; None when nothing was.

        Raises:
            IdempotencyConflictError: the key was used for another job.
        """
        known = self._require_sender().known(idempotency_key)
        if known is None:
            return None
        job, data = _job_of(call, None)
        service = self.service_of(service_id)
        is_same_place = known.data[4:68] == encode(("uint64", "uint8"), (service, job))
        if not is_same_place or data not in known.data:
            raise IdempotencyConflictError(
                f"the key {idempotency_key!r} was used for another submission",
                hint="use a new key for a new submission",
            )
        wanted = replace(known, to=self.contracts.tangle)
        try:
            return await self._submitted(wanted, service, job, data)
        except QuoteRefusedError:
            # It never came into a block, and never will: its time is over.
            self._require_sender().forget(idempotency_key)
            return None

    async def submit_from_quote(
        self,
        call: Union[JobCall, int],
        quotes: Sequence[SignedQuote],
        inputs: Optional[bytes] = None,
        **options: Unpack[SubmitOptions],
    ) -> JobHandle:
        """Submit a job for the price that operators have signed; one of them gets it.

        Raises:
            ContractError: Tangle or the manager refused; its class says who must act.
        """
        job, data = _job_of(call, inputs)
        service_id = self.service_of(options.get("service_id"))
        self._check_quotes(quotes, service_id, job, data)
        signed = [quote.as_tuple() for quote in quotes]
        submission = Submission(
            options.get("idempotency_key") or uuid.uuid4().hex,
            self.contracts.tangle,
            Tangle.SUBMIT_FROM_QUOTE.encode(service_id, job, data, signed),
            options.get("value", sum(quote.price for quote in quotes)),
        )
        return await self._submitted(submission, service_id, job, data)

    async def quote(
        self,
        call: Union[JobCall, int],
        urls: Sequence[str],
        inputs: Optional[bytes] = None,
        *,
        service_id: Optional[int] = None,
    ) -> List[SignedQuote]:
        """Ask operators for the price of a job; the cheapest first, those that refuse left out.

        Raises:
            FaaSError: all refused; it is what the first said.
        """
        job, data = _job_of(call, inputs)
        node = self.contracts.node
        request = QuoteRequest(
            self._require_sender().signer,
            chain_id=await node.chain_id(),
            tangle=self.contracts.tangle,
            service_id=self.service_of(service_id),
            job=job,
            inputs=data,
        )
        found = await asyncio.gather(*(request.ask(url) for url in urls), return_exceptions=True)
        quotes = [each for each in found if isinstance(each, SignedQuote)]
        for each in found:
            if isinstance(each, BaseException) and (not quotes or not isinstance(each, FaaSError)):
                raise each
        return sorted(quotes, key=lambda quote: quote.price)

    async def seal(self, call: JobCall, *, service_id: Optional[int] = None) -> SealedJob:
        """Seal environment, payload and output: the service's operators alone read them."""
        from faas_sdk.tangle._sealing import Place, seal_job  # noqa: PLC0415  slow to import

        service = self.service_of(service_id)
        blueprint = (await self.contracts.service(service)).blueprint_id
        keys = [
            await self.contracts.ask_tangle(Tangle.GET_OPERATOR_KEY, blueprint, operator)
            for operator in await self.contracts.operators(service)
        ]
        chain_id = await self.contracts.node.chain_id()
        caller = self._require_sender().address
        return seal_job(call, Place(chain_id, self.contracts.manager, service, caller), keys)

    def job(self, call_id: int, *, service_id: Optional[int] = None) -> JobHandle:
        """Take up a job that was submitted before, by this program or another."""
        return JobHandle(self, service_id=self.service_of(service_id), call_id=call_id)

    async def get_job_result(
        self, call_id: int, *, service_id: Optional[int] = None
    ) -> Optional[JobResult]:
        """Read the result of a job; None while it has none."""
        return await self.settlements.find((self.service_of(service_id), call_id))

    async def get_assigned_operator(self, call_id: int, *, service_id: Optional[int] = None) -> str:
        """Say which operator has the job, or had it when it ended.

        Raises:
            JobNotFoundError: the service has no such call.
        """
        return (await self.get_job(call_id, service_id=service_id)).operator

    async def get_job(self, call_id: int, *, service_id: Optional[int] = None) -> Job:
        """Look at a job as the manager has it.

        Raises:
            JobNotFoundError: the service has no such call.
        """
        service = self.service_of(service_id)
        job = await self.contracts.job(service, call_id)
        if job.operator == NOBODY:
            raise JobNotFoundError(f"service {service} has no job call {call_id}")
        return job

    async def get_job_call(self, call_id: int, *, service_id: Optional[int] = None) -> ServiceCall:
        """Look at a job as Tangle has it.

        Raises:
            JobNotFoundError: the service has no such call.
        """
        service = self.service_of(service_id)
        found = await self.contracts.call(service, call_id)
        if found.caller == NOBODY:
            raise JobNotFoundError(f"service {service} has no job call {call_id}")
        return found

    async def get_operators(self, *, service_id: Optional[int] = None) -> List[OperatorState]:
        """List the operators of the service, with their load and capacity."""
        addresses = await self.contracts.operators(self.service_of(service_id))
        return [await self.contracts.operator(address) for address in addresses]

    def watch_jobs(
        self, *, service_id: Optional[int] = None, from_block: Optional[int] = None
    ) -> AsyncIterator[JobEvent]:
        """Follow what happens to the jobs of a service, from now on or from a block.

        After a reorg, what did not happen comes again with `is_removed`, and then what did.
        """
        return watch(self.contracts, self.service_of(service_id), from_block=from_block)

    async def reassign(self, call_id: int, *, service_id: Optional[int] = None) -> str:
        """Pass a job on whose operator did not answer in time; returns who has it now.

        Raises:
            DeadlineNotReachedError: it still has time.
            JobCannotMoveError: the job is on a resource, or had all its attempts.
        """
        service = self.service_of(service_id)
        receipt = await self._send(self.contracts.manager, Manager.REASSIGN, service, call_id)
        return self.assigned_in(receipt)

    async def expire(self, call_id: int, *, service_id: Optional[int] = None) -> None:
        """Give back the operator's slot of a job that nobody will answer."""
        service = self.service_of(service_id)
        await self._send(self.contracts.manager, Manager.EXPIRE, service, call_id)

    async def request_service(
        self,
        blueprint_id: int,
        operators: Sequence[str],
        *,
        permitted_callers: Sequence[str] = (),
        ttl_seconds: int = 0,
    ) -> int:
        """Ask operators for a service; active when all have approved. Returns the request's id."""
        arguments = (blueprint_id, operators, b"", permitted_callers, ttl_seconds, NOBODY, 0, 0)
        receipt = await self._send(self.contracts.tangle, Tangle.REQUEST_SERVICE, *arguments)
        for entry in receipt.logs:
            if entry.topics[0] == Tangle.SERVICE_REQUESTED.topic:
                return entry.number(1)
        raise ProtocolError("Tangle did not say the number of the request")

    def service_of(self, given: Optional[int]) -> int:
        """Say which service is meant.

        Raises:
            InvalidArgumentError: neither the call nor the client says.
        """
        found = self._settings.service_id if given is None else given
        if found is None:
            raise InvalidArgumentError(
                "which service?", hint="pass service_id=, or give it to the client"
            )
        return found

    def call_id_of(self, receipt: Receipt) -> int:
        """Read the call's number from the submission's receipt."""
        wanted = (Tangle.JOB_SUBMITTED.topic, Tangle.JOB_SUBMITTED_FROM_QUOTE.topic)
        for entry in receipt.logs:
            is_ours = entry.address.lower() == self.contracts.tangle.lower()
            if is_ours and entry.topics and entry.topics[0] in wanted:
                return entry.number(2)
        raise ProtocolError(
            "the transaction submitted no job", hint="is the contract one of Tangle's ABI 0.19?"
        )

    def assigned_in(self, receipt: Receipt) -> str:
        """Read from a receipt to whom the manager gave the job then."""
        for entry in receipt.logs:
            is_ours = entry.address.lower() == self.contracts.manager.lower()
            if is_ours and entry.topics and entry.topics[0] == Manager.JOB_ASSIGNED.topic:
                return entry.account(3)
        raise ProtocolError("the manager did not say who has the job")

    async def mined(self, submission: Submission) -> Receipt:
        """Bring a submission onto the chain, or find it there."""
        return await self._require_sender().send(
            submission, confirmations=1, seconds=self._settings.submit_seconds
        )

    def _require_sender(self) -> Sender:
        if self._sender is None:
            raise PermissionDeniedError(
                "this client has no key, and can only look", hint="pass signer= to the client"
            )
        return self._sender

    @staticmethod
    def _check_quotes(
        quotes: Sequence[SignedQuote], service_id: int, job: int, inputs: bytes
    ) -> None:
        """Pay only what was asked for: an operator may answer with a quote for something else."""
        wanted = (service_id, job, keccak(inputs))
        if any((q.service_id, q.job_id, q.inputs_hash) != wanted for q in quotes):
            raise InvalidArgumentError("a quote is of another job than the one submitted")

    async def _submitted(
        self, submission: Submission, service_id: int, job: int, inputs: bytes
    ) -> JobHandle:
        if len(submission.data) > _BYTES_MAX:
            raise InvalidArgumentError(f"nodes take no transaction over {_BYTES_MAX} bytes")
        receipt = await self.mined(submission)
        return JobHandle(
            self,
            service_id=service_id,
            call_id=self.call_id_of(receipt),
            job_id=job,
            inputs_hash=keccak(inputs),
            submission=submission,
            receipt=receipt,
        )

    async def _send(self, to: str, function: Function, *arguments: object) -> Receipt:
        return await self.mined(Submission(uuid.uuid4().hex, to, function.encode(*arguments), 0))

    async def _price(self, service_id: int, job: int) -> int:
        service = self._services.get(service_id)
        if service is None:
            service = await self.contracts.service(service_id)
            if not service.is_active and service.blueprint_id == 0:
                await self._require_service(service_id)
            self._services[service_id] = service
        if not service.is_paid_per_job:
            return 0
        return int(
            await self.contracts.ask_tangle(Tangle.GET_JOB_EVENT_RATE, service.blueprint_id, job)
        )

    async def _require_service(self, service_id: int) -> None:
        if not await self.contracts.operators(service_id):
            raise ServiceNotFoundError(f"there is no service {service_id}")


def _job_of(call: Union[JobCall, int], inputs: Optional[bytes]) -> tuple[int, bytes]:
    if isinstance(call, JobCall):
        if inputs is not None:
            raise InvalidArgumentError("a JobCall has its inputs in itself")
        return int(call.kind), call.encode()
    if inputs is None:
        raise InvalidArgumentError("a job by number needs its inputs as bytes")
    return call, inputs
