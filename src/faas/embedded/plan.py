"""How a sandbox is made, as a list of steps that can be printed, tested and sent.

`native/PROTOCOL.md` section 3 is the table of steps and says in which order the launcher does
them. A plan is a value: making one touches nothing.
"""

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import PurePath
from typing import ClassVar, Protocol


class Op(Protocol):
    """One step."""

    opcode: ClassVar[int]

    def payload(self) -> bytes:
        """Return its fields as the launcher reads them."""
        ...


def _string(text: str | PurePath) -> bytes:
    raw = os.fsencode(text)
    if b"\0" in raw:
        raise ValueError("a name in a plan holds NUL")
    return struct.pack("<I", len(raw)) + raw


@dataclass(frozen=True, slots=True)
class Hostname:
    """Name the sandbox."""

    opcode: ClassVar[int] = 1
    name: str

    def payload(self) -> bytes:
        return _string(self.name)


@dataclass(frozen=True, slots=True)
class UserRange:
    """Its user ids are a range of the host's that nobody else has."""

    opcode: ClassVar[int] = 2
    first_uid: int
    first_gid: int
    count: int = 65_536

    def payload(self) -> bytes:
        return struct.pack("<BIII", 1, self.first_uid, self.first_gid, self.count)


@dataclass(frozen=True, slots=True)
class UserSingle:
    """Its root is whoever runs the gateway, its only user: all that a host without root allows."""

    opcode: ClassVar[int] = 2

    def payload(self) -> bytes:
        return struct.pack("<BIII", 2, os.geteuid(), os.getegid(), 1)


@dataclass(frozen=True, slots=True)
class UserAlone:
    """Its only user is a number of the host's that nobody else has; no user namespace.

    CRIU cannot restore into a user namespace that is there already.
    """

    opcode: ClassVar[int] = 2
    uid: int
    gid: int
    count: int = 65_536

    def payload(self) -> bytes:
        return struct.pack("<BIII", 3, self.uid, self.gid, self.count)


@dataclass(frozen=True, slots=True)
class LastPid:
    """The number before that of the first process after the agent."""

    opcode: ClassVar[int] = 22
    number: int

    def payload(self) -> bytes:
        return struct.pack("<I", self.number)


@dataclass(frozen=True, slots=True)
class Cell:
    """Make that group and be a member of it, without a wait where a spare one is ready."""

    opcode: ClassVar[int] = 19
    directory: str

    def payload(self) -> bytes:
        return _string(self.directory)


@dataclass(frozen=True, slots=True)
class Chores:
    """Small file work, done by the launcher when the groups are made."""

    opcode: ClassVar[int] = 20
    chores: bytes

    def payload(self) -> bytes:
        return struct.pack("<I", len(self.chores)) + self.chores


@dataclass(frozen=True, slots=True)
class Network:
    """A network namespace: a new one with lo up (0), or one made ahead (2)."""

    opcode: ClassVar[int] = 4
    kind: int = 0

    def payload(self) -> bytes:
        return struct.pack("<B", self.kind)


@dataclass(frozen=True, slots=True)
class PidFile:
    """Write the pid and start time there before the sandbox goes on."""

    opcode: ClassVar[int] = 5
    path: str

    def payload(self) -> bytes:
        return _string(self.path)


@dataclass(frozen=True, slots=True)
class ResourceLimit:
    """One rlimit."""

    opcode: ClassVar[int] = 6
    resource: int
    soft: int
    hard: int

    def payload(self) -> bytes:
        return struct.pack("<IQQ", self.resource, self.soft, self.hard)


@dataclass(frozen=True, slots=True)
class Seccomp:
    """The system call filter."""

    opcode: ClassVar[int] = 7
    program: bytes

    def payload(self) -> bytes:
        return struct.pack("<I", len(self.program)) + self.program


@dataclass(frozen=True, slots=True)
class RootTmpfs:
    """An empty root in memory."""

    opcode: ClassVar[int] = 8
    size_bytes: int
    inodes: int

    def payload(self) -> bytes:
        return struct.pack("<QQ", self.size_bytes, self.inodes)


@dataclass(frozen=True, slots=True)
class RootOverlay:
    """A tree as it is, with what is written on top of it in memory."""

    opcode: ClassVar[int] = 9
    lower: PurePath
    size_bytes: int
    inodes: int
    is_idmapped: bool

    def payload(self) -> bytes:
        tail = struct.pack("<QQB", self.size_bytes, self.inodes, self.is_idmapped)
        return _string(self.lower) + tail


@dataclass(frozen=True, slots=True)
class Directory:
    """Make a directory."""

    opcode: ClassVar[int] = 10
    path: str
    mode: int = 0o755

    def payload(self) -> bytes:
        return _string(self.path) + struct.pack("<I", self.mode)


@dataclass(frozen=True, slots=True)
class Symlink:
    """Make a symbolic link."""

    opcode: ClassVar[int] = 11
    target: str
    path: str

    def payload(self) -> bytes:
        return _string(self.target) + _string(self.path)


READ_ONLY, RECURSIVE, SKIP_WHEN_MISSING, NO_DEVICES, NO_EXEC = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True)
class Bind:
    """Show a directory or file of the host."""

    opcode: ClassVar[int] = 13
    source: PurePath
    path: str
    flags: int = READ_ONLY | RECURSIVE | NO_DEVICES

    def payload(self) -> bytes:
        return _string(self.source) + _string(self.path) + struct.pack("<B", self.flags)


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """Mount a file system in memory."""

    opcode: ClassVar[int] = 14
    path: str
    size_bytes: int
    mode: int = 0o755
    flags: int = 0

    def payload(self) -> bytes:
        return _string(self.path) + struct.pack("<QIB", self.size_bytes, self.mode, self.flags)


@dataclass(frozen=True, slots=True)
class Proc:
    """Mount /proc with its masks."""

    opcode: ClassVar[int] = 15
    path: str = "/proc"

    def payload(self) -> bytes:
        return _string(self.path)


@dataclass(frozen=True, slots=True)
class Dev:
    """Mount a minimal /dev."""

    opcode: ClassVar[int] = 16
    path: str = "/dev"

    def payload(self) -> bytes:
        return _string(self.path)


@dataclass(frozen=True, slots=True)
class Mask:
    """Hide what is there."""

    opcode: ClassVar[int] = 18
    path: str

    def payload(self) -> bytes:
        return _string(self.path)


AS_IS = 1 << 31
"""Of a directory's mode: one that is there already stays as it is."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Stand on these layers of the launcher's, the topmost first."""

    opcode: ClassVar[int] = 23
    numbers: tuple[int, ...]

    def payload(self) -> bytes:
        count = len(self.numbers)
        return struct.pack(f"<I{count}Q", count, *self.numbers)


@dataclass(frozen=True)
class Plan:
    """The steps, sorted as the launcher takes them; steps of one kind keep their order."""

    ops: tuple[Op, ...]

    @classmethod
    def of(cls, *groups: Iterable[Op]) -> "Plan":
        """Join groups of steps."""
        ops = [op for group in groups for op in group]
        return cls(tuple(sorted(ops, key=lambda op: op.opcode)))

    @cached_property
    def encoded(self) -> bytes:
        """The steps as the launcher reads them."""
        return b"".join([_encode_one(op.opcode, op.payload()) for op in self.ops])

    def describe(self) -> list[str]:
        """Return one line a step, for people."""
        return [_line(op) for op in self.ops]


def _encode_one(opcode: int, payload: bytes) -> bytes:
    return struct.pack("<BI", opcode, len(payload)) + payload


def _line(op: Op) -> str:
    values = [
        f"{item.name}={value if not isinstance(value, bytes) else f'{len(value)} bytes'}"
        for item in fields(op)  # pyright: ignore[reportArgumentType]  every step is a dataclass
        for value in (getattr(op, item.name),)
    ]
    return " ".join([type(op).__name__, *values])
