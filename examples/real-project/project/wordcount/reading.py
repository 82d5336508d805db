"""From text to words."""

import re
from collections.abc import Iterable, Iterator

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words_of(lines: Iterable[str]) -> Iterator[str]:
    """Yield each word, lower case; apostrophes inside a word belong to it."""
    for line in lines:
        for found in WORD.finditer(line):
            yield found.group().casefold()
