"""Tar in and out of a sandbox: the bytes pass through a pipe or a file, never through frames."""

import asyncio
import contextlib
import fcntl
import os
import select
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

from faas.agent.channel import AgentChannel
from faas.agent.protocol import Request, pack_string
from faas.errors import InvalidArgumentError, SandboxBrokenError

_TAR_SECONDS = 600.0
"""For one archive; generous, because a sandbox may have a tenth of a core."""
_PIPE_BYTES = 1 << 20
_MOVE_MS = 100
"""How soon a copy that has nothing to do sees that it is stopped."""
_END_SECONDS = 10.0
"""From the agent's word that all is packed to the end of the pipe, which it closes at once."""
_F_ADD_SEALS, _F_SEAL_ALL = 1033, 0x000F


def sealed(data: bytes) -> int:
    """Return a descriptor of an in-memory file that holds `data` and can no longer change."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    descriptor = os.memfd_create("faas", flags)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _F_SEAL_ALL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


async def unpack(channel: AgentChannel, tar: bytes | Path, *, path: str) -> None:
    """Unpack a tar below `path`."""
    payload = _place(path)
    source = sealed(tar) if isinstance(tar, bytes) else os.open(tar, os.O_RDONLY | os.O_CLOEXEC)
    await channel.call(Request.TAR_IN, payload, descriptors=[source], seconds=_TAR_SECONDS)


async def pack(channel: AgentChannel, path: str) -> AsyncGenerator[bytes, None]:
    """Yield a tar of what is at `path`, as fast as it is taken."""
    payload = _place(path)
    source, sink = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(source, False)
    with contextlib.suppress(OSError):  # past the user's pipe allowance: the default will do
        fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    done = asyncio.ensure_future(
        channel.call(Request.TAR_OUT, payload, descriptors=[sink], seconds=_TAR_SECONDS)
    )
    try:
        while chunk := await _next_chunk(source, done):
            yield chunk
        await done
    finally:
        os.close(source)
        done.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await done


async def pack_into(channel: AgentChannel, path: str, tar: Path) -> None:
    """Write a tar of what is at `path` to a new file: one thread moves the bytes, and no loop.

    The agent itself is given no file of ours: what it writes would count as the sandbox's memory.

    Raises:
        OSError: our file cannot be written.
    """
    payload = _place(path)
    with await asyncio.to_thread(tar.open, "xb", 0) as target:
        source, sink = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # as in `pack`
            fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        stop = threading.Event()
        moving = asyncio.ensure_future(asyncio.to_thread(_move, source, target.fileno(), stop))
        asking = asyncio.ensure_future(
            channel.call(Request.TAR_OUT, payload, descriptors=[sink], seconds=_TAR_SECONDS)
        )
        try:
            await asyncio.wait({moving, asking}, return_when=asyncio.FIRST_COMPLETED)
            if not moving.done():
                await asking
                await asyncio.wait({moving}, timeout=_END_SECONDS)
                if not moving.done():
                    raise SandboxBrokenError("the archive has no end")
            await moving
            await asking
        finally:
            stop.set()
            await asyncio.wait({moving})
            os.close(source)  # and an agent that still writes is told so
            asking.cancel()
            await asyncio.gather(asking, moving, return_exceptions=True)


def _move(source: int, target: int, stop: threading.Event) -> None:
    """Copy to the end of the pipe, or until it is stopped."""
    poll, piece = select.poll(), memoryview(bytearray(_PIPE_BYTES))
    poll.register(source, select.POLLIN)
    while not stop.is_set():
        if poll.poll(_MOVE_MS):
            got = os.readv(source, [piece])
            if not got:
                return
            rest = piece[:got]
            while rest:
                rest = rest[os.write(target, rest) :]


async def _next_chunk(source: int, done: "asyncio.Future[bytes]") -> bytes:
    """Read what is there; empty at the end. A refusal by the agent ends the wait too."""
    while True:
        try:
            return os.read(source, _PIPE_BYTES)
        except BlockingIOError:
            await _readable(source, done)
            if done.done() and done.exception() is not None:
                return b""


async def _readable(source: int, done: "asyncio.Future[bytes]") -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(source, _set, ready)
    try:
        await asyncio.wait({ready, done}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(source)
        ready.cancel()


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _place(path: str) -> bytes:
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgumentError(f"{path[:80]!r} is not an absolute path")
    return pack_string(path)
