"""Network namespaces without the Engine: each container starts in one that a pause container is in.

The Engine takes 70 ms to make a namespace, for it starts itself twice more; joining that of another
container costs it nothing. So a few pause containers of ours (`faas-native pause`) move into a new
namespace for every container that is to be started, and away from it again. No two sandboxes ever
share one, which would let them meet over loopback and abstract sockets:

* one pause serves one start at a time, and stands alone before the next;
* what became of a start is known, or the pause is ended, so that a late start finds none to join;
* the namespace a container really is in is compared with the one made for it (`Pause.is_in`);
* a pause ends with the connection of the gateway that made it.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from faas.cleanup import Cleanup
from faas.docker.container import container_name, pause_config
from faas.docker.work_dir import Meta, WorkDir
from faas.errors import (
    FaasError,
    NotFoundError,
    RuntimeUnavailableError,
    SandboxBrokenError,
)

if TYPE_CHECKING:
    from faas.docker.engine import Engine
    from faas.docker.settings import DockerSettings

COUNT = 4
"""As many starts at a time; an Engine on two cores gains nothing past two, on more cores little."""
_GREETING_SECONDS = 10.0
_MOVE_SECONDS = 10.0
"""Half a millisecond on an idle machine."""

_log = logging.getLogger(__name__)


class Pause:
    """One pause container, and the namespace it is in."""

    def __init__(self, name: str, pid: int, connection: socket.socket) -> None:
        self.name = name
        self._pid = pid
        self._connection = connection
        self._namespace = -1

    @property
    def namespace(self) -> int:
        """A descriptor of the network namespace; good until the pause moves on."""
        return self._namespace

    @property
    def is_alive(self) -> bool:
        """Whether it still holds its end of the connection."""
        try:
            return self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    async def move(self) -> None:
        """Go into a new namespace, where only it is.

        Raises:
            SandboxBrokenError: it cannot, or is gone.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_MOVE_SECONDS):
                await loop.sock_sendall(self._connection, b"n")
                answer = await loop.sock_recv(self._connection, 1)
            if answer != b"y":
                raise SandboxBrokenError("a pause container could not make a network namespace")
            self._close_namespace()
            self._namespace = os.open(f"/proc/{self._pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, TimeoutError) as failure:
            raise SandboxBrokenError("a pause container does not answer") from failure

    def is_in(self, pid: int) -> bool:
        """Whether that process is in the namespace of this pause."""
        try:
            theirs = os.stat(f"/proc/{pid}/ns/net")  # noqa: PTH116  a magic link
        except OSError:
            return False
        ours = os.fstat(self._namespace)
        return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)

    def close(self) -> None:
        """End it: it goes with the connection, and nothing can be started in its namespace."""
        self._connection.close()
        self._close_namespace()

    def _close_namespace(self) -> None:
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1


class Pauses:
    """A few pauses, made when first needed, lent to one start at a time."""

    def __init__(
        self,
        engine: "Engine",
        settings: "DockerSettings",
        *,
        image: Callable[[], Awaitable[str]],
        oci_runtime: str | None,
        socket_owner: int,
    ) -> None:
        self._socket_owner = socket_owner
        self._engine = engine
        self._settings = settings
        self._image = image
        self._oci_runtime = oci_runtime
        self._idle: list[Pause] = []
        self._names: set[str] = set()
        self._owed: set[str] = set()
        """Those that are to be removed as soon as the Engine answers: at most as many as lived."""
        self._ending: set[asyncio.Future[None]] = set()
        self._is_closed = False
        self._turns = asyncio.Semaphore(COUNT)

    @property
    def names(self) -> frozenset[str]:
        """Those that live, by the names of their directories."""
        return frozenset(self._names)

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[Pause]:
        """Lend a pause that stands alone in a namespace nobody ever had; one start may join it.

        Whatever fails under it, and be it the caller's patience, ends the pause: nobody knows then
        what the Engine is still about to start.
        """
        async with self._turns:
            if self._is_closed:
                raise RuntimeUnavailableError("the docker runtime stops")
            pause = await self._take()
            try:
                yield pause
                await pause.move()
            except BaseException:
                await self._end(pause)
                raise
            self._idle.append(pause)

    async def aclose(self) -> None:
        """End all of them, also those that are lent, once they come back."""
        self._is_closed = True
        async with Cleanup() as cleanup:
            for _ in range(COUNT):
                await self._turns.acquire()
                cleanup.push(self._turns.release)
            for pause in self._idle:
                cleanup.push(partial(self._end, pause))
            self._idle.clear()
        if self._ending:
            await asyncio.wait(self._ending)
        await self._pay_owed()

    async def _take(self) -> Pause:
        while self._idle:
            pause = self._idle.pop()
            if pause.is_alive:
                return pause
            await self._end(pause)
        return await self._make()

    async def _make(self) -> Pause:
        await self._pay_owed()
        name = f"pause-{secrets.token_hex(6)}"
        cleanup = Cleanup()
        self._names.add(name)
        cleanup.push(partial(self._remove, name))
        try:
            pause = await self._started(name, cleanup)
            await pause.move()
        except BaseException:
            await cleanup.close()
            raise
        cleanup.pop_all()
        return pause

    async def _started(self, name: str, cleanup: Cleanup) -> Pause:
        work_dir = WorkDir(self._settings.work_dir / name)
        work_dir.create(Meta("", "pause"), owner=self._socket_owner)
        full_name = container_name(self._settings.tag, name)
        config = pause_config(
            name,
            self._settings,
            image=await self._image(),
            sockets=work_dir.sockets,
            oci_runtime=self._oci_runtime,
        )
        await self._engine.create(full_name, config)
        await self._engine.start(full_name)
        connection = await _connected(work_dir)
        cleanup.push(connection.close)
        state = await self._engine.inspect(full_name)
        if state is None:
            raise NotFoundError("a pause container is gone")
        return Pause(full_name, int(state["State"]["Pid"]), connection)

    async def _end(self, pause: Pause) -> None:
        pause.close()
        name = pause.name.rpartition(f"{self._settings.tag}-")[2]
        ending = asyncio.ensure_future(self._remove(name))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        await asyncio.shield(ending)

    async def _remove(self, name: str) -> None:
        """Take the container away; what the Engine keeps is dead, and goes once it answers."""
        self._names.discard(name)
        self._owed.add(name)
        try:
            await self._engine.remove(container_name(self._settings.tag, name))
        except FaasError:
            _log.warning("a pause container could not be removed", extra={"pause": name})
            return
        WorkDir(self._settings.work_dir / name).remove()
        self._owed.discard(name)

    async def _pay_owed(self) -> None:
        for name in list(self._owed):
            await self._remove(name)
            if name in self._owed:
                return


async def _connected(work_dir: WorkDir) -> socket.socket:
    """Connect and hear that it is there; the Engine says only that it was executed."""
    pause, loop = 0.001, asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_GREETING_SECONDS):
            while True:
                with suppress(OSError):
                    connection = work_dir.connect()
                    break
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 0.05)
            connection.settimeout(0)
            try:
                if await loop.sock_recv(connection, 1) == b"y":
                    return connection
            except BaseException:
                connection.close()
                raise
            connection.close()
    except TimeoutError:
        pass
    raise SandboxBrokenError("a pause container does not answer")
