"""`faas instance`: sandboxes that stay. Make, use, stop, start, pause, watch.

Their files are in `instance_files`, their ports in `instance_ports`.
"""

from urllib.parse import quote

import click

from faas import errors
from faas.cli import instance_files, instance_ports, render
from faas.cli.exits import OUR_FAILURE_WHILE_RUNNING
from faas.cli.gateway import Gateway, Json, new_idempotency_key
from faas.cli.instance_files import INSTANCES, path_of, target_of
from faas.cli.run import follow

_url = click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
_STOP_SECONDS_MAX = 300.0
"""Its files are packed and stored first."""


@click.group()
def command() -> None:
    """Make, use and delete instances: sandboxes that stay."""


@command.command("create")
@click.option("--image", help="Image it starts from; the gateway has a default.")
@click.option("--snapshot", "snapshot_id", help="Begin with the files of this snapshot.")
@click.option("--name", help="A name that stands for its id.")
@click.option("--runtime", help="embedded, docker, microvm or auto.")
@click.option(
    "--isolation", help="The least accepted: container, userns, gvisor, microvm; else refused."
)
@click.option("--memory", "memory_mb", type=int, help="Memory in MB.")
@click.option("--cpus", "cpu_cores", type=float, help="Cores, 0.5 is half a one.")
@click.option("--disk", "disk_mb", type=int, help="Disk in MB.")
@click.option("-w", "--workdir", "working_dir", help="Directory its commands start in.")
@click.option("--ttl", "ttl_seconds", type=float, help="Seconds until it is deleted.")
@click.option("--idle", "idle_seconds", type=float, help="Seconds unused until it sleeps.")
@click.option("--lease", "lease_seconds", type=float, help="Seconds it is held without a renewal.")
@click.option("--idle-action", type=click.Choice(["stop", "pause", "pause_to_disk", "delete"]))
@click.option(
    "--memory-state", is_flag=True, help="So that its memory can be kept: on disk, in snapshots."
)
@click.option("-e", "--env", "env", multiple=True, metavar="NAME=VALUE", help="Environment.")
@_json
@_url
def create_command(
    *,
    env: tuple[str, ...],
    memory_state: bool,
    as_json: bool,
    url: str | None,
    **plain: str | float | None,
) -> None:
    """Make an instance and print its id."""
    request: Json = {name: value for name, value in plain.items() if value is not None}
    if memory_state:
        request["memory"] = True
    if env:
        request["env_vars"] = list(env)
    made = Gateway.at(url).post(INSTANCES, request)
    if as_json:
        render.json_data(made)
    else:
        render.data(str(made["id"]))


@command.command("list")
@_json
@_url
def list_command(*, as_json: bool, url: str | None) -> None:
    """List instances, newest first."""
    found = Gateway.at(url).get_list(INSTANCES)
    if as_json:
        render.json_data(found)
        return
    rows = [
        (
            str(item["id"]),
            str(item.get("name") or "-"),
            str(item["status"]) + (" (asleep)" if item.get("asleep") else ""),
            str(item["image"]),
            str(item["created_at"])[:19],
        )
        for item in found
    ]
    render.table(rows, headings=("id", "name", "status", "image", "created"))


@command.command("show")
@click.argument("instance")
@_json
@_url
def show_command(*, instance: str, as_json: bool, url: str | None) -> None:
    """Show one instance."""
    found = Gateway.at(url).get(path_of(instance))
    if as_json:
        render.json_data(found)
        return
    rows = [(name, str(value)) for name, value in found.items() if value not in (None, "")]
    render.table(rows, headings=("field", "value"))


@command.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("instance")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@click.option("--shell", "-c", "is_shell", is_flag=True, help="COMMAND is one line for sh.")
@click.option("-i", "--stdin", "with_stdin", is_flag=True, help="Pass standard input on.")
@click.option("-d", "--detach", is_flag=True, help="Print the id of the execution and leave.")
@click.option("-w", "--workdir", "working_dir", help="Directory to start in.")
@click.option("--timeout", "timeout_seconds", type=float, help="Seconds until it is ended.")
@_json
@_url
def exec_command(
    *,
    instance: str,
    argv: tuple[str, ...],
    is_shell: bool,
    with_stdin: bool,
    detach: bool,
    working_dir: str | None,
    timeout_seconds: float | None,
    as_json: bool,
    url: str | None,
) -> int:
    """Run COMMAND in an instance, stream its output, exit with its code."""
    request: Json = {"command": " ".join(argv) if is_shell else list(argv), "wait": False}
    if working_dir:
        request["working_dir"] = working_dir
    if timeout_seconds is not None:
        request["timeout_ms"] = int(timeout_seconds * 1000)
    if with_stdin:
        request["stdin_open"] = True
    try:
        gateway = Gateway.at(url)
        key = new_idempotency_key()
        stored = gateway.post(f"{path_of(instance)}/exec", request, idempotency_key=key)
        execution_id = str(stored["execution_id"])
        if detach:
            render.data(execution_id)
            return 0
        return follow(gateway, execution_id, as_json=as_json, with_stdin=with_stdin)
    except errors.FaasError as failure:
        render.show_error(failure)
        return OUR_FAILURE_WHILE_RUNNING


def _step(verb: str, said: str, meaning: str) -> None:
    @command.command(verb, help=meaning)
    @click.argument("instance")
    @_url
    def step(*, instance: str, url: str | None) -> None:
        Gateway.at(url).post(f"{path_of(instance)}/{verb}", seconds_max=_STOP_SECONDS_MAX)
        render.say(f"{instance} {said}")

    del step


_step("start", "runs", "Start a stopped instance from its kept files.")
_step("stop", "is stopped", "End its commands, keep its files.")
_step("resume", "runs", "Let a paused instance go on.")


@command.command("pause")
@click.argument("instance")
@click.option("--to-disk", is_flag=True, help="Keep its memory on disk and hold none of it.")
@_url
def pause_command(*, instance: str, to_disk: bool, url: str | None) -> None:
    """Freeze it, memory and all."""
    where = "?to=disk" if to_disk else ""
    Gateway.at(url).post(f"{path_of(instance)}/pause{where}", seconds_max=_STOP_SECONDS_MAX)
    render.say(f"{instance} is paused" + (" on disk" if to_disk else ""))


@command.command("resize")
@click.argument("instance")
@click.option("--memory", "memory_mb", type=int, help="Memory in MB.")
@click.option("--cpus", "cpu_cores", type=float, help="Cores, 0.5 is half a one.")
@_url
def resize_command(*, instance: str, url: str | None, **plain: float | None) -> None:
    """Give an instance other limits, while it runs or for its next start."""
    request: Json = {name: value for name, value in plain.items() if value is not None}
    made = Gateway.at(url).post(f"{path_of(instance)}/resize", request)
    render.say(f"{instance} has {made['memory_mb']} MB and {made['cpu_cores']} cores")


@command.command("lease")
@click.argument("instance")
@click.argument("seconds", type=float, required=False)
@_url
def lease_command(*, instance: str, seconds: float | None, url: str | None) -> None:
    """Hold an instance for SECONDS from now; without SECONDS its lease ends and it stays."""
    made = Gateway.at(url).post(f"{path_of(instance)}/lease", {"seconds": seconds})
    until = made["lease_until"]
    render.say(f"{instance} is held until {until}" if until else f"{instance} has no lease")


@command.command("watch")
@click.argument("target", metavar="INSTANCE:PATH")
@_json
@_url
def watch_command(*, target: str, as_json: bool, url: str | None) -> None:
    """Print what changes below a directory of an instance, until it is deleted."""
    instance, path = target_of(target)
    at = f"{path_of(instance)}/files/watch?path={quote(path, safe='')}"
    for event in Gateway.at(url).events(at):
        if event.name == "ready":
            render.say(f"watching {path}")
        elif event.name == "end":
            return
        elif as_json:
            render.json_data(event.data)
        else:
            render.data(f"{event.data.get('event')} {event.data.get('path')}")


for part in (
    instance_files.list_command,
    instance_files.move_command,
    instance_files.remove_command,
    instance_files.pack_command,
    instance_files.unpack_command,
    instance_files.put_command,
    instance_files.get_command,
    instance_ports.expose_command,
    instance_ports.ports_command,
    instance_ports.close_command,
):
    command.add_command(part)


@command.command("delete")
@click.argument("instance")
@_url
def delete_command(*, instance: str, url: str | None) -> None:
    """End an instance and forget its files."""
    Gateway.at(url).delete(path_of(instance))
    render.say(f"{instance} is deleted")
