"""A directory as the tar that an image is built from, without what `.dockerignore` names.

Patterns are Docker's: one a line, from the top of the directory, `*` and `?` in a name, `**` over
names, a leading `!` takes back what a former line left out; the last that fits decides.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faas.errors import InvalidArgumentError, TooLargeError

_PATTERNS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Ignore:
    """The patterns of one file."""

    rules: tuple[tuple[re.Pattern[str], bool], ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Ignore":
        """Read a `.dockerignore`; none is nothing to leave out."""
        try:
            lines = path.read_text().splitlines()[:_PATTERNS_MAX]
        except OSError:
            return cls()
        rules: list[tuple[re.Pattern[str], bool]] = []
        for line in (line.strip() for line in lines):
            if not line or line.startswith("#"):
                continue
            is_kept = line.startswith("!")
            rules.append((_pattern(line.removeprefix("!")), is_kept))
        return cls(tuple(rules))

    def leaves_out(self, path: str) -> bool:
        """Whether a path, or a directory above it, is left out."""
        parts = path.split("/")
        above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        is_out = False
        for pattern, is_kept in self.rules:
            if any(pattern.fullmatch(one) for one in above):
                is_out = not is_kept
        return is_out


def write(directory: Path, target: Path, *, dockerfile: str, bytes_max: int) -> None:
    """Write the context of a build.

    Raises:
        InvalidArgumentError: there is no Dockerfile in it.
        TooLargeError: it is larger than the gateway takes.
    """
    if not (directory / dockerfile).is_file():
        raise InvalidArgumentError(
            f"there is no {dockerfile} in {directory}", hint="name another with --file"
        )
    ignore = Ignore.read(directory / ".dockerignore")
    size = 0
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in _below(directory):
            name = str(path.relative_to(directory))
            if name not in (dockerfile, ".dockerignore") and ignore.leaves_out(name):
                continue
            if path.is_file() and not path.is_symlink():
                size += path.stat().st_size
                if size > bytes_max:
                    raise TooLargeError(
                        f"{directory} holds more than {bytes_max} bytes",
                        hint="leave out what is not needed, in .dockerignore",
                    )
            tar.add(path, arcname=name, recursive=False)


def _below(directory: Path) -> Iterator[Path]:
    for at, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted([*directories, *names]):
            yield Path(at) / name


def _pattern(text: str) -> re.Pattern[str]:
    found = ""
    pieces = re.split(r"(\*\*/?|\*|\?)", text.strip("/").removeprefix("./"))
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    for piece in pieces:
        found += words.get(piece, re.escape(piece))
    return re.compile(found)
