"""Typed ids with a prefix: mint and parse.

An id is `<prefix>-<26 characters>`: a 48-bit millisecond time and 80 random bits in
Crockford's base 32 (the ULID layout), lower case, so ids sort by the time they were minted
and are safe as file, cgroup and container names.
"""

import os
import re
import time
from functools import lru_cache
from typing import NewType

from faas.errors import InvalidArgumentError

ExecutionId = NewType("ExecutionId", str)
SandboxId = NewType("SandboxId", str)
InstanceId = NewType("InstanceId", str)
SnapshotId = NewType("SnapshotId", str)
BranchId = NewType("BranchId", str)
TenantId = NewType("TenantId", str)
CallId = NewType("CallId", int)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_SHAPE = re.compile(r"(exec|sbx|inst|snap|br)-[0-9a-hjkmnp-tv-z]{26}")


_SHIFTS = range(70, -1, -10)
_RANDOM_BITS = 80
_STEP_BYTES = 5
"""Of one millisecond the next id is up to 2**40 above the last: sorted, and not to be guessed."""


class _Minter:
    """Makes ids that sort by the order they were made in, also within one millisecond."""

    def __init__(self) -> None:
        self._ms = 0
        self._value = 0

    def mint(self, prefix: str) -> str:
        ms = time.time_ns() // 1_000_000
        if ms > self._ms:
            self._ms, self._value = ms, int.from_bytes(os.urandom(_RANDOM_BITS // 8), "big") >> 1
        else:
            self._value += 1 + int.from_bytes(os.urandom(_STEP_BYTES), "big")
        value = self._value
        pairs = [_PAIRS[(value >> shift) & 1023] for shift in _SHIFTS]
        return f"{prefix}-{_of_time(self._ms)}{''.join(pairs)}"


_mint = _Minter().mint


@lru_cache(maxsize=1)
def _of_time(ms: int) -> str:
    """Spell the part that all ids of one millisecond share."""
    return "".join(_PAIRS[(ms >> shift) & 1023] for shift in range(40, -1, -10))


def derived(prefix: str, digest: bytes) -> str:
    """Make the one id of a digest of at least 16 bytes: who asks again gets the same."""
    value = int.from_bytes(digest[:16])
    pairs = [_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)]
    return f"{prefix}-{''.join(pairs)}"


def new_execution_id() -> ExecutionId:
    """Mint the id of one execution (`request_id` on the wire)."""
    return ExecutionId(_mint("exec"))


def new_sandbox_id() -> SandboxId:
    """Mint the id of one sandbox (`container_id` on the wire)."""
    return SandboxId(_mint("sbx"))


def new_instance_id() -> InstanceId:
    """Mint the id of one instance."""
    return InstanceId(_mint("inst"))


def new_snapshot_id() -> SnapshotId:
    """Mint the id of one snapshot."""
    return SnapshotId(_mint("snap"))


def new_branch_id() -> BranchId:
    """Mint the id of one branch."""
    return BranchId(_mint("br"))


def parse(text: str, *, prefix: str) -> str:
    """Return `text` when it is an id with that prefix.

    Raises:
        InvalidArgumentError: it has another shape.
    """
    if _SHAPE.fullmatch(text) and text.startswith(prefix + "-"):
        return text
    raise InvalidArgumentError(
        f"{text[:64]!r} is not an id that starts with {prefix}-",
        hint=f"ids look like {prefix}-01k9zjv3f8q5r2m7c4x6w0n1ab",
    )
