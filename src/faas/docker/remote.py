"""Containers on an Engine that shares no files with us: the agent is copied in, and relayed to.

It lies in a volume of the container's own, which goes with it. All in there belongs to a user that
no command may be, so that no command can change the agent, fill the volume or reach the socket.
"""

import asyncio
import io
import socket
import tarfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from faas.docker.container import AGENT, HOME, RESERVED_UID, RESERVED_UID_REMAPPED, SOCKETS
from faas.docker.relay import SPOOL, Fetches, RelayedChannel, new_prefix, pump
from faas.errors import FaasError, SandboxBrokenError

if TYPE_CHECKING:
    from faas.docker.engine import Engine
    from faas.docker.tunnel import Tunnel
    from faas.docker.work_dir import WorkDir


class RemoteAgents:
    """Puts agents into containers of one Engine, and connects to them."""

    def __init__(self, engine: "Engine", binary: Path, *, is_remapped: bool) -> None:
        self._engine = engine
        self._uid = RESERVED_UID_REMAPPED if is_remapped else RESERVED_UID
        self._archive = _archive(binary.read_bytes(), self._uid)
        self._pumps: set[asyncio.Task[None]] = set()

    async def place(self, container: str) -> None:
        """Copy the agent into a container that was made and not started."""
        await self._engine.put_archive(container, HOME, self._archive)

    async def connect(
        self, container: str, work_dir: "WorkDir", *, seconds: float
    ) -> RelayedChannel:
        """Connect to the agent of a container that runs.

        Raises:
            SandboxBrokenError: it does not answer.
        """
        prefix = new_prefix()
        argv = [AGENT, "relay", f"{SOCKETS}/agent.sock", SPOOL, prefix]
        try:
            stream = await self._engine.attach_exec(container, argv, user=f"{self._uid}:0")
        except FaasError as failure:
            raise SandboxBrokenError("the relay in the container does not start") from failure
        ours, theirs = socket.socketpair()
        theirs.settimeout(0)
        self._keep(asyncio.create_task(pump(theirs, stream)))
        channel = RelayedChannel(ours, prefix=prefix, fetches=Fetches(work_dir.path / "fetches"))
        try:
            await channel.hello(seconds=seconds)
        except BaseException:
            channel.close()
            raise
        return channel

    def tunnel(self, container: str) -> "Tunnel":
        """Return the way to the ports of a container; nothing is started yet."""
        from faas.docker.tunnel import Tunnel  # noqa: PLC0415  the Engine's client must be there

        user = f"{self._uid}:0"
        dial = partial(self._engine.attach_exec, container, [AGENT, "tunnel"], user=user)
        return Tunnel(dial, self._keep)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)

    async def aclose(self) -> None:
        """Let go of every connection."""
        pumps = list(self._pumps)
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


def _archive(binary: bytes, uid: int) -> bytes:
    """What is copied in: the agent, and a directory that is closed to all but its owner."""
    sink = io.BytesIO()
    closed = SOCKETS.removeprefix(f"{HOME}/")
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name in (closed, SPOOL.removeprefix(f"{HOME}/")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid = tarfile.DIRTYPE, 0o700, uid
            tar.addfile(entry)
        entry = tarfile.TarInfo(AGENT.removeprefix(f"{HOME}/"))
        entry.size, entry.mode, entry.uid = len(binary), 0o555, uid
        tar.addfile(entry, io.BytesIO(binary))
    return sink.getvalue()
