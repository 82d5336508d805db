"""The terminals in CRIU's images of one tree, and what is changed in them for one restore.

CRIU calls a terminal whose other end it does not keep by two numbers, and takes it from a
descriptor it is handed under that name. All openings of one terminal have one name, and would
become one: whoever made his own opening non-blocking would have made the shell's so. So each
opening gets a name of its own here, and with it a descriptor of its own.

Also changed: the user a terminal belongs to, and sessions and groups that are in another tree, of
which CRIU could set none.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from faas.criu.image_format import BYTES, VARINT, entries, fields, numbers, varint, with_head
from faas.criu.images import TERMINALS
from faas.errors import DataLossError

_TYPE, _SESSION, _GROUP, _DEVICE, _SETTINGS, _FILE_SYSTEM, _USER, _OWNING_GROUP = (
    2, 6, 7, 8, 9, 13, 14, 15,
)  # fmt: skip
"""Of `tty_info_entry` in CRIU's tty.proto."""
_EXTERNAL = 5
_FILE_TERMINAL, _INFO, _FLAGS = 19, 2, 3
"""Of `file_entry`; of `tty_file_entry` in it."""
_NAME_FIRST = 1 << 30
"""No terminal has such a number."""


@dataclass(frozen=True, slots=True)
class Opening:
    """One opening of a terminal by the processes of a tree."""

    name: str
    """What its descriptor is to be called for CRIU."""
    terminal: str
    """How CRIU called the terminal when it was taken."""
    flags: int
    """As for open(2)."""
    session: int
    """Whom it controls; 0: nobody."""
    is_hung_up: bool


def name_of(device: int, file_system: int) -> str:
    """Say what CRIU calls a terminal: its device number and that of the file system it is in."""
    return f"tty[{device:x}:{file_system:x}]"


def openings(images: Path) -> list[Opening]:
    """List those whose other end was not kept.

    Raises:
        DataLossError: an image is not what CRIU writes.
    """
    return [opening for opening, _ in _read(images)[0] if opening is not None]


def change_terminals(images: Path, target: Path, *, old: int, new: int) -> list[Opening]:
    """Write the image of terminals into `target`, which becomes `new`'s; list what to hand over."""
    found, head = _read(images)
    if not head:
        return []
    leaders, groups = _sessions(images)
    messages: list[bytes] = []
    for place, (opening, message) in enumerate(found):
        values = numbers(message, 0, len(message))
        changes = {n: new for n in (_USER, _OWNING_GROUP) if values.get(n) == old}
        session = values.get(_SESSION, 0)
        if session not in leaders:
            changes |= {_SESSION: 0, _GROUP: 0}
        elif values.get(_GROUP) not in groups:
            changes[_GROUP] = session
        if opening is not None:
            changes[_DEVICE] = _NAME_FIRST + place
        messages.append(_changed(message, changes))
    (target / TERMINALS).write_bytes(with_head(head, messages))
    return [
        opening if opening.session in leaders else replace(opening, session=0)
        for opening, _ in found
        if opening is not None
    ]


def _read(images: Path) -> tuple[list[tuple[Opening | None, bytes]], bytes]:
    """Read the entries, each with what it says of an opening, and the file's head."""
    try:
        image = (images / TERMINALS).read_bytes()
    except FileNotFoundError:
        return [], b""
    flags = _flags(images)
    found: list[tuple[Opening | None, bytes]] = []
    for place, (start, end) in enumerate(entries(image)):
        values = numbers(image, start, end)
        opening = None
        if values.get(_TYPE) == _EXTERNAL:
            file_system = values.get(_FILE_SYSTEM, 0)
            opening = Opening(
                name_of(_NAME_FIRST + place, file_system),
                name_of(values.get(_DEVICE, 0), file_system),
                flags.get(values.get(1, 0), 0),
                values.get(_SESSION, 0),
                all(number != _SETTINGS for number, *_ in fields(image, start, end)),
            )
        found.append((opening, image[start:end]))
    return found, image


def _flags(images: Path) -> dict[int, int]:
    """Read how each was opened, by the number of its entry."""
    image = (images / "files.img").read_bytes()
    found: dict[int, int] = {}
    for start, end in entries(image):
        for number, kind, at, stop in fields(image, start, end):
            if (number, kind) == (_FILE_TERMINAL, BYTES):
                values = numbers(image, at, stop)
                found[values.get(_INFO, 0)] = values.get(_FLAGS, 0)
    return found


def _sessions(images: Path) -> tuple[set[int], set[int]]:
    """Read who leads a session in this tree, and which groups there are."""
    image = (images / "pstree.img").read_bytes()
    leaders: set[int] = set()
    groups: set[int] = set()
    for start, end in entries(image):
        values = numbers(image, start, end)
        pid, _, group, session = (values.get(number, 0) for number in (1, 2, 3, 4))
        groups.add(group)
        if pid == session:
            leaders.add(pid)
    return leaders, groups


def _changed(message: bytes, changes: dict[int, int]) -> bytes:
    out = bytearray()
    at = 0
    for number, kind, _, end in fields(message, 0, len(message)):
        if kind == VARINT and number in changes:
            out += varint(number << 3 | VARINT) + varint(changes[number])
        else:
            out += message[at:end]
        at = end
    if at != len(message):
        raise DataLossError("an image of a terminal cannot be read")
    return bytes(out)
