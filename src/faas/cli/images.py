"""`faas images`: list, import, pull, build, remove.

These work on the data directory itself, with a gateway running on it or not: the store is made for
several processes, and a gateway sees a new image at its next request.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import click

from faas.assembly import open_engine_images, open_images
from faas.cli import build_context, render
from faas.config import Settings, load
from faas.images import ImagePuller, ImageRecord, ImageStore
from faas.model import PullStep
from faas.sandbox.image_keeper import BuildOrder, ImageShelf, KeptImage
from faas.sandbox.protocols import RootFilesystem

T = TypeVar("T")

_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Of the gateway; else FAAS_DATA_DIR."
)

_runtime = click.option(
    "--runtime", type=click.Choice(["docker"]), help="The images that the Docker Engine keeps."
)


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List, import, pull, build or remove images."""
    if context.invoked_subcommand is None:
        context.invoke(list_command)


@command.command("list")
@_json
@_data_dir
@_runtime
def list_command(
    *, as_json: bool = False, data_dir: Path | None = None, runtime: str | None = None
) -> None:
    """List the images here, and what other names stand for; or those of the Docker Engine."""
    if runtime is not None:
        _list_kept(asyncio.run(_with_engine(data_dir, lambda shelf: shelf.list())), as_json=as_json)
        return
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


def _list_kept(images: list[KeptImage], *, as_json: bool) -> None:
    if as_json:
        render.json_data({"images": [_plain_kept(image) for image in images]})
        return
    rows = [(one.reference, one.digest[:19], _size(one.size_bytes), "docker") for one in images]
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
@_runtime
def pull_command(*, name: str, as_json: bool, data_dir: Path | None, runtime: str | None) -> None:
    """Pull NAME from its registry: by skopeo to here, or by the Docker Engine to itself."""
    if runtime is None:
        image = asyncio.run(ImagePuller(_store(data_dir)).pull(name, told=_show))
        plain, digest = _plain(image), image.digest
    else:
        root = asyncio.run(
            _with_engine(data_dir, lambda shelf: shelf.pull(name, login=None, told=_show))
        )
        plain, digest = {"reference": name, "digest": root.digest}, root.digest
    if as_json:
        render.json_data(plain)
    else:
        render.say(f"{name} is {digest}")


@command.command("build")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-t", "--tag", "name", required=True, help="The name it gets.")
@click.option("-f", "--file", "dockerfile", default="Dockerfile", help="In DIRECTORY.")
@click.option("--target", help="The stage to stop at.")
@click.option("--build-arg", "arguments", multiple=True, metavar="NAME=VALUE")
@click.option("--network", type=click.Choice(["default", "none"]), default="default")
@click.option("--no-cache", is_flag=True, help="Build every step anew.")
@_data_dir
def build_command(
    *,
    directory: Path,
    name: str,
    dockerfile: str,
    target: str | None,
    arguments: tuple[str, ...],
    network: str,
    no_cache: bool,
    data_dir: Path | None,
) -> None:
    """Build an image from the Dockerfile in DIRECTORY, by the Docker Engine."""
    settings = load({"data_dir": data_dir}).settings
    order = BuildOrder(
        reference=name,
        dockerfile=dockerfile,
        target=target,
        arguments=tuple(_argument(text) for text in arguments),
        network=network,
        use_cache=not no_cache,
        seconds_max=settings.build_seconds_max,
    )
    with TemporaryDirectory(prefix="faas-build-") as scratch:
        context = Path(scratch) / "context.tar"
        build_context.write(
            directory, context, dockerfile=dockerfile, bytes_max=settings.build_bytes_max
        )
        root = asyncio.run(_build(settings, context, order))
    render.say(f"{name} is {root.digest}")


async def _build(settings: Settings, context: Path, order: BuildOrder) -> RootFilesystem:
    async with open_engine_images(settings) as shelf, asyncio.timeout(order.seconds_max):
        async with aclosing(shelf.build(context, order)) as words:
            async for text in words:
                render.say(text.rstrip("\n"))
        found = await shelf.find(order.reference)
    assert found is not None  # noqa: S101  the build looked for it
    return found


def _argument(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--build-arg {text!r} is not NAME=VALUE")
    return name, value


@command.command("remove")
@click.argument("name")
@_data_dir
@_runtime
def remove_command(*, name: str, data_dir: Path | None, runtime: str | None) -> None:
    """Forget NAME; refused while it is in use."""
    if runtime is None:
        asyncio.run(_store(data_dir).remove(name))
    else:
        asyncio.run(_with_engine(data_dir, lambda shelf: shelf.remove(name)))
    render.say(f"{name} is removed")


async def _with_engine(data_dir: Path | None, act: Callable[[ImageShelf], Awaitable[T]]) -> T:
    async with open_engine_images(load({"data_dir": data_dir}).settings) as shelf:
        return await act(shelf)


def _show(step: PullStep) -> None:
    size = "" if step.current_bytes is None else f" {_size(step.current_bytes)}"
    render.say(f"{step.layer or 'image'}: {step.status}{size}")


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


def _plain_kept(image: KeptImage) -> dict[str, object]:
    return {
        "reference": image.reference,
        "digest": image.digest,
        "size_bytes": image.size_bytes,
        "source": "docker",
        "created_at": image.created_at.isoformat() if image.created_at else None,
    }


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / (1 << 20):.1f} MiB"
