"""`faas fork`: children of one parent side by side, each in its own copy of what it left."""

import base64

import click

from faas.cli import render
from faas.cli.exits import OUR_FAILURE_WHILE_RUNNING
from faas.cli.gateway import Gateway, Json
from faas.cli.run import memory_fields

_SECONDS_MAX = 3600.0
"""The longest a command may run by default; the answer comes when the last child has ended."""


@click.command()
@click.argument("parent")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND...]")
@click.option("-n", "--count", type=click.IntRange(1, 100), default=1, help="Children of COMMAND.")
@click.option("--each", "lines", multiple=True, help="One more child, with a line for sh.")
@click.option("--mode", help="branched, or checkpointed to keep what each child leaves.")
@click.option("--timeout", "timeout_seconds", type=float, help="Seconds until each is ended.")
@click.option(
    "--memory-state",
    is_flag=True,
    help="Without a command: the parent's processes go on in each child.",
)
@click.option(
    "--checkpoint-after",
    "checkpoint_seconds",
    type=float,
    help="Seconds until each child is kept, memory and all, and ends.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead.")
@click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
def command(
    *,
    parent: str,
    argv: tuple[str, ...],
    count: int,
    lines: tuple[str, ...],
    mode: str | None,
    timeout_seconds: float | None,
    memory_state: bool,
    checkpoint_seconds: float | None,
    as_json: bool,
    url: str | None,
) -> int:
    """Run COMMAND, or each --each, in copies of what PARENT left behind.

    PARENT is an execution, a snapshot or an instance. What the children wrote is printed in their
    order when all have ended; the exit code is the first of theirs that is not 0. Write -- before
    COMMAND when it has options of its own.
    """
    shared: Json = memory_fields(memory_state=memory_state, checkpoint_seconds=checkpoint_seconds)
    if mode is not None or checkpoint_seconds is not None:
        shared["mode"] = mode or "checkpointed"
    if timeout_seconds is not None:
        shared["timeout_ms"] = int(timeout_seconds * 1000)
    if not argv and not lines and not memory_state:
        raise click.UsageError("give a COMMAND, or --each")
    children = children_of(argv, count if argv or not lines else 0, lines, shared)
    told = Gateway.at(url).post_for_list(
        "/api/v1/fork",
        {"branch_from": parent, "children": children},
        seconds_max=_SECONDS_MAX,
    )
    if as_json:
        render.json_data(told)
    else:
        for child in told:
            show_child(child)
    return next((code for code in map(_exit_code, told) if code != 0), 0)


def _exit_code(child: Json) -> int:
    code = child["exit_code"]
    return code if isinstance(code, int) else OUR_FAILURE_WHILE_RUNNING


def children_of(
    argv: tuple[str, ...], count: int, lines: tuple[str, ...], shared: Json
) -> list[Json]:
    """The children of a request: so many of one command, then one of each line."""
    alike: Json = {**shared, "command": list(argv)} if argv else shared
    return [alike] * count + [{**shared, "command": line} for line in lines]


def show_child(child: Json) -> None:
    """Print what a child wrote, and how it ended."""
    for stream in ("stdout", "stderr"):
        render.raw(_written(child, stream), to_stderr=stream == "stderr")
    words = str(child["reason"] or child["state"])
    if words == "exited":
        words += f" with {child['exit_code']}"
    kept = child.get("snapshot_id")
    render.say(f"{child['request_id']} {words}" + (f", kept as {kept}" if kept else ""))


def _written(child: Json, stream: str) -> bytes:
    exact = child.get(f"{stream}_base64")
    if exact is not None:
        return base64.b64decode(str(exact))
    return str(child[stream] or "").encode()
