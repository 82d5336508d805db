"""The system call filter of a container, as the Engine takes it: our own, whatever its default.

The Engine's default profile depends on its age (`io_uring` and `AF_ALG` were in it for years) and
can be switched off in its configuration. This one is the embedded runtime's too:
`faas.sandbox.seccomp_policy`.
"""

import errno
from functools import cache
from typing import Any

import msgspec

from faas.sandbox.seccomp_policy import (
    ALLOWED,
    MISSING,
    NAMESPACE_FLAGS,
    PERSONALITIES,
    SOCKET_DOMAINS,
    TERMINAL_TRICKS,
)

_NETLINK = 16
_ALLOW, _ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_EQUAL, _MASKED = "SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"

Json = dict[str, Any]


@cache
def profile(*more: str) -> str:
    """Return the profile as JSON; `more` are calls allowed besides."""
    rules = [
        _rule(sorted({*ALLOWED, *more})),
        {**_rule(sorted(MISSING)), "action": _ERRNO, "errnoRet": errno.ENOSYS},
        _rule(["clone"], _test(0, _MASKED, NAMESPACE_FLAGS, 0)),
        *(_rule(["socket"], _test(0, _EQUAL, domain)) for domain in SOCKET_DOMAINS),
        _rule(["socket"], _test(0, _EQUAL, _NETLINK), _test(2, _EQUAL, 0)),
        *(_rule(["personality"], _test(0, _EQUAL, one)) for one in PERSONALITIES),
        *_ioctl_rules(),
    ]
    return msgspec.json.encode(
        {
            "defaultAction": _ERRNO,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
            ],
            "syscalls": rules,
        }
    ).decode()


def _ioctl_rules() -> list[Json]:
    """Everything but the two tricks, told by the 32 bits the kernel looks at.

    A comparison would look at 64, and let a trick pass that has a bit above. So: a request is none
    of the two when a bit differs in which they agree, or those in which they differ are neither's.
    """
    one, other = TERMINAL_TRICKS
    unlike = one ^ other
    rules = [
        _rule(["ioctl"], _test(1, _MASKED, bit, ~one & bit))
        for bit in (1 << place for place in range(32))
        if not bit & unlike
    ]
    patterns = {value & unlike for value in range(unlike + 1)} - {one & unlike, other & unlike}
    return rules + [_rule(["ioctl"], _test(1, _MASKED, unlike, p)) for p in sorted(patterns)]


def _rule(names: list[str], *tests: Json) -> Json:
    return {"names": names, "action": _ALLOW, "args": list(tests)}


def _test(index: int, op: str, value: int, value_two: int = 0) -> Json:
    return {"index": index, "op": op, "value": value, "valueTwo": value_two}
