"""Everything the command line says: tables, JSON, errors with hints. The only place that writes."""

import sys
from collections.abc import Sequence

import click

from faas.cli.exits import exit_code
from faas.errors import FaasError


def say(text: str) -> None:
    """Tell a person something (stderr)."""
    click.echo(text, err=True)


def data(text: str) -> None:
    """Write a line of data (stdout)."""
    click.echo(text)


def json_data(value: object) -> None:
    """Write data as JSON, one document."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def raw(content: bytes, *, to_stderr: bool = False) -> None:
    """Pass bytes through untouched, at once."""
    stream = sys.stderr.buffer if to_stderr else sys.stdout.buffer
    stream.write(content)
    stream.flush()


def table(rows: Sequence[Sequence[str]], *, headings: Sequence[str]) -> None:
    """Write plain columns: no boxes, so that they can be cut and sorted."""
    lines = [tuple(heading.upper() for heading in headings), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def show_error(failure: FaasError) -> int:
    """Say what went wrong and what to do; return the exit code for it."""
    say(f"{_strong('error:')} {failure.message}")
    problems = failure.details.get("problems")
    if isinstance(problems, list | tuple):
        # A gateway names each by its path in the message already.
        for problem in problems:  # pyright: ignore[reportUnknownVariableType]
            if isinstance(problem, str):
                say(f"  {problem}")
    if failure.hint:
        say(f"\n{_strong('hint:')} {failure.hint}")
    trace = failure.details.get("trace_id")
    if trace and exit_code(failure) == exit_code(FaasError()):
        say(f"trace id: {trace}")
    return exit_code(failure)


def _strong(word: str) -> str:
    # click takes styles away when stderr is no terminal, but does not know NO_COLOR.
    from faas.config import wants_colour

    return click.style(word, bold=True) if wants_colour() else word
