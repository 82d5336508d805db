"""CRIU's image files: a head, then entries: a length, and a message of protocol buffers.

Only as much as is needed to find and change a few fields; nothing that is read is believed.
"""

import struct
from collections.abc import Iterator

from faas.errors import DataLossError

_HEAD_BYTES = 8
"""Two magic numbers; then each entry: its length, its bytes."""
VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5


def entries(image: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Yield where each entry's message starts and ends.

    Raises:
        DataLossError: the file is not what CRIU writes.
    """
    at = _HEAD_BYTES
    while at < len(image):
        if at + 4 > len(image):
            raise DataLossError("an image of a process is cut off")
        (size,) = struct.unpack_from("<I", image, at)
        if at + 4 + size > len(image):
            raise DataLossError("an image of a process is cut off")
        yield at + 4, at + 4 + size
        at += 4 + size


def numbers(image: bytes | bytearray, start: int, end: int) -> dict[int, int]:
    """Read the plain numbers of a message; the last of each counts."""
    return {
        number: _read_varint(image, at)[0]
        for number, kind, at, _ in fields(image, start, end)
        if kind == VARINT
    }


def with_head(image: bytes | bytearray, messages: list[bytes]) -> bytes:
    """Make the file anew with other messages."""
    packed = [struct.pack("<I", len(message)) + message for message in messages]
    return bytes(image[:_HEAD_BYTES]) + b"".join(packed)


def fields(image: bytes | bytearray, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, kind, start, end) of each field's content."""
    while at < end:
        key, at = _read_varint(image, at)
        kind = key & 7
        start = at
        if kind == VARINT:
            _, at = _read_varint(image, at)
        elif kind == BYTES:
            length, start = _read_varint(image, at)
            at = start + length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise DataLossError("an image of a process cannot be read")
        if at > end:
            raise DataLossError("an image of a process is cut off")
        yield key >> 3, kind, start, at


def _read_varint(image: bytes | bytearray, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(image):
            raise DataLossError("an image of a process is cut off")
        byte = image[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if not byte & 0x80:
            return value, at
        shift += 7


def varint(value: int) -> bytes:
    """Pack a number as protocol buffers do."""
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004  seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
