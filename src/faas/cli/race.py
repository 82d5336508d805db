"""`faas race`: children of one parent side by side, until the first passes."""

from typing import cast

import click

from faas.cli import render
from faas.cli.fork import children_of, show_child
from faas.cli.gateway import Gateway, Json

_SECONDS_MAX = 3600.0
_NOBODY_PASSED = 1


@click.command()
@click.argument("parent")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND...]")
@click.option("-n", "--count", type=click.IntRange(1, 100), default=1, help="Children of COMMAND.")
@click.option("--each", "lines", multiple=True, help="One more child, with a line for sh.")
@click.option("--check", help="A line for sh that must pass in a copy of the child's files.")
@click.option("--timeout", "timeout_seconds", type=float, help="Seconds until each is ended.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead.")
@click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
def command(
    *,
    parent: str,
    argv: tuple[str, ...],
    count: int,
    lines: tuple[str, ...],
    check: str | None,
    timeout_seconds: float | None,
    as_json: bool,
    url: str | None,
) -> int:
    """Run children of PARENT until one exits with 0 and passes --check; end the others.

    What the winner wrote is printed, and its snapshot told on stderr; exit 1 when nobody passed.
    Write -- before COMMAND when it has options of its own.
    """
    if not argv and not lines:
        raise click.UsageError("give a COMMAND, or --each")
    shared: Json = {}
    if timeout_seconds is not None:
        shared["timeout_ms"] = int(timeout_seconds * 1000)
    body: Json = {
        "branch_from": parent,
        "children": children_of(argv, count if argv else 0, lines, shared),
    }
    if check is not None:
        body["check"] = check
    told = Gateway.at(url).post("/api/v1/branches/race", body, seconds_max=_SECONDS_MAX)
    winner = told["winner"]
    if as_json:
        render.json_data(told)
    elif winner is not None:
        for child in cast("list[Json]", told["children"]):
            if child["request_id"] == winner:
                show_child(child)
    else:
        render.say("nobody passed")
    return 0 if winner is not None else _NOBODY_PASSED
