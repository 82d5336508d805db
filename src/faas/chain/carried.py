"""What a `bytes` field of a job carries: the data, a reference to them, or a sealed box of them.

Data ride as they are, which every encoder does. The other forms begin with a mark; data that begin
with it by chance ride behind one of their own, so no bytes can be taken for something else.
"""

from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, InsufficientDataBytes

from faas.errors import InvalidArgumentError

MARK: Final = b"\xfffaas1"
"""No text begins with the byte 0xff."""


class Form(IntEnum):
    """The byte behind the mark."""

    PLAIN = 0
    REFERENCE = 1
    SEALED = 2


@dataclass(frozen=True, slots=True)
class Reference:
    """Bytes in an object store that the operators of a service share, by their digest."""

    store: str
    """The store as its users name it, such as `s3://bucket/jobs`."""
    sha256: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """A box that only those it is for can open (`sealing`)."""

    box: bytes


Carried = bytes | Reference | Sealed

_REFERENCE: Final = ("string", "bytes32", "uint64")
_UNREADABLE: Final = (DecodingError, InsufficientDataBytes, UnicodeDecodeError, OverflowError)


def pack(carried: Carried) -> bytes:
    """Write the field."""
    if isinstance(carried, bytes):
        return MARK + bytes([Form.PLAIN]) + carried if carried.startswith(MARK) else carried
    if isinstance(carried, Reference):
        return MARK + bytes([Form.REFERENCE]) + encode(_REFERENCE, astuple(carried))
    return MARK + bytes([Form.SEALED]) + carried.box


def unpack(field: bytes) -> Carried:
    """Read the field.

    Raises:
        InvalidArgumentError: it has the mark and is none of the forms.
    """
    if not field.startswith(MARK):
        return field
    form, rest = field[len(MARK) : len(MARK) + 1], field[len(MARK) + 1 :]
    if form == bytes([Form.PLAIN]) and rest.startswith(MARK):
        return rest
    if form == bytes([Form.SEALED]):
        return Sealed(rest)
    if form != bytes([Form.REFERENCE]):
        raise InvalidArgumentError("the field is in no form that is known")
    try:
        reference = Reference(*decode(_REFERENCE, rest))
    except _UNREADABLE as error:
        raise InvalidArgumentError("the reference does not decode") from error
    if encode(_REFERENCE, astuple(reference)) != rest:
        raise InvalidArgumentError("the reference is not canonical")
    return reference
