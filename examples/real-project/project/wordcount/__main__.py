"""`python3 -m wordcount [FILE]`: the ten most frequent words of a file, or of stdin."""

import argparse
import sys
from pathlib import Path

from wordcount import count_words, most_common, words_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="wordcount")
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--top", type=int, default=10)
    arguments = parser.parse_args()
    text = arguments.file.read_text() if arguments.file else sys.stdin.read()
    counts = count_words(words_of(text.splitlines()))
    for word, count in most_common(counts, at_most=arguments.top):
        print(f"{count:6d} {word}")
    return 0 if counts else 1


if __name__ == "__main__":
    sys.exit(main())
