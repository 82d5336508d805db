"""`faas prewarm`: have sandboxes ready, and wait until they are."""

import click

from faas.cli import render
from faas.cli.gateway import Gateway, Json
from faas.errors import DeadlineExceededError

_SLACK_SECONDS = 10.0
"""For the gateway's answer after its own time is up."""


@click.command("prewarm")
@click.argument("image")
@click.argument("count", type=click.IntRange(min=0), default=1)
@click.option("--runtime", help="embedded, docker, microvm; else the gateway chooses.")
@click.option("--isolation", help="The least accepted: container, userns, gvisor, microvm.")
@click.option("--network", help="none or egress, as the executions will have it.")
@click.option("--keep", default=600, show_default=True, help="Keep them ready for SECONDS.")
@click.option("--timeout", default=60.0, show_default=True, help="Wait for SECONDS at most.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
def command(
    *,
    image: str,
    count: int,
    runtime: str | None,
    isolation: str | None,
    network: str | None,
    keep: int,
    timeout: float,
    as_json: bool,
    url: str | None,
) -> None:
    """Have COUNT sandboxes of IMAGE ready; 0 gives them back."""
    wanted: Json = {
        "image": image,
        "count": count,
        "runtime": runtime,
        "isolation": isolation,
        "network": network,
        "keep_seconds": keep,
        "timeout_ms": round(timeout * 1000),
    }
    body: Json = {name: value for name, value in wanted.items() if value is not None}
    answer = Gateway.at(url).post("/api/v1/prewarm", body, seconds_max=timeout + _SLACK_SECONDS)
    if as_json:
        render.json_data(answer)
    said = f"{answer['ready']} ready on {answer['runtime']} until {str(answer['expires_at'])[:19]}"
    if not answer["complete"]:
        raise DeadlineExceededError(
            f"{said}; {answer['making']} are still being made", hint="faas pools"
        )
    if not as_json:
        render.say(said)
