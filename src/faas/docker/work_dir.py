"""The directory of one container on this host: what it was made of, and its agent's socket."""

import os
import shutil
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

import msgspec

_UCRED = struct.Struct("=iII")


class Meta(msgspec.Struct, frozen=True):
    """What a later gateway must know of a sandbox."""

    image_digest: str
    isolation: str
    env: tuple[tuple[str, str], ...] = ()
    user: int | None = None
    """The only user of one that keeps memory; None: it keeps none."""


@dataclass(frozen=True, slots=True)
class WorkDir:
    """`<work>/<sandbox id>/{meta.json, ready, agent/}`; the container sees `agent/` only."""

    path: Path

    @property
    def sockets(self) -> Path:
        """What is bound into the container."""
        return self.path / "agent"

    def create(self, meta: Meta, *, owner: int) -> None:
        """Make it; the record is whole before anything is made on the Engine."""
        self.path.mkdir(mode=0o700, parents=True)
        (self.path / "meta.json").write_bytes(msgspec.json.encode(meta))
        self.sockets.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(self.sockets, owner, owner)

    def meta(self) -> Meta | None:
        """Read what it was made of; None when it is gone or was never whole."""
        try:
            return msgspec.json.decode((self.path / "meta.json").read_bytes(), type=Meta)
        except (OSError, msgspec.MsgspecError):
            return None

    def connect(self) -> socket.socket:
        """Connect to the agent. Socket names end at 107 bytes, so the way is a descriptor.

        Raises:
            OSError: nobody listens.
        """
        directory = os.open(self.sockets, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(1.0)
            connection.connect(f"/proc/self/fd/{directory}/agent.sock")
        except BaseException:
            connection.close()
            raise
        finally:
            os.close(directory)
        return connection

    def peer(self) -> int:
        """Return the agent's number on this host; 0 when it is not a process of this host.

        Raises:
            OSError: nobody listens.
        """
        with self.connect() as connection:
            told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return int(_UCRED.unpack(told)[0])

    @property
    def is_ready(self) -> bool:
        """Whether all was done that must be before a command is started in it."""
        return (self.path / "ready").exists()

    def note_ready(self) -> None:
        """Write that down."""
        (self.path / "ready").touch()

    def remove(self) -> None:
        """Take it away. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
