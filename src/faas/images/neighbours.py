"""A name that no image has is often a slip of one that some image has."""

import difflib
from collections.abc import Callable, Sequence

from faas.errors import ImageNotFoundError

_LIKENESS_MIN = 0.75
"""One or two letters of a usual name: `pyhton:3.11-slim` is told, `ruby` is no `busybox`."""


def with_neighbour(
    missing: ImageNotFoundError, wanted: str, names: Sequence[str], may_see: Callable[[str], bool]
) -> ImageNotFoundError:
    """Add the name that was probably meant, if the caller may see it."""
    close = difflib.get_close_matches(wanted, names, n=1, cutoff=_LIKENESS_MIN)
    try:
        if not close or not may_see(close[0]):
            return missing
    except ImageNotFoundError:
        return missing
    hint = f"did you mean {close[0]}? Else: {missing.hint}"
    return ImageNotFoundError(missing.message, hint=hint, details=missing.details)
