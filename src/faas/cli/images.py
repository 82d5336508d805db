"""`faas images`: list, import, pull, remove.

These work on the data directory itself, with a gateway running on it or not: the store is made for
several processes, and a gateway sees a new image at its next request.
"""

import asyncio
from pathlib import Path

import click

from faas.assembly import open_images
from faas.cli import render
from faas.config import load
from faas.images import ImagePuller, ImageRecord, ImageStore

_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Of the gateway; else FAAS_DATA_DIR."
)


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List, import, pull or remove images."""
    if context.invoked_subcommand is None:
        context.invoke(list_command)


@command.command("list")
@_json
@_data_dir
def list_command(*, as_json: bool = False, data_dir: Path | None = None) -> None:
    """List the images here, and what other names stand for."""
    settings = load({"data_dir": data_dir}).settings
    images = _store(data_dir).list()
    if as_json:
        render.json_data({"images": [_plain(image) for image in images]})
        return
    rows = [
        (image.reference, image.digest[:19], _size(image.size_bytes), image.source)
        for image in images
    ]
    known = {image.reference for image in images}
    rows += [
        (name, "-", "-", f"alias of {target}")
        for name, target in settings.image_aliases.items()
        if name not in known
    ]
    render.table(rows, headings=("name", "digest", "size", "source"))


@command.command("import")
@click.argument("name")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@_json
@_data_dir
def import_command(*, name: str, source: Path, as_json: bool, data_dir: Path | None) -> None:
    """Import SOURCE under NAME: a tar, a directory, an OCI layout, or what `docker save` writes."""
    image = asyncio.run(_store(data_dir).import_(name, source))
    if as_json:
        render.json_data(_plain(image))
    else:
        render.say(f"{image.reference} is {image.digest}, {_size(image.size_bytes)}")


@command.command("pull")
@click.argument("name")
@_json
@_data_dir
def pull_command(*, name: str, as_json: bool, data_dir: Path | None) -> None:
    """Pull NAME from its registry, by skopeo."""
    image = asyncio.run(ImagePuller(_store(data_dir)).pull(name))
    if as_json:
        render.json_data(_plain(image))
    else:
        render.say(f"{image.reference} is {image.digest}, {_size(image.size_bytes)}")


@command.command("remove")
@click.argument("name")
@_data_dir
def remove_command(*, name: str, data_dir: Path | None) -> None:
    """Forget NAME; refused while it is in use."""
    asyncio.run(_store(data_dir).remove(name))
    render.say(f"{name} is removed")


def _store(data_dir: Path | None) -> ImageStore:
    settings = load({"data_dir": data_dir}).settings
    return open_images(settings, settings.data_dir.expanduser().absolute() / "images")


def _plain(image: ImageRecord) -> dict[str, object]:
    return {
        "reference": image.reference,
        "digest": image.digest,
        "size_bytes": image.size_bytes,
        "source": image.source,
        "created_at": image.created_at.isoformat() if image.created_at else None,
    }


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / (1 << 20):.1f} MiB"
