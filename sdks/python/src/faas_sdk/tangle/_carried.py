"""What a payload or an output carries: the data, a reference to them, or a sealed box of them.

Data ride as they are. The other forms begin with a mark; data that begin with it by chance ride
behind one of their own, so no bytes can be taken for something else.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Union

from eth_abi.abi import decode, encode

from faas_sdk._errors import DataLossError
from faas_sdk.tangle._abi import UNREADABLE

MARK = b"\xfffaas1"
_PLAIN, _REFERENCE, _SEALED = b"\x00", b"\x01", b"\x02"
_REFERENCE_TYPES = ("string", "bytes32", "uint64")


@dataclass(frozen=True)
class Reference:
    """Bytes in an object store that callers and operators of a service share, by their digest."""

    store: str
    """The store as its users name it, such as `s3://bucket/jobs`."""
    sha256: bytes
    size_bytes: int


@dataclass(frozen=True)
class Sealed:
    """A box that only those it is for can open: `SealedJob.open`."""

    box: bytes


Carried = Union[bytes, Reference, Sealed]


def pack(carried: Carried) -> bytes:
    """Write the field."""
    if isinstance(carried, bytes):
        return MARK + _PLAIN + carried if carried.startswith(MARK) else carried
    if isinstance(carried, Reference):
        return MARK + _REFERENCE + encode(_REFERENCE_TYPES, astuple(carried))
    return MARK + _SEALED + carried.box


def unpack(field: bytes) -> Carried:
    """Read the field.

    Raises:
        DataLossError: it has the mark and is none of the forms.
    """
    if not field.startswith(MARK):
        return field
    form, rest = field[len(MARK) : len(MARK) + 1], field[len(MARK) + 1 :]
    if form == _PLAIN and rest.startswith(MARK):
        return rest
    if form == _SEALED:
        return Sealed(rest)
    try:
        if form == _REFERENCE:
            return Reference(*decode(_REFERENCE_TYPES, rest))
    except UNREADABLE as error:
        raise DataLossError("the reference in the output does not decode") from error
    raise DataLossError("the output is in no form that is known")
