"""What the contracts mean when they refuse: revert data, read by the committed ABIs.

Tangle wraps a refusal of our manager in `ManagerReverted`; the reader unwraps it, for the reason
inside is what the caller can act on. Every error becomes one of the platform's by who must act.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final, NotRequired, TypedDict, cast

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError, InsufficientDataBytes
from eth_hash.auto import keccak

from faas.errors import (
    ConflictError,
    FaasError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    WrongStateError,
)

_SELECTOR_BYTES: Final = 4
_DEPTH_MAX: Final = 4
"""Wrapped reasons come from a contract that may lie; nobody wraps deeper than once in earnest."""


class _Parameter(TypedDict):
    name: str
    type: str


class _AbiEntry(TypedDict):
    type: str
    name: NotRequired[str]
    inputs: NotRequired[list[_Parameter]]


@dataclass(frozen=True, slots=True)
class Revert:
    """One custom error: its name and its arguments by name."""

    name: str
    arguments: dict[str, object]

    def __str__(self) -> str:
        given = ", ".join(f"{name}={_shown(value)}" for name, value in self.arguments.items())
        return f"{self.name}({given})"


_CLASSES: Final[dict[str, type[FaasError]]] = {
    "NoOperatorFree": ResourceExhaustedError,
    "HolderUnavailable": UnavailableError,
    "HolderNotQuoted": InvalidArgumentError,
    "UnknownJob": InvalidArgumentError,
    "InvalidJobIndex": InvalidArgumentError,
    "InvalidMsgValue": InvalidArgumentError,
    "CapacityOutOfRange": InvalidArgumentError,
    "TimeoutOutOfRange": InvalidArgumentError,
    "InvalidOperatorKey": InvalidArgumentError,
    "QuoteAlreadyUsed": ConflictError,
    "QuoteExpired": ConflictError,
    "NotPermittedCaller": PermissionDeniedError,
    "NotServiceOwner": PermissionDeniedError,
    "NotQuotedOperator": PermissionDeniedError,
    "OperatorNotInService": PermissionDeniedError,
    "OnlyTangle": PermissionDeniedError,
    "OnlyOwner": PermissionDeniedError,
    "NotHolder": PermissionDeniedError,
    "Unauthorized": PermissionDeniedError,
    "OperatorNotActive": WrongStateError,
    "OperatorNotRegistered": WrongStateError,
    "ServiceNotActive": WrongStateError,
    "ServiceExpired": WrongStateError,
    "JobNotPending": WrongStateError,
    "JobAlreadyCompleted": WrongStateError,
    "ResultAlreadySubmitted": WrongStateError,
    "DeadlineNotReached": WrongStateError,
    "JobIsSticky": WrongStateError,
    "NoAttemptsLeft": WrongStateError,
    "AggregationRequired": WrongStateError,
    "ServiceNotFound": NotFoundError,
    "JobCallNotFound": NotFoundError,
    "BlueprintNotFound": NotFoundError,
}


def read_revert(data: bytes) -> Revert | None:
    """Name the error in revert data; None for what our contracts and Tangle do not define."""
    for _ in range(_DEPTH_MAX):
        found = _named(data)
        inner = found.arguments.get("reason") if found and found.name == "ManagerReverted" else None
        if not isinstance(inner, bytes) or _named(inner) is None:
            return found
        data = inner
    return None


def error_of_revert(data: bytes) -> FaasError:
    """Turn revert data into the platform's error of whoever must act."""
    found = read_revert(data)
    if found is None:
        return InternalError("the contract refused without a reason we know")
    raised = _CLASSES.get(found.name, ConflictError)
    return raised(f"the contract refused: {found}", details={"revert": found.name})


def _named(data: bytes) -> Revert | None:
    entry = _errors().get(data[:_SELECTOR_BYTES])
    if entry is None:
        return None
    inputs = entry.get("inputs", [])
    try:
        values = decode([each["type"] for each in inputs], data[_SELECTOR_BYTES:])
    except (DecodingError, InsufficientDataBytes, UnicodeDecodeError, OverflowError):
        return None
    names = (each["name"] for each in inputs)
    return Revert(entry.get("name", ""), dict(zip(names, values, strict=True)))


@cache
def _errors() -> dict[bytes, _AbiEntry]:
    found: dict[bytes, _AbiEntry] = {}
    for contract in ("DevTangle", "FaaSBlueprint"):
        text = (resources.files("faas.chain") / "abi" / f"{contract}.json").read_text("utf-8")
        for entry in cast("list[_AbiEntry]", json.loads(text)["abi"]):
            if entry["type"] != "error":
                continue
            types = ",".join(each["type"] for each in entry.get("inputs", []))
            found[keccak(f"{entry.get('name')}({types})".encode())[:_SELECTOR_BYTES]] = entry
    return found


def _shown(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
