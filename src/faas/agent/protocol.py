"""The agent's frames: requests packed, answers taken apart, hard limits on both.

`native/PROTOCOL.md` section 1 is the table. What comes from an agent was perhaps written by an
attacker, so every parser here either returns a whole value or raises `ProtocolError`.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from faas.errors import InvalidArgumentError, TooLargeError
from faas.model import ExitReason
from faas.sandbox.protocols import Command, FileKind, FileStat

VERSION = 1
PAYLOAD_BYTES_MAX = 1 << 20
CHUNK_BYTES_MAX = 524_288
"""Of one READ or WRITE."""
DIR_ENTRIES_MAX = 1_000
COMMANDS_MAX = 256
MESSAGE_CHARS_MAX = 200

_HEADER = struct.Struct("<IBBHI")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_U64_PAIR = struct.Struct("<QQ")
_STARTED = struct.Struct("<IBQ")
_EXIT = struct.Struct("<BBHIQQQQQQQQ")
_EXEC = struct.Struct("<QQQIIHH")
_ENTRY = struct.Struct("<BIIIQQ")


class ProtocolError(Exception):
    """The other side broke the protocol; nothing more it says is believed."""


class Request(IntEnum):
    """Frames the host sends."""

    HELLO = 1
    EXEC = 2
    STDIN = 3
    SIGNAL = 4
    RESIZE = 5
    ATTACH = 6
    LIST = 7
    RELEASE = 8
    STAT = 16
    LIST_DIR = 17
    READ = 18
    WRITE = 19
    REMOVE = 20
    MKDIR = 21
    RENAME = 22
    TAR_IN = 23
    TAR_OUT = 24
    CONNECT = 25
    EXPORT = 26
    ADOPT = 27


class Answer(IntEnum):
    """Frames the agent sends."""

    HELLO_OK = 65
    STARTED = 66
    OUTPUT = 67
    EXIT = 68
    STDIN_OK = 69
    OK = 70
    ERROR = 71
    LIST_OK = 72
    STAT_OK = 73
    DIR_OK = 74
    DATA = 75
    CONNECTED = 76
    EXPORTED = 77


EXEC_EXCLUSIVE, EXEC_TTY, EXEC_STDIN_OPEN, EXEC_STDIN_FD = 1, 2, 4, 8
STDIN_LAST = 1
SIGNAL_TREE = 1
STAT_FOLLOW = 1
WRITE_TRUNCATE, MAKE_PARENTS = 1, 2
REMOVE_RECURSIVE = 1
CONNECT_IPV6 = 1

_ANSWERS = frozenset(int(answer) for answer in Answer)
_REASONS = (
    ExitReason.EXITED,
    ExitReason.SIGNALLED,
    ExitReason.TIMED_OUT,
    ExitReason.CANCELLED,
)
_KINDS = (FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK, FileKind.OTHER)
_SIGNAL_MAX = 64


class Frame(NamedTuple):
    """One answer, its payload not yet looked at."""

    kind: int
    id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class HelloOk:
    """The agent is there."""

    version: int
    boot_id: bytes
    pid: int


class Started(NamedTuple):
    """The agent has taken a command, or knows it."""

    pid: int
    is_ended: bool
    stdin_offset: int


class ExitFrame(NamedTuple):
    """How a command ended, as the agent saw it."""

    reason: ExitReason
    signal: int | None
    code: int
    stdout_kept: int
    stdout_total: int
    stderr_kept: int
    stderr_total: int
    wall_us: int
    cpu_us: int
    memory_peak_bytes: int


@dataclass(frozen=True, slots=True)
class CommandState:
    """One command the agent remembers."""

    name: str
    pid: int
    is_ended: bool
    stdout_kept: int
    stderr_kept: int


def pack_frame(kind: int, frame_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Make one frame.

    Raises:
        TooLargeError: it would not fit; for EXEC that is what the caller sent.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise TooLargeError(
            f"{len(payload)} bytes in one request to a sandbox",
            hint="pass large input as stdin or files",
            details={"limit_bytes": PAYLOAD_BYTES_MAX},
        )
    return _HEADER.pack(len(payload), kind, flags, 0, frame_id) + payload


def pack_string(text: str | bytes) -> bytes:
    """Make a string field.

    Raises:
        InvalidArgumentError: it holds NUL, which would cut it short inside.
    """
    raw = os.fsencode(text)
    if b"\0" in raw:
        raise InvalidArgumentError("a name, argument or variable may not hold NUL")
    return _U32.pack(len(raw)) + raw


def pack_blob(data: bytes) -> bytes:
    """Make a field of any bytes."""
    return _U32.pack(len(data)) + data


def pack_u32(*values: int) -> bytes:
    """Make u32 fields."""
    return struct.pack(f"<{len(values)}I", *values)


def pack_u64(value: int) -> bytes:
    """Make a u64 field."""
    return _U64.pack(value)


def pack_exec(name: str, command: Command) -> bytes:
    """Make the payload of EXEC."""
    fixed = _EXEC.pack(
        command.timeout_ms,
        command.grace_ms,
        command.output_bytes_max,
        command.uid,
        command.gid,
        command.rows,
        command.columns,
    )
    argv = b"".join([pack_string(argument) for argument in command.argv])
    env = b"".join([pack_string(f"{key}={value}") for key, value in command.env])
    return b"".join(
        (
            fixed,
            pack_string(name),
            pack_string(command.working_dir),
            _U32.pack(len(command.argv)),
            argv,
            _U32.pack(len(command.env)),
            env,
        )
    )


def exec_flags(command: Command) -> int:
    """Return the flags of EXEC, the descriptor for given stdin included."""
    return (
        (EXEC_EXCLUSIVE if command.is_exclusive else 0)
        | (EXEC_TTY if command.tty else 0)
        | (EXEC_STDIN_OPEN if command.stdin_open else 0)
        | (EXEC_STDIN_FD if command.stdin is not None else 0)
    )


class FrameReader:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield each frame that is now whole.

        Raises:
            ProtocolError: at the first header that no agent of ours would send.
        """
        buffer = self._rest + data if self._rest else data
        position, end = 0, len(buffer)
        while end - position >= _HEADER.size:
            length, kind, flags, zero, frame_id = _HEADER.unpack_from(buffer, position)
            if length > PAYLOAD_BYTES_MAX or kind not in _ANSWERS or flags or zero:
                raise ProtocolError(f"bad header: length {length}, type {kind}, flags {flags}")
            stop = position + _HEADER.size + length
            if stop > end:
                break
            yield Frame(kind, frame_id, buffer[position + _HEADER.size : stop])
            position = stop
        self._rest = buffer[position:]


class _Fields:
    """Takes a payload apart from the left; `done` insists that nothing is left over."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        """Read fixed fields."""
        try:
            values = layout.unpack_from(self._data, self._at)
        except struct.error as error:
            raise ProtocolError("the payload is too short") from error
        self._at += layout.size
        return values

    def u32(self) -> int:
        return self.take(_U32)[0]

    def blob(self) -> bytes:
        """Read a length and that many bytes."""
        length = self.u32()
        data = self._data[self._at : self._at + length]
        if len(data) != length:
            raise ProtocolError("a field is longer than its frame")
        self._at += length
        return data

    def string(self) -> str:
        """Read a name; any byte but NUL."""
        raw = self.blob()
        if b"\0" in raw:
            raise ProtocolError("a string holds NUL")
        return os.fsdecode(raw)

    def done(self) -> None:
        if self._at != len(self._data):
            raise ProtocolError("the payload is too long")


def _exactly(layout: struct.Struct, payload: bytes) -> tuple[int, ...]:
    if len(payload) != layout.size:
        raise ProtocolError(f"{len(payload)} bytes of payload instead of {layout.size}")
    return layout.unpack(payload)


def parse_hello(payload: bytes) -> HelloOk:
    """Take HELLO_OK apart."""
    if len(payload) != 24:  # noqa: PLR2004  u32, 16 bytes, u32
        raise ProtocolError("HELLO_OK has another length")
    version, pid = _U32.unpack_from(payload)[0], _U32.unpack_from(payload, 20)[0]
    if version != VERSION:
        raise ProtocolError(f"the agent speaks version {version}")
    return HelloOk(version, payload[4:20], pid)


def parse_started(payload: bytes) -> Started:
    """Take STARTED apart."""
    pid, state, stdin_offset = _exactly(_STARTED, payload)
    return Started(pid, _flag(state), stdin_offset)


def parse_output(payload: bytes) -> tuple[int, int]:
    """Take OUTPUT apart: bytes kept of stdout and stderr."""
    stdout_kept, stderr_kept = _exactly(_U64_PAIR, payload)
    return stdout_kept, stderr_kept


def parse_exit(payload: bytes) -> ExitFrame:
    """Take EXIT apart."""
    reason, number, zero, code, out, out_all, err, err_all, wall, user, system, rss = _exactly(
        _EXIT, payload
    )
    if reason >= len(_REASONS) or number > _SIGNAL_MAX or zero or out > out_all or err > err_all:
        raise ProtocolError("EXIT contradicts itself")
    return ExitFrame(
        _REASONS[reason],
        number or None,
        code,
        out,
        out_all,
        err,
        err_all,
        wall,
        user + system,
        rss << 10,
    )


def parse_offset(payload: bytes) -> int:
    """Take STDIN_OK or OK apart: one u64."""
    return _exactly(_U64, payload)[0]


def parse_error(payload: bytes) -> tuple[int, str]:
    """Take ERROR apart: errno, and what was being tried in words fit to be shown."""
    fields = _Fields(payload)
    number, what = fields.u32(), fields.blob()
    fields.done()
    text = what.decode("utf-8", "replace")[:MESSAGE_CHARS_MAX]
    return number, "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def parse_list(payload: bytes) -> list[CommandState]:
    """Take LIST_OK apart."""
    fields = _Fields(payload)
    count = fields.u32()
    if count > COMMANDS_MAX:
        raise ProtocolError(f"the agent claims {count} commands")
    commands: list[CommandState] = []
    for _ in range(count):
        name, pid = fields.string(), fields.u32()
        state, stdout_kept, stderr_kept = fields.take(_COMMAND)
        commands.append(CommandState(name, pid, _flag(state), stdout_kept, stderr_kept))
    fields.done()
    return commands


_COMMAND = struct.Struct("<BQQ")
_BYTE = struct.Struct("<B")


def parse_stat(payload: bytes) -> FileStat:
    """Take STAT_OK apart."""
    fields = _Fields(payload)
    entry = _entry(fields)
    fields.done()
    return entry


def parse_dir(payload: bytes) -> tuple[bool, list[FileStat]]:
    """Take DIR_OK apart: whether there is more, and the entries."""
    fields = _Fields(payload)
    more, count = _flag(fields.take(_BYTE)[0]), fields.u32()
    if count > DIR_ENTRIES_MAX:
        raise ProtocolError(f"the agent claims {count} entries in one answer")
    entries = [_entry(fields) for _ in range(count)]
    fields.done()
    return more, entries


def parse_data(payload: bytes) -> tuple[bool, bytes]:
    """Take DATA apart: whether this was the end of the file, and the bytes."""
    fields = _Fields(payload)
    is_end, data = _flag(fields.take(_BYTE)[0]), fields.blob()
    fields.done()
    if len(data) > CHUNK_BYTES_MAX:
        raise ProtocolError("DATA is past its limit")
    return is_end, data


def _entry(fields: _Fields) -> FileStat:
    name = fields.string()
    kind, mode, uid, gid, size, modified = fields.take(_ENTRY)
    target = fields.string()
    if kind >= len(_KINDS):
        raise ProtocolError(f"no such kind of entry: {kind}")
    return FileStat(
        name=name,
        kind=_KINDS[kind],
        size_bytes=size,
        mode=mode,
        uid=uid,
        gid=gid,
        modified_ns=modified,
        link_target=target if _KINDS[kind] is FileKind.SYMLINK else None,
    )


def _flag(value: int) -> bool:
    if value > 1:
        raise ProtocolError(f"{value} is no truth value")
    return value == 1
