"""`faas run`: a command in a fresh sandbox, its output passed through byte for byte.

It exits with the command's code. When the failure is ours the code is 125, as with `docker run`.
Ctrl-C cancels the execution; a second one leaves at once.
"""

import base64
import os
import sys
import threading
from pathlib import Path

import click

from faas import errors
from faas.cli import render, shell_line
from faas.cli.exits import INTERRUPTED, OUR_FAILURE_WHILE_RUNNING
from faas.cli.gateway import Gateway, Json, StreamEvent, event_bytes, new_idempotency_key
from faas.cli.packing import packed
from faas.cli.quantities import Megabytes, Seconds
from faas.model import PullPolicy

_STDIN_PIECE_BYTES = 64 << 10
_SUBMIT_SECONDS_MAX = 60.0

_OPTIONS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command(context_settings=_OPTIONS)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND...")
@click.option("--image", help="Image to run it in; the gateway has a default.")
@click.option(
    "--pull",
    "pull_policy",
    type=click.Choice([one.value for one in PullPolicy]),
    help="When its registry is asked for the image; the gateway has a default.",
)
@click.option("--runtime", help="embedded, docker, microvm or auto.")
@click.option(
    "--isolation", help="The least accepted: container, userns, gvisor, microvm; else refused."
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=Seconds(),
    help="Seconds until it is ended; also 500ms, 2m.",
)
@click.option("--memory", "memory_mb", type=Megabytes(), help="Memory in MB; also 2G.")
@click.option("--cpus", "cpu_cores", type=float, help="Cores, 0.5 is half a one.")
@click.option("-e", "--env", "env", multiple=True, metavar="NAME=VALUE", help="Environment.")
@click.option("-w", "--workdir", "working_dir", help="Directory to start in.")
@click.option("--file", "files", multiple=True, metavar="LOCAL[:PATH]", help="Place a file first.")
@click.option(
    "--archive",
    type=click.Path(exists=True, path_type=Path),
    help="Unpack this tar, or put this directory's files, into the working directory first.",
)
@click.option("--mode", help="ephemeral, cached, checkpointed, branched or persistent.")
@click.option("--snapshot", "snapshot_id", help="Start from the files of this snapshot.")
@click.option("--from", "branch_from", help="Start from this execution, snapshot or instance.")
@click.option(
    "--memory-state",
    is_flag=True,
    help="Its memory can be kept; without COMMAND: go on from the memory of --snapshot or --from.",
)
@click.option(
    "--checkpoint-after",
    "checkpoint_seconds",
    type=float,
    help="Seconds until it is kept, memory and all, and ends; it goes on from the snapshot.",
)
@click.option(
    "--cache", "caches", multiple=True, help="Put in what pip, npm, cargo or go fetched earlier."
)
@click.option("-i", "--stdin", "with_stdin", is_flag=True, help="Pass standard input on.")
@click.option("--shell", "-c", "is_shell", is_flag=True, help="COMMAND is one line for sh.")
@click.option("-d", "--detach", is_flag=True, help="Print the id and leave.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON instead.")
@click.option("--url", help="The gateway; else FAAS_GATEWAY_URL.")
def command(
    *,
    argv: tuple[str, ...],
    is_shell: bool,
    with_stdin: bool,
    detach: bool,
    as_json: bool,
    url: str | None,
    files: tuple[str, ...],
    archive: Path | None,
    env: tuple[str, ...],
    caches: tuple[str, ...],
    timeout_seconds: float | None,
    memory_state: bool,
    checkpoint_seconds: float | None,
    **plain: str | float | None,
) -> int:
    """Run COMMAND in a fresh sandbox, stream its output, exit with its code.

    With --mode checkpointed the snapshot's id is told on stderr. Write -- before COMMAND when it
    has options of its own.
    """
    request: Json = {"wait": False, **_what_runs(argv, is_shell=is_shell, goes_on=memory_state)}
    request |= {name: value for name, value in plain.items() if value is not None}
    request |= memory_fields(memory_state=memory_state, checkpoint_seconds=checkpoint_seconds)
    if "checkpoint_after_ms" in request or "branch_from" in request:
        is_slice = "checkpoint_after_ms" in request
        request.setdefault("mode", "checkpointed" if is_slice else "branched")
    if timeout_seconds is not None:
        request["timeout_ms"] = int(timeout_seconds * 1000)
    request |= _inputs(env, files, archive)
    if caches:
        request["caches"] = list(caches)
    if with_stdin:
        request["stdin_open"] = True
    try:
        gateway = Gateway.at(url)
        execution_id = _submit(gateway, request)
        if detach:
            render.data(execution_id)
            return 0
        code = _Run(gateway, execution_id, as_json=as_json).follow(with_stdin=with_stdin)
        if request.get("mode") == "checkpointed" and not as_json:
            _tell_snapshot(gateway, execution_id)
    except errors.FaasError as failure:
        render.show_error(failure)
        return OUR_FAILURE_WHILE_RUNNING
    return _hinted(code, () if is_shell else argv)


def _what_runs(argv: tuple[str, ...], *, is_shell: bool, goes_on: bool) -> Json:
    if not argv and not goes_on:
        raise click.UsageError("Missing argument 'COMMAND...'.")
    return {"command": " ".join(argv) if is_shell else list(argv)} if argv else {}


def _tell_snapshot(gateway: Gateway, execution_id: str) -> None:
    record = gateway.get(f"/api/v1/executions/{execution_id}")
    render.say(f"faas: kept as {record['snapshot_id']}")


def memory_fields(*, memory_state: bool, checkpoint_seconds: float | None) -> Json:
    """What a request says about memory."""
    fields: Json = {"memory": True} if memory_state else {}
    if checkpoint_seconds is not None:
        fields["checkpoint_after_ms"] = int(checkpoint_seconds * 1000)
    return fields


def _hinted(code: int, argv: tuple[str, ...]) -> int:
    """Add, to a command that was not found, what may have been meant."""
    if argv and code == shell_line.NOT_FOUND and (remedy := shell_line.remedy(argv)):
        render.say(f"\nhint: {remedy}")
    return code


def _inputs(env: tuple[str, ...], files: tuple[str, ...], archive: Path | None) -> Json:
    found: Json = {}
    for pair in env:
        if "=" not in pair:
            raise click.UsageError(f"--env {pair!r} is not NAME=VALUE")
    if env:
        found["env_vars"] = list(env)
    if files:
        found["files"] = [_file(text) for text in files]
    if archive is not None:
        found["archive_base64"] = base64.b64encode(_archive(archive)).decode()
    return found


def _archive(path: Path) -> bytes:
    try:
        return packed(path) if path.is_dir() else path.read_bytes()
    except OSError as failure:
        at = failure.filename or path
        raise click.UsageError(f"--archive: {at}: {failure.strerror}") from None


def _file(text: str) -> Json:
    local, _, target = text.partition(":")
    path = Path(local)
    try:
        content = path.read_bytes()
    except OSError as failure:
        raise click.UsageError(f"--file {local}: {failure.strerror}") from None
    return {
        "path": target or path.name,
        "content_base64": base64.b64encode(content).decode(),
        "mode": path.stat().st_mode & 0o777,
    }


def _submit(gateway: Gateway, request: Json) -> str:
    # The key makes it safe to send again when the connection broke after the request had arrived.
    key = new_idempotency_key()
    answer = gateway.post(
        "/api/v1/execute", request, seconds_max=_SUBMIT_SECONDS_MAX, idempotency_key=key
    )
    return str(answer["execution_id"])


def follow(gateway: Gateway, execution_id: str, *, as_json: bool, with_stdin: bool) -> int:
    """Watch a submitted execution to its end, pass its output on, return its exit code."""
    return _Run(gateway, execution_id, as_json=as_json).follow(with_stdin=with_stdin)


class _Run:
    """One submitted execution that is watched to its end."""

    def __init__(self, gateway: Gateway, execution_id: str, *, as_json: bool) -> None:
        self._gateway = gateway
        self._id = execution_id
        self._as_json = as_json

    def follow(self, *, with_stdin: bool) -> int:
        if with_stdin:
            # A daemon: it may sit in read() when the command has long ended.
            threading.Thread(target=self._feed_stdin, daemon=True).start()
        try:
            end = self._watch()
        except KeyboardInterrupt:
            render.say("cancelling; Ctrl-C again leaves at once")
            self._gateway.post(f"/api/v1/executions/{self._id}/cancel")
            self._show_json()
            return INTERRUPTED
        self._show_json()
        return self._exit_code(end)

    def _watch(self) -> StreamEvent:
        for event in self._gateway.stream(self._id):
            if event.name == "exit":
                return event
            if event.name in ("stdout", "stderr") and not self._as_json:
                render.raw(event_bytes(event), to_stderr=event.name == "stderr")
        raise errors.UnavailableError("the stream ended before the command did")

    def _exit_code(self, end: StreamEvent) -> int:
        failure = end.data.get("failure")
        if isinstance(failure, dict):
            words: Json = failure  # pyright: ignore[reportUnknownVariableType]
            hint = words.get("hint")
            raise errors.FaasError(str(words.get("message")), hint=str(hint) if hint else None)
        reason, code = end.data.get("reason"), end.data.get("exit_code")
        if reason == "timed_out":
            render.say("faas: ended by its time limit (--timeout)")
        elif reason == "out_of_memory":
            render.say("faas: ended by its memory limit (--memory)")
        for stream in ("stdout", "stderr"):
            if end.data.get(f"{stream}_truncated"):
                render.say(f"faas: {stream} was longer than the gateway keeps; the rest is lost")
        return code if isinstance(code, int) else OUR_FAILURE_WHILE_RUNNING

    def _show_json(self) -> None:
        if self._as_json:
            render.json_data(self._gateway.get(f"/api/v1/executions/{self._id}"))

    def _feed_stdin(self) -> None:
        offset = 0
        try:
            while piece := os.read(sys.stdin.fileno(), _STDIN_PIECE_BYTES):
                offset = self._send(piece, offset=offset, is_last=False)
            self._send(b"", offset=offset, is_last=True)
        except errors.ConflictError:
            return  # the command closed its stdin or ended: nobody reads on
        except errors.FaasError as failure:
            render.show_error(failure)

    def _send(self, piece: bytes, *, offset: int, is_last: bool) -> int:
        body: Json = {"data_base64": base64.b64encode(piece).decode(), "offset": offset}
        if is_last:
            body = {"offset": offset, "last": True}
        taken = self._gateway.post(f"/api/v1/executions/{self._id}/stdin", body).get("offset")
        return taken if isinstance(taken, int) else offset + len(piece)
