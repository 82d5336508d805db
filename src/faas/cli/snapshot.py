"""`faas snapshot`: keep, list, tell apart, carry away and bring back, delete."""

from pathlib import Path
from typing import cast

import click

from faas.cli import render
from faas.cli.gateway import Gateway, Json

_url = click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
_SECONDS_MAX = 600.0


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Keep, list, compare, move and delete snapshots."""
    if context.invoked_subcommand is None:
        context.invoke(list_command)


@command.command("create")
@click.argument("source")
@click.option("--name", help="What to call it.")
@click.option("--tag", "tags", multiple=True, help="May be repeated.")
@click.option("--memory-state", "memory", is_flag=True, help="Its processes and memory too.")
@click.option("--keep", "keep_seconds", type=float, help="Seconds until it is forgotten.")
@_json
@_url
def create_command(
    *,
    source: str,
    name: str | None,
    tags: tuple[str, ...],
    memory: bool,
    keep_seconds: float | None,
    as_json: bool,
    url: str | None,
) -> None:
    """Keep the files of SOURCE, an execution or instance, and print the snapshot's id."""
    body: Json = {"container_id": source, "tags": list(tags), "memory": memory}
    if name:
        body["name"] = name
    if keep_seconds is not None:
        body["keep_seconds"] = keep_seconds
    made = Gateway.at(url).post("/api/v1/snapshots", body, seconds_max=_SECONDS_MAX)
    if as_json:
        render.json_data(made)
    else:
        render.data(str(made["id"]))


@command.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 500))
@_json
@_url
def list_command(*, limit: int = 20, as_json: bool = False, url: str | None = None) -> None:
    """List the newest snapshots."""
    found = Gateway.at(url).get_list(f"/api/v1/snapshots?limit={limit}")
    if as_json:
        render.json_data({"snapshots": found})
        return
    rows = [
        (
            str(item["id"]),
            str(item.get("name") or "-"),
            str(item["size_bytes"]),
            str(item["image"]),
            str(item["created_at"])[:19],
            " ".join(cast("list[str]", item["tags"])) or "-",
        )
        for item in found
    ]
    render.table(rows, headings=("id", "name", "bytes", "image", "created", "tags"))


@command.command("show")
@click.argument("snapshot_id")
@_json
@_url
def show_command(*, snapshot_id: str, as_json: bool, url: str | None) -> None:
    """Show one snapshot, by its id or the id of its execution."""
    found = Gateway.at(url).get(f"/api/v1/snapshots/{snapshot_id}")
    if as_json:
        render.json_data(found)
        return
    rows = [(name, str(value)) for name, value in found.items() if value not in (None, [])]
    render.table(rows, headings=("field", "value"))


@command.command("tag")
@click.argument("snapshot_id")
@click.argument("tags", nargs=-1)
@click.option("--name", help="What to call it.")
@click.option("--keep", "keep_seconds", type=float, help="Seconds from now it is kept; 0: always.")
@_url
def tag_command(
    *,
    snapshot_id: str,
    tags: tuple[str, ...],
    name: str | None,
    keep_seconds: float | None,
    url: str | None,
) -> None:
    """Give a snapshot these TAGS instead of those it has, a name, or a time; the rest stays."""
    body: Json = {"name": name, "keep_seconds": keep_seconds}
    if tags or (name is None and keep_seconds is None):
        body["tags"] = list(tags)
    Gateway.at(url).post(f"/api/v1/snapshots/{snapshot_id}/tags", body)
    render.say(f"{snapshot_id} is told")


@command.command("restore")
@click.argument("snapshot_id")
@_json
@_url
def restore_command(*, snapshot_id: str, as_json: bool, url: str | None) -> None:
    """Start an instance from a snapshot, with its memory if it has some, and print its id."""
    made = Gateway.at(url).post(
        f"/api/v1/snapshots/{snapshot_id}/restore", seconds_max=_SECONDS_MAX
    )
    if as_json:
        render.json_data(made)
    else:
        render.data(str(made["id"]))


@command.command("verify")
@click.argument("snapshot_id")
@_url
def verify_command(*, snapshot_id: str, url: str | None) -> None:
    """Read every byte of a snapshot; exit 10 when something is damaged."""
    Gateway.at(url).post(f"/api/v1/snapshots/{snapshot_id}/verify", seconds_max=_SECONDS_MAX)
    render.say(f"{snapshot_id} is whole")


@command.command("gc")
@_url
def gc_command(*, url: str | None) -> None:
    """Delete bytes that no snapshot needs."""
    told = Gateway.at(url).post("/api/v1/snapshots/gc", seconds_max=_SECONDS_MAX)
    render.say(f"{told['deleted']} blobs are gone")


@command.command("diff")
@click.argument("before")
@click.argument("after")
@_json
@_url
def diff_command(*, before: str, after: str, as_json: bool, url: str | None) -> None:
    """List the paths that differ between two snapshots."""
    told = Gateway.at(url).get(f"/api/v1/snapshots/{before}/diff/{after}")
    if as_json:
        render.json_data(told)
        return
    for change in cast("list[Json]", told["changes"]):
        path = "".join(sign if sign.isprintable() else "?" for sign in str(change["path"]))
        render.data(f"{change['kind']!s:9} {path}")


@command.command("export")
@click.argument("snapshot_id")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_url
def export_command(*, snapshot_id: str, file: Path, url: str | None) -> None:
    """Write a snapshot to FILE."""
    staged = file.with_name(file.name + ".part")
    try:
        with staged.open("wb") as sink:
            size = Gateway.at(url).download(f"/api/v1/snapshots/{snapshot_id}/export", sink)
        staged.rename(file)
    finally:
        staged.unlink(missing_ok=True)
    render.say(f"{size} bytes written to {file}")


@command.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_url
def import_command(*, file: Path, url: str | None) -> None:
    """Take in a FILE that export wrote, and print the snapshot's id."""
    with file.open("rb") as source:
        made = Gateway.at(url).upload(
            "POST", "/api/v1/snapshots/import", source, seconds_max=_SECONDS_MAX
        )
    render.data(str(made["id"]))


@command.command("merge")
@click.argument("branches", nargs=-1, required=True)
@click.option(
    "--strategy",
    type=click.Choice(["union", "intersection", "latest", "ours", "theirs"]),
    default="union",
    show_default=True,
)
@_json
@_url
def merge_command(
    *, branches: tuple[str, ...], strategy: str, as_json: bool, url: str | None
) -> None:
    """Make one snapshot of BRANCHES, executions or snapshots, and print its id."""
    told = Gateway.at(url).post(
        "/api/v1/branches/merge",
        {"branches": list(branches), "strategy": strategy},
        seconds_max=_SECONDS_MAX,
    )
    if as_json:
        render.json_data(told)
        return
    for conflict in cast("list[Json]", told["conflicts"]):
        render.say(f"conflict: {conflict['path']!s}: {conflict['resolution']!s}")
    render.data(str(told["snapshot_id"]))


@command.command("delete")
@click.argument("snapshot_id")
@_url
def delete_command(*, snapshot_id: str, url: str | None) -> None:
    """Forget a snapshot; refused while a child of it lives."""
    Gateway.at(url).delete(f"/api/v1/snapshots/{snapshot_id}")
    render.say(f"{snapshot_id} is gone")
