"""`faas instance expose`, `ports`, `close`: ports of an instance, reached from outside."""

from urllib.parse import quote

import click

from faas.cli import render
from faas.cli.gateway import Gateway, Json

_url = click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


@click.command("expose")
@click.argument("instance")
@click.argument("port", type=click.IntRange(1, 65_535))
@click.option("--subdomain", help="First label of its address; else port and instance.")
@click.option("--for", "token_seconds", type=int, help="Seconds the token opens it; a day.")
@_json
@_url
def expose_command(
    *,
    instance: str,
    port: int,
    subdomain: str | None,
    token_seconds: int | None,
    as_json: bool,
    url: str | None,
) -> None:
    """Let PORT be reached and print an address that a browser can open."""
    request: Json = {"port": port}
    if subdomain:
        request["subdomain"] = subdomain
    if token_seconds is not None:
        request["token_seconds"] = token_seconds
    made = Gateway.at(url).post(_path(instance), request)
    if as_json:
        render.json_data(made)
    else:
        render.data(str(made["open_url"]))
        render.say(
            f"until {str(made['expires_at'])[:19]}Z, or `faas instance close {instance} {port}`"
        )


@click.command("ports")
@click.argument("instance")
@_json
@_url
def ports_command(*, instance: str, as_json: bool, url: str | None) -> None:
    """List the exposed ports of an instance."""
    found = Gateway.at(url).get_list(_path(instance))
    if as_json:
        render.json_data(found)
        return
    rows = [(str(one["port"]), str(one["url"]), str(one["exposed_at"])[:19]) for one in found]
    render.table(rows, headings=("port", "address", "exposed"))


@click.command("close")
@click.argument("instance")
@click.argument("port", type=click.IntRange(1, 65_535))
@_url
def close_command(*, instance: str, port: int, url: str | None) -> None:
    """Let PORT be reached no more; open connections are cut."""
    Gateway.at(url).delete(f"{_path(instance)}/{port}")
    render.say(f"port {port} of {instance} is closed")


def _path(instance: str) -> str:
    return f"/api/v1/instances/{quote(instance, safe='')}/ports"
