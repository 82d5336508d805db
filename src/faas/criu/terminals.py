"""Terminals whose one end the agent holds: what CRIU is told of them, and made anew for a restore.

The ends are a pair: CRIU keeps who had the one open, the agent knows what was typed and not read.
For a restore the pair is made from outside, in the fresh sandbox's own file system of terminals and
with the number it had; the agent is given its end, CRIU each opening of the other. None is left
with us. Never is one opened in a way that could make it the terminal of our own session.
"""

import fcntl
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from faas.agent.moving import Exported, Terminal
from faas.criu import processes
from faas.criu.images import SESSIONS
from faas.criu.memory import Tree
from faas.criu.terminal_images import Opening, name_of, openings
from faas.errors import ConflictError, SandboxBrokenError, UnsupportedError

OPENINGS_MAX = 16
"""Of one tree: there is room for 27 descriptors in CRIU. A shell and what it runs share two or
three."""
_NUMBER_MAX = 255
_SLAVE_MAJOR = 136
_CONTROLLING = os.makedev(5, 0)
"""/dev/tty: whatever terminal controls who opens it."""
_MULTIPLEXER = os.makedev(5, 2)
_LOCK, _PEER = 0x40045431, 0x5441
"""TIOCSPTLCK, TIOCGPTPEER."""
_KEPT_FLAGS = os.O_ACCMODE | os.O_NONBLOCK | os.O_APPEND


def names(init: int, terminals: Iterable[Terminal]) -> list[str]:
    """Say what CRIU calls these; /dev/tty comes last.

    Raises:
        UnsupportedError: there are too many in the sandbox.
    """
    found = [_name(terminal) for terminal in terminals]
    if any(terminal.number > _NUMBER_MAX for terminal in terminals):
        raise UnsupportedError(
            f"the memory cannot be kept: there are more than {_NUMBER_MAX} terminals",
            hint="end some of them, or keep the files only (memory: false)",
        )
    return [*found, _controlling_name(init)] if found else []


def check_taken(
    init: int, target: Path, trees: Iterable[Tree], commands: Mapping[str, Exported]
) -> None:
    """Refuse what CRIU has taken and could not make again. While all of it stands still.

    Raises:
        UnsupportedError: with what helps.
    """
    if all(command.terminal is None for command in commands.values()):
        return
    for tree in trees:
        found = openings(target / tree.folder)
        if len(found) > OPENINGS_MAX:
            raise UnsupportedError(
                f"the memory cannot be kept: its terminal is opened more than {OPENINGS_MAX} times",
                hint="keep the files only (memory: false)",
            )
        if any(opening.is_hung_up for opening in found):
            raise UnsupportedError(
                "the memory cannot be kept: it has a terminal that was hung up",
                hint="end the process that has it, or keep the files only (memory: false)",
            )
    ours = {_device(t) for t in (c.terminal for c in commands.values()) if t is not None}
    if any(
        _has_open(one.pid, _CONTROLLING) and processes.terminal_of(one.pid) not in {0, *ours}
        for one in processes.below(init)
    ):
        raise UnsupportedError(
            "the memory cannot be kept: /dev/tty is open on a terminal that it made itself",
            hint="end it (script, screen, tmux), or keep the files only (memory: false)",
        )


def make(init: int, terminal: Terminal, user: int, made: list[int]) -> tuple[int, int]:
    """Make one in a sandbox where nothing runs yet; return the agent's end and the processes'.

    Both are in `made`, too, for whoever closes them.

    Raises:
        ConflictError: its number is taken.
    """
    spare: list[int] = []
    try:
        for _ in range(terminal.number + 1):
            spare.append(_open_multiplexer(init))
            if _number(spare[-1]) == terminal.number:
                master = spare.pop()
                made.append(master)
                fcntl.ioctl(master, _LOCK, struct.pack("i", 0))
                made.append(fcntl.ioctl(master, _PEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
                os.fchown(made[-1], user, user)
                return master, made[-1]
    except OSError as error:
        raise SandboxBrokenError(
            "a terminal could not be made", details={"errno": error.errno}
        ) from error
    finally:
        for descriptor in spare:
            os.close(descriptor)
    raise ConflictError(f"the number {terminal.number} of a terminal is taken in the sandbox")


def handed(
    found: Iterable[Opening],
    ends: Mapping[str, tuple[Terminal, int]],
    own: str,
    opened: list[int],
) -> list[tuple[str, int]]:
    """Open each opening of a tree anew; they are in `opened`, too, for whoever closes them.

    Args:
        found: what the images say.
        ends: the processes' end of the terminal of each command.
        own: the command of this tree; its terminal is what /dev/tty was.
        opened: where each is added before the next is opened.
    """
    pairs: list[tuple[str, int]] = []
    for opening in found:
        _, end = _which(opening, ends, own)
        if len(pairs) == OPENINGS_MAX:
            raise SandboxBrokenError("the memory has more terminals than it may have")
        flags = opening.flags & _KEPT_FLAGS | os.O_NOCTTY | os.O_CLOEXEC
        opened.append(os.open(f"/proc/self/fd/{end}", flags))
        pairs.append((opening.name, opened[-1]))
    return pairs


def sessions(
    found: Iterable[Opening], ends: Mapping[str, tuple[Terminal, int]], own: str
) -> dict[int, int]:
    """Say which leaders are controlled by which terminal, by numbers."""
    return {
        opening.session: _which(opening, ends, own)[0].number
        for opening in found
        if opening.session
    }


def write_sessions(images: Path, found: Mapping[int, int]) -> None:
    """Write them down where `native/preload/criu.c` reads it."""
    text = "".join(f"{leader} {number}\n" for leader, number in found.items())
    (images / SESSIONS).write_text(text)


def _which(
    opening: Opening, ends: Mapping[str, tuple[Terminal, int]], own: str
) -> tuple[Terminal, int]:
    for terminal, end in ends.values():
        if _name(terminal) == opening.terminal:
            return terminal, end
    if own in ends and _is_controlling(opening.terminal):
        return ends[own]
    raise SandboxBrokenError("the memory has a terminal that nobody gave it")


def _name(terminal: Terminal) -> str:
    return name_of(_device(terminal), terminal.file_system)


def _device(terminal: Terminal) -> int:
    return os.makedev(_SLAVE_MAJOR, terminal.number)


def _controlling_name(init: int) -> str:
    inside = Path(f"/proc/{init}/root/dev/tty").lstat()
    if inside.st_rdev != _CONTROLLING or not stat.S_ISCHR(inside.st_mode):
        raise SandboxBrokenError("the sandbox's devices are not what they were made as")
    return name_of(inside.st_rdev, inside.st_dev)


def _is_controlling(name: str) -> bool:
    return name.startswith(f"tty[{_CONTROLLING:x}:")


def _has_open(pid: int, device: int) -> bool:
    for number, target in processes.descriptors(pid):
        if target.startswith("/dev/"):
            try:
                if Path(f"/proc/{pid}/fd/{number}").stat().st_rdev == device:
                    return True
            except OSError:
                continue
    return False


def _open_multiplexer(init: int) -> int:
    """Open the sandbox's own, step by step: no link that somebody made may lead to another."""
    at = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in ("dev", "pts"):
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            into = os.open(name, flags, dir_fd=at)
            os.close(at)
            at = into
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        if os.stat("ptmx", dir_fd=at, follow_symlinks=False).st_rdev != _MULTIPLEXER:
            raise SandboxBrokenError("the sandbox's devices are not what they were made as")
        return os.open("ptmx", flags, dir_fd=at)
    finally:
        os.close(at)


def _number(master: int) -> int:
    """TIOCGPTN."""
    (number,) = struct.unpack("I", fcntl.ioctl(master, 0x80045430, bytes(4)))
    return int(number)
