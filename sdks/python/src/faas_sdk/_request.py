"""The body of `POST /api/v1/execute`, from what a Python program has in its hands."""

from __future__ import annotations

import base64
import os
import stat
from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, TypedDict, Union

from faas_sdk._archive import Archive, read_archive

Command = Union[str, Sequence[str]]
FileContent = Union[str, bytes, "os.PathLike[str]"]
Environment = Union[Mapping[str, str], Sequence[Tuple[str, str]]]

UNSTATED_TIMEOUT_SECONDS = 600.0
"""How long to listen when no timeout_ms was given: the gateway has a default of its own, which
ends the command long before; this only bounds waiting for a gateway that hangs."""


class MoreOptions(TypedDict, total=False):
    """What `execute` takes by name only."""

    mode: Optional[Union[str, Enum]]
    memory_mb: Optional[int]
    cpu_cores: Optional[float]
    snapshot_id: Optional[str]
    branch_from: Optional[str]
    memory: Optional[bool]
    checkpoint_after_ms: Optional[int]
    payload: Optional[Union[str, bytes, Sequence[int]]]
    stdin: Optional[Union[str, bytes]]
    stdin_open: Optional[bool]
    files: Optional[Mapping[str, FileContent]]
    archive: Optional[Archive]
    user: Optional[str]
    tty: Optional[bool]
    network: Optional[str]
    isolation: Optional[str]
    output_limit: Optional[int]
    disk_mb: Optional[int]
    pids_max: Optional[int]
    caches: Optional[Sequence[str]]
    cache_write: Optional[bool]
    pull_policy: Optional[str]
    pull_timeout_ms: Optional[int]
    registry_auth: Optional[Mapping[str, str]]
    idempotency_key: Optional[str]


class ExecuteOptions(MoreOptions, total=False):
    """Everything an execution can be told beside its command. Not given: the gateway's default."""

    image: Optional[str]
    runtime: Optional[Union[str, Enum]]
    env_vars: Optional[Environment]
    working_dir: Optional[str]
    timeout_ms: Optional[int]
    cache_key: Optional[str]


_PLAIN = (
    "image",
    "working_dir",
    "timeout_ms",
    "memory_mb",
    "cpu_cores",
    "cache_key",
    "snapshot_id",
    "branch_from",
    "memory",
    "checkpoint_after_ms",
    "stdin_open",
    "user",
    "tty",
    "network",
    "isolation",
    "output_limit",
    "disk_mb",
    "pids_max",
    "caches",
    "cache_write",
    "pull_policy",
    "pull_timeout_ms",
    "registry_auth",
)
_MADE = ("runtime", "mode", "env_vars", "payload", "stdin", "files", "archive", "idempotency_key")


def build_body(
    command: Optional[Command], options: ExecuteOptions, *, runtime: Union[str, Enum, None] = None
) -> Dict[str, Any]:
    """Make the body: only what was given, in the gateway's own shapes. Reads files and directories.

    Raises:
        TypeError: an option does not exist, or two say the same thing.
        ValueError: an archive is none.
    """
    given: Dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(_PLAIN) - set(_MADE))
    if unknown:
        known = ", ".join(sorted(_PLAIN + _MADE))
        raise TypeError(f"no such option: {', '.join(unknown)}; there are: {known}")
    body: Dict[str, Any] = {}
    if command is not None:
        body["command"] = command if isinstance(command, str) else list(command)
    body.update({name: given[name] for name in _PLAIN if name in given})
    for name, fallback in (("runtime", runtime), ("mode", None)):
        value = _word(given.get(name, fallback))
        if value is not None and (name in given or value != "auto"):
            body[name] = value
    if "env_vars" in given:
        body["env_vars"] = dict(given["env_vars"])
    if "payload" in given and "stdin" in given:
        raise TypeError("payload and stdin are the same thing: give one")
    stdin = given.get("payload", given.get("stdin"))
    if stdin is not None:
        body["payload"] = stdin if isinstance(stdin, str) else _encoded(bytes(stdin))
    if "files" in given:
        body["files"] = [_file(path, content) for path, content in given["files"].items()]
    if "archive" in given:
        body["archive_base64"] = _base64(read_archive(given["archive"]))
    return body


def reads_disk(options: ExecuteOptions) -> bool:
    """Whether `build_body` will read files, and so belongs in a thread when called from a loop."""
    files: Mapping[str, Any] = options.get("files") or {}
    archive = options.get("archive")
    return any(isinstance(content, os.PathLike) for content in files.values()) or (
        archive is not None and not isinstance(archive, bytes)
    )


def read_seconds(body: Mapping[str, Any], *, slack_seconds: float) -> float:
    """How long an answer may take: the command's own limit and the gateway's share."""
    timeout_ms = body.get("timeout_ms")
    if not isinstance(timeout_ms, (int, float)):
        return UNSTATED_TIMEOUT_SECONDS + slack_seconds
    return max(0.0, timeout_ms / 1000) + slack_seconds


def _word(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _file(path: str, content: FileContent) -> Dict[str, Any]:
    if isinstance(content, str):
        return {"path": path, "content": content}
    if isinstance(content, os.PathLike):
        source = Path(content)
        mode = stat.S_IMODE(source.stat().st_mode)
        return {"path": path, "content_base64": _base64(source.read_bytes()), "mode": mode}
    return {"path": path, "content_base64": _base64(bytes(content))}


def _encoded(data: bytes) -> Dict[str, str]:
    return {"base64": _base64(data)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def option_names() -> List[str]:
    """List every option `execute` takes, for the tests of the surface."""
    return sorted(_PLAIN + _MADE)
