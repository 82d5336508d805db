"""`faas pools`: what the warm pools hold, and why."""

from typing import cast

import click

from faas.cli import render
from faas.cli.gateway import Gateway, Json

_DIGEST_SHOWN = 19


@click.command("pools")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
def command(*, as_json: bool, url: str | None) -> None:
    """Show the warm pools by template, and the queue."""
    answer = Gateway.at(url).get("/api/v1/pools")
    if as_json:
        render.json_data(answer)
        return
    rows = [_row(pool) for pool in cast("list[Json]", answer["pools"])]
    render.table(
        rows, headings=("image", "runtime", "ready", "making", "busy", "target", "kept", "why")
    )
    render.say(f"{answer['running']} running, {answer['queued']} waiting")


def _row(pool: Json) -> tuple[str, ...]:
    name = pool.get("image") or str(pool["image_digest"])[:_DIGEST_SHOWN]
    ways = [pool["runtime"], pool.get("isolation")]
    runtime = "+".join(str(way) for way in ways if way)
    counts = (str(pool[word]) for word in ("ready", "making", "busy", "target", "kept"))
    return (str(name), runtime, *counts, str(pool["why"]))
