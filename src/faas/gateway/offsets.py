"""Where a client stands in an output: `STDOUT-STDERR`, bytes it has of each."""

import re

from faas.errors import InvalidArgumentError

_OFFSETS = re.compile(r"(\d{1,15})-(\d{1,15})")


def parse_offsets(text: str) -> tuple[int, int]:
    """Read two offsets.

    Raises:
        InvalidArgumentError: it is something else.
    """
    found = _OFFSETS.fullmatch(text)
    if not found:
        raise InvalidArgumentError(
            f"{text[:40]!r} are not offsets",
            hint="they look like 120-0: bytes taken of stdout, then of stderr",
        )
    return int(found[1]), int(found[2])
