"""The pair of contracts on one node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List

from faas_sdk.tangle._abi import Function, Manager, Tangle
from faas_sdk.tangle._codec import JobStatus
from faas_sdk.tangle._models import Job, OperatorState, ServiceCall
from faas_sdk.tangle._node import Node, address_of

NOBODY = "0x" + "0" * 40
STATUS_ACTIVE = 1
PRICING_EVENT_DRIVEN = 2


@dataclass(frozen=True)
class Service:
    """A service, as far as a user needs it."""

    blueprint_id: int
    is_active: bool
    is_paid_per_job: bool


@dataclass(frozen=True)
class Contracts:
    """Tangle, and the manager of our blueprint."""

    node: Node
    tangle: str
    manager: str

    async def service(self, service_id: int) -> Service:
        """Look a service up."""
        found = await self.ask_tangle(Tangle.GET_SERVICE, service_id)
        return Service(found[0], found[11] == STATUS_ACTIVE, found[10] == PRICING_EVENT_DRIVEN)

    async def operators(self, service_id: int) -> List[str]:
        """List the operators of a service."""
        found = await self.ask_tangle(Tangle.GET_SERVICE_OPERATORS, service_id)
        return [_address(each) for each in found]

    async def job(self, service_id: int, call_id: int) -> Job:
        """Look one job up; one that is not there has the status NONE."""
        found = await self.ask_manager(Manager.GET_JOB, service_id, call_id)
        operator, deadline, _window, job, status, attempts, sticky, result_hash = found
        return Job(
            service_id=service_id,
            call_id=call_id,
            job_id=job,
            operator=_address(operator),
            deadline=deadline,
            status=JobStatus(status),
            attempts=attempts,
            is_sticky=sticky,
            result_hash=result_hash,
        )

    async def call(self, service_id: int, call_id: int) -> ServiceCall:
        """Look one job up at Tangle; an unknown one is all zeros."""
        found = await self.ask_tangle(Tangle.GET_JOB_CALL, service_id, call_id)
        return ServiceCall(found[0], _address(found[1]), *found[2:])

    async def operator(self, address: str) -> OperatorState:
        """Look one operator up."""
        found = await self.ask_manager(Manager.OPERATORS, address)
        return OperatorState(address, *found)

    async def next_operator(self, service_id: int, call_id: int) -> str:
        """Say who would get a plain job with this number now; nobody's address: nobody."""
        return _address(
            await self.ask_manager(Manager.PREVIEW_OPERATOR, service_id, call_id, bytes(32))
        )

    async def ask_tangle(self, function: Function, *arguments: object) -> Any:
        """Read from Tangle; the first value of the answer."""
        data = await self.node.call(self.tangle, function.encode(*arguments))
        return function.decode(data)[0]

    async def ask_manager(self, function: Function, *arguments: object) -> Any:
        """Read from the manager; the first value of the answer."""
        data = await self.node.call(self.manager, function.encode(*arguments))
        return function.decode(data)[0]


def _address(text: str) -> str:
    return address_of(bytes.fromhex(text[2:]))
