"""Counts words: a small program of several files, to have something real to test."""

from wordcount.counting import count_words, most_common
from wordcount.reading import words_of

__all__ = ["count_words", "most_common", "words_of"]
