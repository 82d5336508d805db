"""`faas logs`: what an execution wrote, byte for byte; -f follows it to its end."""

import http.client

import click

from faas import errors
from faas.cli import render
from faas.cli.gateway import Gateway, event_bytes

_PIECE_BYTES = 1 << 20


@click.command()
@click.argument("execution_id")
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends.")
@click.option(
    "--stream", type=click.Choice(["stdout", "stderr", "both"]), default="both", show_default=True
)
@click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
def command(*, execution_id: str, follow: bool, stream: str, url: str | None) -> None:
    """Print what an execution wrote: its stdout to stdout, its stderr to stderr."""
    gateway = Gateway.at(url)
    wanted = ("stdout", "stderr") if stream == "both" else (stream,)
    if follow:
        _follow(gateway, execution_id, wanted)
        return
    for name in wanted:
        _print(gateway, execution_id, name)


def _follow(gateway: Gateway, execution_id: str, wanted: tuple[str, ...]) -> None:
    for event in gateway.stream(execution_id):
        if event.name in wanted:
            render.raw(event_bytes(event), to_stderr=event.name == "stderr")


def _print(gateway: Gateway, execution_id: str, name: str) -> None:
    offset = 0
    while True:
        path = f"/api/v1/executions/{execution_id}/logs"
        query = f"?stream={name}&offset={offset}&limit={_PIECE_BYTES}"
        try:
            content, _ = gateway.get_bytes(path + query)
        except (OSError, http.client.HTTPException) as failure:
            raise errors.UnavailableError("the gateway does not answer") from failure
        if not content:
            return
        render.raw(content, to_stderr=name == "stderr")
        offset += len(content)
