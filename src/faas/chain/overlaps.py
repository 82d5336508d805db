"""Finds ABI bytes that unfold to more than they are, before they are decoded.

In an array each entry is a pointer, and a thousand of them may point at one and the same entry: a
hundred kilobytes then decode to as many megabytes, and sixty-four megabytes to more than there is.
The one canonical encoding has every entry once, so whatever overlaps is not canonical anyway.
"""

from collections.abc import Sequence
from typing import Final

_WORD: Final = 32
_UNFOLDING: Final = frozenset({"string[]", "bytes[]"})


def overlaps(types: Sequence[str], data: bytes) -> bool:
    """Whether the entries of an array are more bytes than there are; what does not decode is not.

    Each of the types has to take one word of the head, as all of ours do.
    """
    return any(
        kind in _UNFOLDING and _entries_are_above(data, place * _WORD)
        for place, kind in enumerate(types)
    )


def _entries_are_above(data: bytes, head: int) -> bool:
    start = _word(data, head)
    count, first = _word(data, start), start + _WORD
    if count > (len(data) - first) // _WORD:
        return False
    left = len(data)
    for number in range(count):
        left -= _WORD + _word(data, first + _word(data, first + number * _WORD))
        if left < 0:
            return True
    return False


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + _WORD]) if at < len(data) else 0
