"""Gives CRIU's images another user: each sandbox has a number of its own on the host.

A restored process must not share a user with another tenant's sandbox, nor with the one it was
taken from. Only the credentials in `core-*.img` name users; every number of ours takes five bytes
as a varint (`user_slots`), so they are overwritten in place and nothing else moves.
"""

import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from faas.errors import DataLossError

_HEAD_BYTES = 8
"""Two magic numbers; then each entry: its length, its bytes."""
_THREAD_CORE, _CREDS = 5, 10
"""Of `core_entry` and `thread_core_entry` in CRIU's core.proto."""
_USERS = frozenset(range(1, 9))
"""Of `creds_entry`: uid, gid, euid, egid, suid, sgid, fsuid, fsgid."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def private_copy(images: Path, target: Path, *, old: int, new: int) -> None:
    """Make a folder of images for one restore: large ones shared, those that name users its own.

    Raises:
        DataLossError: an image is not what CRIU writes.
    """
    target.mkdir(mode=0o700)
    for path in sorted(images.iterdir()):
        if path.name.startswith("core-"):
            data = bytearray(path.read_bytes())
            change_user(data, old=old, new=new)
            (target / path.name).write_bytes(data)
        elif not path.name.endswith(".log"):
            _share(path, target / path.name)


def change_user(core: bytearray, *, old: int, new: int) -> None:
    """Overwrite a user in the entries of a core image."""
    at = _HEAD_BYTES
    try:
        while at < len(core):
            (size,) = struct.unpack_from("<I", core, at)
            _in_entry(core, at + 4, at + 4 + size, old, new)
            at += 4 + size
    except (IndexError, struct.error) as error:
        raise DataLossError("an image of a process cannot be read") from error


def _in_entry(core: bytearray, start: int, end: int, old: int, new: int) -> None:
    changed, is_alive = 0, False
    for number, kind, at, stop in _fields(core, start, end):
        if (number, kind) != (_THREAD_CORE, _BYTES):
            continue
        is_alive = True
        for inner, inner_kind, inner_at, inner_stop in _fields(core, at, stop):
            if (inner, inner_kind) == (_CREDS, _BYTES):
                changed += _in_creds(core, inner_at, inner_stop, old, new)
    # One that has ended and was not waited for has no thread, and so no users.
    if is_alive and changed != len(_USERS):
        raise DataLossError("an image of a process does not name its users")


def _in_creds(core: bytearray, start: int, end: int, old: int, new: int) -> int:
    changed = 0
    for number, kind, at, stop in _fields(core, start, end):
        if number in _USERS and kind == _VARINT:
            if bytes(core[at:stop]) != _varint(old):
                raise DataLossError("a process in the image has a user of its own")
            core[at:stop] = _varint(new)
            changed += 1
    return changed


def _fields(core: bytearray, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, kind, start, end) of each field's content."""
    while at < end:
        key, at = _read_varint(core, at)
        kind = key & 7
        start = at
        if kind == _VARINT:
            _, at = _read_varint(core, at)
        elif kind == _BYTES:
            length, start = _read_varint(core, at)
            at = start + length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise DataLossError("an image of a process cannot be read")
        if at > end:
            raise DataLossError("an image of a process is cut off")
        yield key >> 3, kind, start, at


def _read_varint(core: bytearray, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = core[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if not byte & 0x80:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004  seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
