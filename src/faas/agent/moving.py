"""A command on its way from one sandbox into another: the frames EXPORT and ADOPT.

Memory and processes travel as CRIU's images; this is what the agent knows besides: how far the
output has come, what input lies unread, how much time is left.
"""

import struct
from dataclasses import dataclass

from faas.agent.protocol import (
    EXEC_EXCLUSIVE,
    EXEC_STDIN_OPEN,
    EXEC_TTY,
    ProtocolError,
    pack_string,
)

ROOTS_MAX = 16
ADOPT_BACKGROUND = 16
EXPORT_STANDS_STILL = 1
TYPED_BYTES_MAX = 16 << 10
_TERMINAL = struct.Struct("<IQI")
_HEAD = struct.Struct("<IBBQQQQQQQQQQQ")
_COUNT = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Terminal:
    """A command's terminal, of which the agent holds the one end."""

    number: int
    """As in /dev/pts/NUMBER."""
    file_system: int
    """Device number of the sandbox's /dev/pts, as stat(2) has it."""
    typed: bytes
    """What was typed and not read yet, in the agent's own way of writing it; empty as long as
    the command runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One running command, as its agent describes it."""

    pid: int
    """Of its main process, in the sandbox's numbering, as all of them."""
    roots: tuple[int, ...]
    """Its processes that are children of the agent or of the command's supervisor."""
    is_exclusive: bool
    is_fed: bool
    """Its input is open for more."""
    is_background: bool
    """It has ended; what it left behind runs on."""
    is_last: bool
    """Its input is closed after `unread`."""
    stdin_pipe: int
    """Inode; 0 when there is none."""
    stdout_pipe: int
    stdout_kept: int
    stdout_total: int
    stderr_pipe: int
    stderr_kept: int
    stderr_total: int
    output_bytes_max: int
    time_left_ms: int
    """0: it has no limit."""
    grace_ms: int
    stdin_taken: int
    unread: bytes
    """Input that was taken for it and not yet read by it."""
    terminal: Terminal | None = None
    """Instead of the three pipes."""


def parse_exported(payload: bytes) -> Exported:
    """Take EXPORTED apart."""
    try:
        head = _HEAD.unpack_from(payload)
        at = _HEAD.size
        (length,) = _COUNT.unpack_from(payload, at)
        unread = payload[at + 4 : at + 4 + length]
        at += 4 + length
        (count,) = _COUNT.unpack_from(payload, at)
        roots = struct.unpack_from(f"<{min(count, ROOTS_MAX)}I", payload, at + 4)
    except struct.error as error:
        raise ProtocolError("EXPORTED is cut off") from error
    flags, is_last = head[1], head[2]
    at += 4 + 4 * count
    terminal = None
    if flags & EXEC_TTY and count <= ROOTS_MAX:
        terminal, at = _parse_terminal(payload, at)
    if count > ROOTS_MAX or at != len(payload) or len(unread) != length:
        raise ProtocolError("EXPORTED does not add up")
    if flags & ~(EXEC_EXCLUSIVE | EXEC_TTY | EXEC_STDIN_OPEN | ADOPT_BACKGROUND) or is_last > 1:
        raise ProtocolError("EXPORTED has unknown flags")
    return Exported(
        pid=head[0],
        roots=roots,
        is_exclusive=bool(flags & EXEC_EXCLUSIVE),
        is_fed=bool(flags & EXEC_STDIN_OPEN),
        is_background=bool(flags & ADOPT_BACKGROUND),
        is_last=bool(is_last),
        stdin_pipe=head[3],
        stdout_pipe=head[4],
        stdout_kept=head[5],
        stdout_total=head[6],
        stderr_pipe=head[7],
        stderr_kept=head[8],
        stderr_total=head[9],
        output_bytes_max=head[10],
        time_left_ms=head[11],
        grace_ms=head[12],
        stdin_taken=head[13],
        unread=unread,
        terminal=terminal,
    )


def _parse_terminal(payload: bytes, at: int) -> tuple[Terminal, int]:
    try:
        number, file_system, length = _TERMINAL.unpack_from(payload, at)
    except struct.error as error:
        raise ProtocolError("EXPORTED is cut off") from error
    at += _TERMINAL.size
    typed = payload[at : at + length]
    if len(typed) != length or length > TYPED_BYTES_MAX:
        raise ProtocolError("EXPORTED does not add up")
    return Terminal(number, file_system, typed), at + length


def pack_adopt(name: str, command: Exported) -> bytes:
    """Pack ADOPT: processes of `command` will be the agent's children under that name."""
    numbers = struct.pack(
        "<IBQQQQQQQQ",
        command.pid,
        command.is_last,
        command.time_left_ms,
        command.grace_ms,
        command.output_bytes_max,
        command.stdout_kept,
        command.stdout_total,
        command.stderr_kept,
        command.stderr_total,
        command.stdin_taken,
    )
    held = _COUNT.pack(len(command.unread)) + command.unread
    roots = struct.pack(f"<I{len(command.roots)}I", len(command.roots), *command.roots)
    typed = b""
    if command.terminal is not None:
        typed = _COUNT.pack(len(command.terminal.typed)) + command.terminal.typed
    return pack_string(name) + numbers + held + roots + typed


def adopt_flags(command: Exported) -> int:
    """The flags that go with ADOPT."""
    flags = EXEC_EXCLUSIVE if command.is_exclusive else 0
    flags |= EXEC_STDIN_OPEN if command.is_fed else 0
    flags |= EXEC_TTY if command.terminal is not None else 0
    return flags | (ADOPT_BACKGROUND if command.is_background else 0)
