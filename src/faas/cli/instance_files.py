"""Files of an instance, on the command line: copy, list, move, remove; whole trees as tar."""

import sys
from pathlib import Path
from typing import cast
from urllib.parse import quote

import click

from faas.cli import render
from faas.cli.gateway import Gateway, Json

_url = click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
INSTANCES = "/api/v1/instances"
_TREE_SECONDS_MAX = 300.0
_SIGNS = {"directory": "d", "file": "-", "symlink": "l", "other": "?"}


def path_of(instance: str) -> str:
    """The route of an instance."""
    return f"{INSTANCES}/{quote(instance, safe='')}"


def target_of(text: str) -> tuple[str, str]:
    """Read INSTANCE:/PATH.

    Raises:
        click.UsageError: it is not.
    """
    instance, separator, path = text.partition(":")
    if not separator or not path.startswith("/"):
        raise click.UsageError(f"{text!r} is not INSTANCE:/PATH")
    return instance, path


def _at(target: str, what: str) -> str:
    instance, path = target_of(target)
    return f"{path_of(instance)}/{what}?path={quote(path, safe='')}"


@click.command("ls")
@click.argument("target", metavar="INSTANCE:PATH")
@_json
@_url
def list_command(*, target: str, as_json: bool, url: str | None) -> None:
    """List a directory of an instance."""
    found = Gateway.at(url).get(_at(target, "files/list"))
    if as_json:
        render.json_data(found)
        return
    rows = [
        (
            _SIGNS[str(entry["kind"])] + str(entry["mode"]),
            str(entry["size_bytes"]),
            str(entry["modified_at"])[:19],
            "".join(sign if sign.isprintable() else "?" for sign in str(entry["name"])),
        )
        for entry in cast("list[Json]", found["entries"])
    ]
    render.table(rows, headings=("mode", "bytes", "modified", "name"))


@click.command("mv")
@click.argument("source", metavar="INSTANCE:PATH")
@click.argument("target", metavar="PATH")
@_url
def move_command(*, source: str, target: str, url: str | None) -> None:
    """Give a file or directory of an instance another name."""
    instance, path = target_of(source)
    Gateway.at(url).post(f"{path_of(instance)}/files/move", {"source": path, "target": target})


@click.command("rm")
@click.argument("target", metavar="INSTANCE:PATH")
@click.option("-r", "--recursive", is_flag=True, help="A directory with all that is in it.")
@_url
def remove_command(*, target: str, recursive: bool, url: str | None) -> None:
    """Remove a file of an instance."""
    more = "&recursive=true" if recursive else ""
    Gateway.at(url).delete(_at(target, "files") + more)


@click.command("pack")
@click.argument("source", metavar="INSTANCE:DIRECTORY")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_url
def pack_command(*, source: str, file: Path, url: str | None) -> None:
    """Write a directory of an instance to FILE, a tar."""
    with file.open("wb") as sink:
        size = Gateway.at(url).download(_at(source, "archive"), sink)
    render.say(f"{size} bytes written to {file}")


@click.command("unpack")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="INSTANCE:DIRECTORY")
@_url
def unpack_command(*, file: Path, target: str, url: str | None) -> None:
    """Unpack FILE, a tar, below a directory of an instance."""
    with file.open("rb") as source:
        Gateway.at(url).upload("PUT", _at(target, "archive"), source, seconds_max=_TREE_SECONDS_MAX)


@click.command("put")
@click.argument("local", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="INSTANCE:PATH")
@_url
def put_command(*, local: Path, target: str, url: str | None) -> None:
    """Copy a file into an instance."""
    mode = f"{local.stat().st_mode & 0o777:04o}"
    Gateway.at(url).put(f"{_at(target, 'files')}&mode={mode}", local.read_bytes())


@click.command("get")
@click.argument("source", metavar="INSTANCE:PATH")
@click.argument("local", required=False, type=click.Path(dir_okay=False, path_type=Path))
@_url
def get_command(*, source: str, local: Path | None, url: str | None) -> None:
    """Copy a file out of an instance; to stdout without LOCAL."""
    gateway, offset, is_over = Gateway.at(url), 0, False
    with local.open("wb") if local else sys.stdout.buffer as sink:
        while not is_over:
            content, headers = gateway.get_bytes(f"{_at(source, 'files')}&offset={offset}")
            sink.write(content)
            offset, is_over = int(headers["x-next-offset"]), headers["x-ended"] == "true"
            if not content:
                break
        sink.flush()
