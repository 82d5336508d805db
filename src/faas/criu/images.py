"""Gives CRIU's images another user: each sandbox has a number of its own on the host.

A restored process must not share a user with another tenant's sandbox, nor with the one it was
taken from. Credentials in `core-*.img` name users, and so do terminals (`terminal_images`). Every
number of ours takes five bytes as a varint (`user_slots`), so they are overwritten in place and
nothing else moves.
"""

import os
import shutil
from pathlib import Path

from faas.criu.image_format import BYTES, VARINT, entries, fields, varint
from faas.errors import DataLossError

TERMINALS, SESSIONS = "tty-info.img", "sessions"
"""Names users too, and more; and a file of ours. Both are written anew for each restore."""
_THREAD_CORE, _CREDS = 5, 10
"""Of `core_entry` and `thread_core_entry` in CRIU's core.proto."""
_USERS = frozenset(range(1, 9))
"""Of `creds_entry`: uid, gid, euid, egid, suid, sgid, fsuid, fsgid."""


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
        elif path.name not in {TERMINALS, SESSIONS} and not path.name.endswith(".log"):
            _share(path, target / path.name)


def change_user(core: bytearray, *, old: int, new: int) -> None:
    """Overwrite a user in the entries of a core image."""
    for start, end in entries(core):
        _in_entry(core, start, end, old, new)


def _in_entry(core: bytearray, start: int, end: int, old: int, new: int) -> None:
    changed, is_alive = 0, False
    for number, kind, at, stop in fields(core, start, end):
        if (number, kind) != (_THREAD_CORE, BYTES):
            continue
        is_alive = True
        for inner, inner_kind, inner_at, inner_stop in fields(core, at, stop):
            if (inner, inner_kind) == (_CREDS, BYTES):
                changed += _in_creds(core, inner_at, inner_stop, old, new)
    # One that has ended and was not waited for has no thread, and so no users.
    if is_alive and changed != len(_USERS):
        raise DataLossError("an image of a process does not name its users")


def _in_creds(core: bytearray, start: int, end: int, old: int, new: int) -> int:
    changed = 0
    for number, kind, at, stop in fields(core, start, end):
        if number in _USERS and kind == VARINT:
            if bytes(core[at:stop]) != varint(old):
                raise DataLossError("a process in the image has a user of its own")
            core[at:stop] = varint(new)
            changed += 1
    return changed


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
