"""Commands and their output in documents: `console` blocks, where `…` stands for anything."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One `$` line and what is shown below it."""

    command: str
    shown: str
    line: int

    def is_met_by(self, output: str) -> bool:
        """Whether the output is what the document shows; runs of blanks count as one."""
        return re.fullmatch(_pattern(self.shown), _squeezed(output), re.DOTALL) is not None


def steps(document: Path) -> list[Step]:
    """Every step of a document, in order."""
    found: list[Step] = []
    inside = False
    for number, line in enumerate(document.read_text().splitlines(), start=1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            found.append(Step(line[2:], "", number))
        elif inside:
            last = found.pop()
            found.append(Step(last.command, last.shown + line + "\n", last.line))
    return found


def _squeezed(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text).strip()


def _pattern(shown: str) -> str:
    return ".*".join(re.escape(part) for part in _squeezed(shown).split("…"))
