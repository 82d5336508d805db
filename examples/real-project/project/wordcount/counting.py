"""From words to numbers."""

from collections import Counter
from collections.abc import Iterable


def count_words(words: Iterable[str]) -> "Counter[str]":
    """Count how often each word comes."""
    return Counter(words)


def most_common(counts: "Counter[str]", *, at_most: int) -> list[tuple[str, int]]:
    """List the most frequent words; of equally frequent ones the alphabet decides."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ranked[:at_most]
