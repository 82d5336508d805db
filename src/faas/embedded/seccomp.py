"""The allow-list as a BPF program: one binary search over the system call's number.

Not on the list: EPERM. Not known when the list was made: ENOSYS, so that programs fall back to
the older call. Another architecture's entry (32-bit, x32): the process is killed.
"""

import errno
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from faas.embedded.syscall_numbers import NUMBERS
from faas.errors import UnsupportedError
from faas.sandbox.seccomp_policy import (
    ALLOWED,
    MISSING,
    NAMESPACE_FLAGS,
    PERSONALITIES,
    SOCKET_DOMAINS,
    TERMINAL_TRICKS,
)

_LOAD, _AND = 0x20, 0x54
_JUMP, _IF_EQUAL, _IF_AT_LEAST = 0x05, 0x15, 0x35
_RETURN = 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_AT_NUMBER, _AT_ARCH, _AT_ARG0, _AT_ARG2 = 0, 4, 16, 32
_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_NETLINK = 16


class Instruction(NamedTuple):
    """One `struct sock_filter`."""

    code: int
    jump_true: int
    jump_false: int
    k: int


Block = list[Instruction]


class _Range(NamedTuple):
    """From this number on (until the next range), do that."""

    start: int
    verdict: Block


def build_filter(machine: str) -> bytes:
    """Return the program for the machine `x86_64` or `aarch64`.

    Raises:
        UnsupportedError: there is no list for it.
    """
    return encode(assemble(machine))


def encode(program: Sequence[Instruction]) -> bytes:
    """Return the program as an array of `struct sock_filter`."""
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def assemble(machine: str) -> Block:
    """Make the program as instructions."""
    if machine not in _ARCHES:
        raise UnsupportedError(
            f"no system call filter for {machine}", details={"supported": sorted(_ARCHES)}
        )
    head = [
        _load(_AT_ARCH),
        Instruction(_IF_EQUAL, 1, 0, _ARCHES[machine]),
        _return(_KILL_PROCESS),
        _load(_AT_NUMBER),
    ]
    return head + _search(_ranges(machine))


def _ranges(machine: str) -> list[_Range]:
    numbers = {number: name for name, number in NUMBERS[machine].items()}
    ranges: list[_Range] = []
    for number in range(max(numbers) + 2):
        verdict = _verdict(numbers.get(number))
        if not ranges or ranges[-1].verdict != verdict:
            ranges.append(_Range(number, verdict))
    if machine == "x86_64":
        ranges.append(_Range(_X32_BIT, [_return(_KILL_PROCESS)]))
    return ranges


def _verdict(name: str | None) -> Block:
    if name is None or name in MISSING:
        return _refuse(errno.ENOSYS)
    if name in _CHECKS:
        return _CHECKS[name]()
    return [_return(_ALLOW)] if name in ALLOWED else _refuse(errno.EPERM)


def _search(ranges: Sequence[_Range]) -> Block:
    if len(ranges) == 1:
        return ranges[0].verdict
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    if len(below) <= 0xFF:  # noqa: PLR2004  a jump has one byte
        return [Instruction(_IF_AT_LEAST, len(below), 0, ranges[middle].start), *below, *above]
    fork = Instruction(_IF_AT_LEAST, 0, 1, ranges[middle].start)
    return [fork, Instruction(_JUMP, 0, 0, len(below)), *below, *above]


def _check_clone() -> Block:
    return [
        _load(_AT_ARG0),
        Instruction(_AND, 0, 0, NAMESPACE_FLAGS),
        Instruction(_IF_EQUAL, 0, 1, 0),
        _return(_ALLOW),
        *_refuse(errno.EPERM),
    ]


def _check_socket() -> Block:
    tests: Block = [
        _load(_AT_ARG0),
        Instruction(_IF_EQUAL, 0, 4, _NETLINK),
        _load(_AT_ARG2),
        Instruction(_IF_EQUAL, 0, 1, 0),
        _return(_ALLOW),
        *_refuse(errno.EPROTONOSUPPORT),
    ]
    return tests + _one_of(SOCKET_DOMAINS, otherwise=errno.EAFNOSUPPORT)


def _check_personality() -> Block:
    return [_load(_AT_ARG0), *_one_of(PERSONALITIES, otherwise=errno.EPERM)]


def _check_ioctl() -> Block:
    tests = [_load(_AT_ARG0 + 8)]
    for trick in TERMINAL_TRICKS:
        tests += [Instruction(_IF_EQUAL, 0, 1, trick), *_refuse(errno.EPERM)]
    return [*tests, _return(_ALLOW)]


_CHECKS: dict[str, Callable[[], Block]] = {
    "clone": _check_clone,
    "socket": _check_socket,
    "personality": _check_personality,
    "ioctl": _check_ioctl,
}


def _one_of(values: Sequence[int], *, otherwise: int) -> Block:
    tests: Block = []
    for value in values:
        tests += [Instruction(_IF_EQUAL, 0, 1, value), _return(_ALLOW)]
    return tests + _refuse(otherwise)


def _load(offset: int) -> Instruction:
    return Instruction(_LOAD, 0, 0, offset)


def _return(value: int) -> Instruction:
    return Instruction(_RETURN, 0, 0, value)


def _refuse(number: int) -> Block:
    return [_return(_ERRNO | number)]
