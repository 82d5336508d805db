"""What travels on the WebSocket of a sandbox: seven events, six commands, JSON text frames.

`type` tells them apart. Output events say where they begin (`offset`), so that a client that was
cut goes on at that very byte; `data` is text, and `data_base64` is there when the bytes are not
valid UTF-8.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType


class StdoutEvent(Struct, frozen=True, tag_field="type", tag="stdout"):
    """What a command wrote."""

    data: str
    execution_id: str
    offset: int
    next_offset: int
    data_base64: str | UnsetType = UNSET


class StderrEvent(Struct, frozen=True, tag_field="type", tag="stderr"):
    """What a command wrote to its other stream."""

    data: str
    execution_id: str
    offset: int
    next_offset: int
    data_base64: str | UnsetType = UNSET


class ExitEvent(Struct, frozen=True, tag_field="type", tag="exit", kw_only=True):
    """A command ended, or the instance did (then without an execution)."""

    code: int | None
    reason: str
    signal: int | None = None
    execution_id: str | None = None
    error: str | None = None


class FileEvent(Struct, frozen=True, tag_field="type", tag="file_event"):
    """Something below a watched directory changed."""

    path: str
    event: Literal["created", "deleted", "modified"]


class ProcessEvent(Struct, frozen=True, tag_field="type", tag="process_event"):
    """A command began or ended."""

    pid: int | None
    """In the sandbox's own numbering; null where the runtime does not tell."""
    command: str
    event: Literal["started", "stopped"]
    execution_id: str


class CustomEvent(Struct, frozen=True, tag_field="type", tag="custom"):
    """An answer to a command: `stdin_ack`, `exec_started`, `state`, `checkpoint_created`, `error`;
    or `dropped`."""

    name: str
    data: Any


class HeartbeatEvent(Struct, frozen=True, tag_field="type", tag="heartbeat"):
    """Nothing happened for a while."""

    timestamp: datetime


class StdinCommand(Struct, frozen=True, tag_field="type", tag="stdin", kw_only=True):
    """Input for a command that takes some."""

    data: str | None = None
    data_base64: str | None = None
    offset: Annotated[int, Meta(ge=0)] | None = None
    last: bool = False
    execution_id: str | None = None
    """Which command; else the one followed, or the last that was begun here with `stdin`."""


class ExecCommand(Struct, frozen=True, tag_field="type", tag="exec", kw_only=True):
    """Run another command there."""

    command: Annotated[str, Meta(min_length=1)] | Annotated[list[str], Meta(min_length=1)]
    env_vars: dict[str, str] | None = None
    working_dir: str | None = None
    user: str | None = None
    timeout_ms: Annotated[int, Meta(ge=1)] | None = None
    stdin: bool = False
    """Keep its input open for `stdin` commands."""
    tty: bool = False


class GetStateCommand(Struct, frozen=True, tag_field="type", tag="get_state"):
    """Tell how it stands."""


class CheckpointCommand(Struct, frozen=True, tag_field="type", tag="checkpoint"):
    """Keep its files as a snapshot; with `memory` its processes too, if it was made for that."""

    name: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    memory: bool = False


class StopCommand(Struct, frozen=True, tag_field="type", tag="stop"):
    """End it: an execution is cancelled, an instance stopped with its files kept."""


class ResizeCommand(Struct, frozen=True, tag_field="type", tag="resize", kw_only=True):
    """Change the size of a terminal."""

    rows: Annotated[int, Meta(ge=1, le=1000)]
    columns: Annotated[int, Meta(ge=1, le=1000)]
    execution_id: str | None = None
    """Which command; else the one that `stdin` would go to."""


Command = (
    StdinCommand | ExecCommand | GetStateCommand | CheckpointCommand | StopCommand | ResizeCommand
)
