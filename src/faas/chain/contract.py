"""Narrow views of the contracts: only what operators and clients use, written by signature.

A signature here that differs from the committed ABI fails a test; one that differs from what is
deployed fails the operator's start-up check.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, InsufficientDataBytes
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from faas.chain.codec import JobStatus
from faas.chain.journal import CallKey
from faas.chain.rpc import LogEntry, Node
from faas.errors import ChainUnavailableError

SERVICE_ACTIVE: Final = 1
"""Of the status in `getService`."""

APPROVAL: Final = (
    "(uint64,((uint8,address),uint16)[],uint256[4],uint256[2],(uint8,bytes32,bytes32,uint64)[])"
)


def split_types(text: str) -> tuple[str, ...]:
    """Take a list of types apart at its outer commas."""
    found: list[str] = []
    depth, start = 0, 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append(text[start:index])
            start = index + 1
    return (*found, text[start:]) if text else ()


@dataclass(frozen=True, slots=True)
class Function:
    """One function of a contract."""

    signature: str
    answer: str = ""
    selector: bytes = field(init=False)
    types: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "selector", keccak(self.signature.encode())[:4])
        inner = self.signature[self.signature.index("(") + 1 : -1]
        object.__setattr__(self, "types", split_types(inner))

    def encode(self, *arguments: object) -> bytes:
        """Write a call."""
        return self.selector + encode(self.types, arguments)

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """Read what the call answered.

        Raises:
            ChainUnavailableError: it is not what our ABI says.
        """
        try:
            return decode(split_types(self.answer), data)
        except (DecodingError, InsufficientDataBytes, OverflowError) as failure:
            raise ChainUnavailableError(
                f"the contract's answer to {self.signature} is not of the ABI we know",
                hint="faas chain check",
            ) from failure


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a contract; `data` are the types that are not indexed."""

    signature: str
    data: str
    topic: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "topic", keccak(self.signature.encode()))

    def decode(self, entry: LogEntry) -> tuple[Any, ...]:
        """Read what is not indexed."""
        return decode(split_types(self.data), entry.data)


class Tangle:
    """What we ask of Tangle."""

    SUBMIT_JOB = Function("submitJob(uint64,uint8,bytes)", "uint64")
    SUBMIT_RESULT = Function("submitResult(uint64,uint64,bytes)")
    SUBMIT_RESULTS = Function("submitResults(uint64,uint64[],bytes[])")
    GET_JOB_CALL = Function(
        "getJobCall(uint64,uint64)", "(uint8,address,uint64,uint32,bool,bool,uint256)"
    )
    GET_SERVICE = Function(
        "getService(uint64)",
        "(uint64,address,uint64,uint64,uint64,uint64,uint32,uint32,uint32,uint8,uint8,uint8,uint8)",
    )
    SERVICE_COUNT = Function("serviceCount()", "uint64")
    GET_SERVICE_OPERATORS = Function("getServiceOperators(uint64)", "address[]")
    IS_SERVICE_OPERATOR = Function("isServiceOperator(uint64,address)", "bool")
    IS_REGISTERED = Function("isOperatorRegistered(uint64,address)", "bool")
    IS_PERMITTED = Function("isPermittedCaller(uint64,address)", "bool")
    REGISTER = Function("registerOperator(uint64,bytes,string,bytes)")
    REQUEST_SERVICE = Function(
        "requestService(uint64,address[],bytes,address[],uint64,address,uint256,uint8)", "uint64"
    )
    APPROVE_SERVICE = Function(f"approveService({APPROVAL})")

    JOB_SUBMITTED = Event("JobSubmitted(uint64,uint64,uint8,address,bytes)", "uint8,address,bytes")
    JOB_SUBMITTED_FROM_QUOTE = Event(
        "JobSubmittedFromQuote(uint64,uint64,uint8,address,address[],uint256,bytes)",
        "uint8,address,address[],uint256,bytes",
    )
    JOB_RESULT_SUBMITTED = Event("JobResultSubmitted(uint64,uint64,address,bytes)", "bytes")
    HOOK_FAILED = Event("ManagerHookFailed(address,bytes4,bytes)", "bytes")
    SERVICE_REQUESTED = Event("ServiceRequested(uint64,uint64,address,uint8)", "uint8")


class StatusRegistry:
    """What we tell Tangle's registry of heartbeats."""

    HEARTBEAT = Function("submitHeartbeatDirect(uint64,uint64,uint8,bytes)")
    GO_OFFLINE = Function("goOffline(uint64)")
    IS_ONLINE = Function("isOnline(uint64,address)", "bool")


class Manager:
    """What we ask of our manager."""

    GET_JOB = Function(
        "getJob(uint64,uint64)", "(address,uint40,uint24,uint8,uint8,uint8,bool,bytes32)"
    )
    GET_ASSIGNED = Function("getAssignedOperator(uint64,uint64)", "address")
    HAD_ITS_CHANCE = Function("hadItsChance(uint64,uint64,address)", "bool")
    OPERATORS = Function("operators(address)", "(uint32,uint32,uint64,uint64,uint40,bool,bool)")
    SET_CAPACITY = Function("setCapacity(uint32,bool)")
    TANGLE = Function("tangle()", "address")
    BLUEPRINT_ID = Function("blueprintId()", "uint64")
    INTERFACE_VERSION = Function("interfaceVersion()", "uint32")
    STATUS_REGISTRY = Function("statusRegistry()", "address")
    SET_STATUS_REGISTRY = Function("setStatusRegistry(address)")
    HEARTBEAT_INTERVAL = Function("getHeartbeatInterval(uint64)", "bool,uint64")
    REASSIGN = Function("reassign(uint64,uint64)", "address")

    JOB_ASSIGNED = Event(
        "JobAssigned(uint64,uint64,address,uint8,uint8,uint40,bool)", "uint8,uint8,uint40,bool"
    )
    ACCEPTED = Event("JobResultAccepted(uint64,uint64,address,uint8,bytes32)", "uint8,bytes32")
    REJECTED = Event("JobResultRejected(uint64,uint64,address,uint8)", "uint8")


@dataclass(frozen=True, slots=True)
class ChainJob:
    """A job as the manager knows it now."""

    operator: str
    deadline: int
    job: int
    status: JobStatus
    attempts: int
    sticky: bool
    result_hash: bytes

    @property
    def is_open(self) -> bool:
        """Whether a result is still wanted."""
        return self.status in (JobStatus.PENDING, JobStatus.EXPIRED)

    @property
    def is_over(self) -> bool:
        """Whether a result was accepted."""
        return self.status in (JobStatus.DONE, JobStatus.FAILED, JobStatus.TIMED_OUT)


@dataclass(frozen=True, slots=True)
class Contracts:
    """The pair of contracts on one node."""

    node: Node
    tangle: str
    manager: str

    async def ask_tangle(
        self, function: Function, *arguments: object, at: bytes | None = None
    ) -> Any:
        """Read from Tangle; the first value of the answer."""
        return await self._ask(self.tangle, function, arguments, at)

    async def ask_manager(
        self, function: Function, *arguments: object, at: bytes | None = None
    ) -> Any:
        """Read from the manager; the first value of the answer."""
        return await self._ask(self.manager, function, arguments, at)

    async def job(self, key: CallKey, *, at: bytes | None = None) -> ChainJob:
        """Look one job up; one that is not there has the status NONE."""
        found = await self.ask_manager(Manager.GET_JOB, key.service, key.call, at=at)
        operator, deadline, _window, job, status, attempts, sticky, result_hash = found
        return ChainJob(
            to_checksum_address(operator),
            deadline,
            job,
            JobStatus(status),
            attempts,
            sticky,
            result_hash,
        )

    async def services_of(self, operator: str, *, newest: int = 1000) -> list[int]:
        """Which active services of our blueprint an operator serves, of the newest ones."""
        count: int = await self.ask_tangle(Tangle.SERVICE_COUNT)
        blueprint = await self.ask_manager(Manager.BLUEPRINT_ID)
        services = range(max(0, count - newest), count)
        serves = await asyncio.gather(
            *(self.ask_tangle(Tangle.IS_SERVICE_OPERATOR, each, operator) for each in services)
        )
        found: list[int] = []
        for service in (each for each, is_ours in zip(services, serves, strict=True) if is_ours):
            told = await self.ask_tangle(Tangle.GET_SERVICE, service)
            if told[0] == blueprint and told[11] == SERVICE_ACTIVE:
                found.append(service)
        return found

    async def _ask(
        self, to: str, function: Function, arguments: tuple[object, ...], at: bytes | None
    ) -> Any:
        data = await self.node.call(to, function.encode(*arguments), at=at)
        return function.decode(data)[0]


def word(value: int) -> bytes:
    """A number as a topic."""
    return value.to_bytes(32, "big")


def address_word(address: str) -> bytes:
    """An address as a topic."""
    return bytes(12) + bytes.fromhex(address.removeprefix("0x"))


def key_of(entry: LogEntry) -> CallKey:
    """Read the call an event is about: its first two indexed fields."""
    return CallKey(int.from_bytes(entry.topics[1]), int.from_bytes(entry.topics[2]))


def operator_of(entry: LogEntry) -> str:
    """Read the operator an event is about: its third indexed field."""
    return to_checksum_address(entry.topics[3][-20:])
