"""The contracts as the client uses them, by signature: functions, events, and custom errors.

Tangle's own published ABI says that `JobSubmitted` indexes the job's number. It does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, List, Mapping, Optional, Tuple

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, InsufficientDataBytes
from eth_hash.auto import keccak

from faas_sdk._errors import ProtocolError

UNREADABLE = (DecodingError, InsufficientDataBytes, UnicodeDecodeError, OverflowError)
_DEPTH_MAX = 4
"""Reasons are wrapped by contracts that may lie; nobody wraps deeper than once in earnest."""


def split_types(text: str) -> Tuple[str, ...]:
    """Take a list of types apart at its outer commas."""
    found: List[str] = []
    depth, start = 0, 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append(text[start:index])
            start = index + 1
    return (*found, text[start:]) if text else ()


@dataclass(frozen=True)
class Function:
    """One function of a contract."""

    signature: str
    answer: str = ""

    def encode(self, *arguments: object) -> bytes:
        """Write a call."""
        types = split_types(self.signature[self.signature.index("(") + 1 : -1])
        return keccak(self.signature.encode())[:4] + encode(types, arguments)

    def decode(self, data: bytes) -> Tuple[Any, ...]:
        """Read what the call answered.

        Raises:
            ProtocolError: it is not of the ABI we know.
        """
        try:
            return decode(split_types(self.answer), data)
        except UNREADABLE as failure:
            raise ProtocolError(
                f"the contract's answer to {self.signature} is not of the ABI we know",
                hint="is the address right, and the contract as new as this client?",
            ) from failure


@dataclass(frozen=True)
class Event:
    """One event of a contract; `data` are the types that are not indexed."""

    signature: str
    data: str = ""

    @property
    def topic(self) -> bytes:
        """What the node's logs name it by."""
        return _topic(self.signature)

    def decode(self, data: bytes) -> Tuple[Any, ...]:
        """Read what is not indexed.

        Raises:
            ProtocolError: it is not of the ABI we know.
        """
        try:
            return decode(split_types(self.data), data)
        except UNREADABLE as failure:
            raise ProtocolError(
                f"the event {self.signature} is not of the ABI we know"
            ) from failure


@lru_cache(maxsize=None)
def _topic(signature: str) -> bytes:
    return keccak(signature.encode())


_QUOTE = "((address,uint64,uint8,uint256,uint64,uint64,uint8,bytes32),bytes,address)"


class Tangle:
    """What we ask of Tangle."""

    SUBMIT_JOB = Function("submitJob(uint64,uint8,bytes)", "uint64")
    SUBMIT_FROM_QUOTE = Function(f"submitJobFromQuote(uint64,uint8,bytes,{_QUOTE}[])", "uint64")
    GET_JOB_CALL = Function(
        "getJobCall(uint64,uint64)", "(uint8,address,uint64,uint32,bool,bool,uint256)"
    )
    GET_SERVICE = Function(
        "getService(uint64)",
        "(uint64,address,uint64,uint64,uint64,uint64,uint32,uint32,uint32,uint8,uint8,uint8,uint8)",
    )
    GET_SERVICE_OPERATORS = Function("getServiceOperators(uint64)", "address[]")
    GET_JOB_EVENT_RATE = Function("getJobEventRate(uint64,uint8)", "uint256")
    GET_OPERATOR_KEY = Function("getOperatorPublicKey(uint64,address)", "bytes")
    REQUEST_SERVICE = Function(
        "requestService(uint64,address[],bytes,address[],uint64,address,uint256,uint8)", "uint64"
    )
    TERMINATE_SERVICE = Function("terminateService(uint64)")

    BLUEPRINT_CREATED = Event(
        "BlueprintCreated(uint64,address,address,string,bytes32)", "address,string,bytes32"
    )
    JOB_SUBMITTED = Event("JobSubmitted(uint64,uint64,uint8,address,bytes)", "uint8,address,bytes")
    JOB_SUBMITTED_FROM_QUOTE = Event(
        "JobSubmittedFromQuote(uint64,uint64,uint8,address,address[],uint256,bytes)",
        "uint8,address,address[],uint256,bytes",
    )
    JOB_RESULT_SUBMITTED = Event("JobResultSubmitted(uint64,uint64,address,bytes)", "bytes")
    SERVICE_REQUESTED = Event("ServiceRequested(uint64,uint64,address,uint8)", "uint8")


class Manager:
    """What we ask of the blueprint's manager."""

    TANGLE = Function("tangle()", "address")
    INTERFACE_VERSION = Function("interfaceVersion()", "uint32")
    GET_JOB = Function(
        "getJob(uint64,uint64)", "(address,uint40,uint24,uint8,uint8,uint8,bool,bytes32)"
    )
    GET_ASSIGNED = Function("getAssignedOperator(uint64,uint64)", "address")
    OPERATORS = Function("operators(address)", "(uint32,uint32,uint64,uint64,uint40,bool,bool)")
    RESOURCE_HOLDER = Function("resourceHolder(uint64,bytes32)", "address")
    PREVIEW_OPERATOR = Function("previewOperator(uint64,uint64,bytes32)", "address")
    REASSIGN = Function("reassign(uint64,uint64)", "address")
    EXPIRE = Function("expire(uint64,uint64)")

    JOB_ASSIGNED = Event(
        "JobAssigned(uint64,uint64,address,uint8,uint8,uint40,bool)", "uint8,uint8,uint40,bool"
    )
    ACCEPTED = Event("JobResultAccepted(uint64,uint64,address,uint8,bytes32)", "uint8,bytes32")
    REJECTED = Event("JobResultRejected(uint64,uint64,address,uint8)", "uint8")
    EXPIRED = Event("JobExpired(uint64,uint64,address)")


_ERRORS = """
AggregationRequired(uint64 serviceId,uint8 jobIndex)
AlreadyApproved(uint64 requestId,address operator)
AlreadyBound(uint64 blueprintId)
BlueprintNotFound(uint64 blueprintId)
CapacityOutOfRange(uint256 capacity,uint256 maximum)
DeadlineNotReached(uint40 deadline)
DuplicateOperatorQuote(address operator)
HolderNotQuoted(uint64 serviceId,bytes32 resource,address holder)
HolderUnavailable(uint64 serviceId,bytes32 resource,address holder)
InsufficientOperators(uint32 required,uint32 provided)
InvalidJobIndex(uint8 jobIndex)
InvalidMsgValue(uint256 expected,uint256 sent)
InvalidQuoteSignature(address operator)
JobAlreadyAssigned(uint64 serviceId,uint64 callId)
JobAlreadyCompleted(uint64 serviceId,uint64 callId)
JobCallNotFound(uint64 serviceId,uint64 callId)
JobIsSticky(uint64 serviceId,uint64 callId)
JobNotPending(uint64 serviceId,uint64 callId,uint8 status)
JobQuoteInputsMismatch(address operator,bytes32 expected,bytes32 actual)
JobQuoteJobIndexMismatch(uint8 expected,uint8 quoted)
JobQuoteRequesterMismatch(address operator,address expected,address actual)
JobQuoteServiceMismatch(uint64 expected,uint64 quoted)
LengthMismatch()
ManagerRejected(address manager)
ManagerReverted(address manager,bytes reason)
NoAttemptsLeft(uint64 serviceId,uint64 callId)
NoOperatorFree(uint64 serviceId)
NoOperators()
NoQuotes()
NotHolder(address caller,address holder)
NotPermittedCaller(uint64 serviceId,address caller)
NotQuotedOperator(uint64 serviceId,uint64 callId)
NotServiceOwner(uint64 serviceId,address caller)
OnlyOwner(address caller)
OnlyTangle(address caller)
OperatorNotActive(address operator)
OperatorNotInService(uint64 serviceId,address operator)
OperatorNotRegistered(uint64 blueprintId,address operator)
QuoteAlreadyUsed(address operator)
QuoteExpired(address operator,uint64 expiry)
QuoteTimestampTooOld(address operator,uint64 timestamp,uint64 maxAge)
ResultAlreadySubmitted(uint64 serviceId,uint64 callId,address operator)
ServiceExpired(uint64 serviceId)
ServiceNotActive(uint64 serviceId)
ServiceNotFound(uint64 serviceId)
ServiceRequestAlreadyProcessed(uint64 requestId)
ServiceRequestExpiredError(uint64 requestId)
ServiceRequestNotFound(uint64 requestId)
TTLAboveMaximum(uint64 ttl,uint64 maximum)
TTLBelowMinimum(uint64 ttl,uint64 minimum)
Unauthorized()
UnknownJob(uint8 job)
"""


@dataclass(frozen=True)
class Revert:
    """A custom error: its name, and its arguments by name."""

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        given = ", ".join(f"{name}={_shown(value)}" for name, value in self.arguments.items())
        return f"{self.name}({given})"


def read_revert(data: bytes) -> Optional[Revert]:
    """Name the error in revert data, unwrapping what Tangle wraps; None for an unknown one."""
    for _ in range(_DEPTH_MAX):
        found = _named(data)
        inner = found.arguments.get("reason") if found and found.name == "ManagerReverted" else None
        if not isinstance(inner, bytes) or _named(inner) is None:
            return found
        data = inner
    return None


def errors() -> Dict[bytes, str]:
    """List the custom errors that are known, by selector."""
    return {selector: name for selector, (name, _, _) in _table().items()}


def _named(data: bytes) -> Optional[Revert]:
    entry = _table().get(data[:4])
    if entry is None:
        return None
    name, types, names = entry
    try:
        values = decode(types, data[4:])
    except UNREADABLE:
        return None
    return Revert(name, dict(zip(names, values)))


@lru_cache(maxsize=None)
def _table() -> Dict[bytes, Tuple[str, Tuple[str, ...], Tuple[str, ...]]]:
    found: Dict[bytes, Tuple[str, Tuple[str, ...], Tuple[str, ...]]] = {}
    for line in _ERRORS.split("\n"):
        name, _, rest = line.rstrip(")").partition("(")
        if not name:
            continue
        pairs = [each.split(" ") for each in rest.split(",") if each]
        types, names = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
        found[keccak(f"{name}({','.join(types)})".encode())[:4]] = (name, types, names)
    return found


def _shown(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
