"""`faas executions`: list, show, cancel, checkpoint."""

from typing import cast

import click

from faas.cli import render
from faas.cli.gateway import Gateway, Json

_url = click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List, show, cancel or checkpoint executions."""
    if context.invoked_subcommand is None:
        context.invoke(list_command)


@command.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 200))
@click.option("--state", type=click.Choice(["queued", "running", "finished", "failed"]))
@_json
@_url
def list_command(
    *,
    limit: int = 20,
    state: str | None = None,
    as_json: bool = False,
    url: str | None = None,
) -> None:
    """List the newest executions."""
    query = f"?limit={limit}" + (f"&state={state}" if state else "")
    page = Gateway.at(url).get(f"/api/v1/executions{query}")
    if as_json:
        render.json_data(page)
        return
    rows = [_row(item) for item in cast("list[Json]", page["executions"])]
    render.table(rows, headings=("id", "state", "exit", "ms", "created", "command"))


def _row(item: Json) -> tuple[str, ...]:
    words = cast("list[str]", item.get("command") or [])
    line = " ".join(words).replace("\n", " ")
    return (
        str(item["execution_id"]),
        str(item.get("reason") if item.get("reason") not in (None, "exited") else item["state"]),
        _or_dash(item.get("exit_code")),
        _or_dash(item.get("duration_ms")),
        str(item.get("created_at") or "")[:19],
        "".join(sign if sign.isprintable() else "?" for sign in line[:60]),
    )


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


@command.command("show")
@click.argument("execution_id")
@_json
@_url
def show_command(*, execution_id: str, as_json: bool, url: str | None) -> None:
    """Show one execution, without its output unless --json."""
    found = Gateway.at(url).get(f"/api/v1/executions/{execution_id}")
    if as_json:
        render.json_data(found)
        return
    said = ("stdout", "stderr", "output", "logs", "stdout_base64", "stderr_base64", "request_id")
    rows = [
        (name, _flat(value))
        for name, value in found.items()
        if name not in said and value is not None
    ]
    render.table(rows, headings=("field", "value"))


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in cast("Json", value).items())
    return str(value)


@command.command("cancel")
@click.argument("execution_id")
@_json
@_url
def cancel_command(*, execution_id: str, as_json: bool, url: str | None) -> None:
    """End an execution now; harmless when it has ended."""
    found = Gateway.at(url).post(f"/api/v1/executions/{execution_id}/cancel")
    if as_json:
        render.json_data(found)
    else:
        render.say(f"{execution_id} is {found.get('reason') or found.get('state')}")


@command.command("checkpoint")
@click.argument("execution_id")
@click.option("--files-only", is_flag=True, help="Not its processes and memory.")
@click.option("--stop", is_flag=True, help="End it here; it goes on from the snapshot.")
@click.option("--name", help="What to call the snapshot.")
@_json
@_url
def checkpoint_command(
    *,
    execution_id: str,
    files_only: bool,
    stop: bool,
    name: str | None,
    as_json: bool,
    url: str | None,
) -> None:
    """Keep a running execution, memory and all, and print the snapshot's id."""
    body: Json = {"memory": not files_only, "stop": stop}
    if name:
        body["name"] = name
    made = Gateway.at(url).post(f"/api/v1/executions/{execution_id}/checkpoint", body)
    if as_json:
        render.json_data(made)
    else:
        render.data(str(made["id"]))
