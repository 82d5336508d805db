"""What lies in a folder of memory images besides CRIU's own files: `state.json`, and its folders.

state.json      this
0/ 1/ …         CRIU's images of one tree of processes each
"""

from pathlib import Path

import msgspec

from faas.agent.moving import Exported
from faas.errors import ManifestError

_NAME = "state.json"
_VERSION = 1


class Tree(msgspec.Struct, frozen=True):
    """One tree of processes, a command's."""

    folder: str
    root: int
    command: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to restore besides the images."""

    version: int = _VERSION
    user: int
    """The number the processes had on the host they were taken from."""
    last_pid: int
    criu: str
    machine: str
    commands: dict[str, Exported]
    trees: list[Tree]


def write_state(images: Path, state: State) -> None:
    """Write it down."""
    (images / _NAME).write_bytes(msgspec.json.encode(state))


def read_state(images: Path) -> State:
    """Read it.

    Raises:
        ManifestError: there is none, or one we do not understand.
    """
    try:
        state = msgspec.json.decode((images / _NAME).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError) as error:
        raise ManifestError("the memory of the snapshot cannot be read") from error
    names = {tree.folder for tree in state.trees}
    if state.version != _VERSION or not all(name.isdecimal() for name in names):
        raise ManifestError("the memory of the snapshot was written by another version")
    return state
