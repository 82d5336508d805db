"""The agent of a container on an Engine elsewhere, spoken to through the Engine.

Nothing of this machine can be bound into such a container, so there is no socket to share and no
file to pass. `faas-native relay`, run by the Engine inside, carries the frames; output is written
inside and fetched from there as it grows, into the files that everybody here reads. A gateway that
comes back asks for what it does not have yet.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from faas.agent import files
from faas.agent.channel import AgentChannel, CommandSink
from faas.agent.protocol import (
    CHUNK_BYTES_MAX,
    EXEC_EXCLUSIVE,
    SIGNAL_TREE,
    Answer,
    ExitFrame,
    Request,
    Started,
    pack_blob,
    pack_string,
    pack_u32,
    pack_u64,
    parse_started,
)
from faas.docker.remote_groups import RemoteGroups
from faas.errors import FaasError, NotFoundError, SandboxBrokenError

if TYPE_CHECKING:
    from aiodocker.stream import Stream

SPOOL = "/.faas/run/spool"
_PIECE_BYTES = 256 << 10
_SIGKILL = 9
_ANSWER_SECONDS = 30.0


class Fetch(msgspec.Struct, frozen=True):
    """Where the output of one command lies inside, and where it goes here."""

    stem: str
    stdout: str
    stderr: str
    stdout_base: int
    stderr_base: int
    """What the files held before."""
    is_exclusive: bool


class Fetches:
    """What a later gateway must know of the commands of one container."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(self, name: str, fetch: Fetch) -> None:
        """Write it down, before the command starts."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        fresh = self._directory / f".{name}.new"
        fresh.write_bytes(msgspec.json.encode(fetch))
        fresh.replace(self._directory / name)

    def of(self, name: str) -> Fetch | None:
        """Read it; None when there is none."""
        try:
            return msgspec.json.decode((self._directory / name).read_bytes(), type=Fetch)
        except (OSError, msgspec.MsgspecError):
            return None


async def pump(ours: socket.socket, stream: "Stream") -> None:
    """Carry bytes between the channel's socket and the relay until one of the two ends."""
    loop = asyncio.get_running_loop()

    async def up() -> None:
        while data := await loop.sock_recv(ours, _PIECE_BYTES):
            await stream.write_in(data)

    async def down() -> None:
        while (message := await stream.read_out()) is not None:
            if message.stream == 1:
                await loop.sock_sendall(ours, message.data)

    ways = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        ours.close()
        await stream.close()


class RelayedChannel(AgentChannel):
    """An `AgentChannel` over a relay: what needs descriptors goes by files inside."""

    def __init__(self, connection: socket.socket, *, prefix: str, fetches: Fetches) -> None:
        super().__init__(connection)
        self.groups = RemoteGroups(self)
        self._prefix = prefix
        self._fetches = fetches

    async def command(
        self,
        kind: Request,
        payload: bytes,
        sink: CommandSink,
        *,
        flags: int = 0,
        descriptors: Sequence[int] = (),
    ) -> tuple[int, Started]:
        number = self._new_id()
        if kind is Request.ATTACH:
            name = payload[4:].decode()
            fetch = self._fetches.of(name)
            if fetch is None:
                raise NotFoundError(f"no command {name} was started here")
        else:
            fetch = await self._prepared(number, _name_in(payload), flags, descriptors)
            flags &= ~EXEC_EXCLUSIVE
        news = _Fetcher(self, number, fetch, sink)
        self._sinks[number] = news
        try:
            answer = await super().call(
                kind, payload, expects=Answer.STARTED, flags=flags, frame_id=number
            )
        except BaseException:
            self._sinks.pop(number, None)
            news.stop()
            raise
        return number, self.parsed(parse_started, answer)

    async def call(
        self,
        kind: Request,
        payload: bytes = b"",
        *,
        expects: Answer = Answer.OK,
        flags: int = 0,
        descriptors: Sequence[int] = (),
        frame_id: int | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> bytes:
        if not descriptors:
            return await super().call(
                kind, payload, expects=expects, flags=flags, frame_id=frame_id, seconds=seconds
            )
        number = self._new_id()
        way = "in" if kind is Request.TAR_IN else "out"
        path = f"{SPOOL}/{self._prefix}-{number}.{way}"
        (descriptor,) = descriptors
        try:
            if way == "in":
                await self._send_in(path, descriptor)
            answer = await super().call(
                kind, payload, expects=expects, flags=flags, frame_id=number, seconds=seconds
            )
            if way == "out":
                await self._take_out(path, descriptor)
        finally:
            os.close(descriptor)
            with contextlib.suppress(FaasError):
                await files.remove(self, path, recursive=False)
        return answer

    async def _prepared(
        self, number: int, name: str, flags: int, descriptors: Sequence[int]
    ) -> Fetch:
        stem = f"{self._prefix}-{number}"
        stdout, stderr = map(_path_of, descriptors[:2])
        stdout_base, stderr_base = (os.fstat(one).st_size for one in descriptors[:2])
        try:
            if len(descriptors) > 2:  # noqa: PLR2004  two outputs, and perhaps an input
                await self._send_in(f"{SPOOL}/{stem}.in", descriptors[2])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        fetch = Fetch(
            stem, stdout, stderr, stdout_base, stderr_base,
            is_exclusive=bool(flags & EXEC_EXCLUSIVE),
        )  # fmt: skip
        self._fetches.note(name, fetch)
        return fetch

    async def _send_in(self, path: str, descriptor: int) -> None:
        """Copy what a descriptor gives into a file inside."""
        offset, flags = 0, 1
        while True:
            data = await asyncio.to_thread(os.read, descriptor, CHUNK_BYTES_MAX)
            if not data and not flags:
                return
            head = pack_string(path) + pack_u32(0o644) + pack_u64(offset)
            await super().call(Request.WRITE, head + pack_blob(data), flags=flags)
            offset, flags = offset + len(data), 0

    async def _take_out(self, path: str, descriptor: int) -> None:
        """Copy a file inside to a descriptor."""
        offset = 0
        while data := await files.read(self, path, offset=offset, length=CHUNK_BYTES_MAX):
            offset += len(data)
            await asyncio.to_thread(_write_all, descriptor, data)


class _Fetcher:
    """Hears of one command's output, fetches it, and only then tells whoever follows."""

    def __init__(
        self, channel: RelayedChannel, number: int, fetch: Fetch, sink: CommandSink
    ) -> None:
        self._channel = channel
        self._number = number
        self._fetch = fetch
        self._sink = sink
        self._streams = (
            _Local(fetch.stdout, f"{SPOOL}/{fetch.stem}.out", fetch.stdout_base),
            _Local(fetch.stderr, f"{SPOOL}/{fetch.stem}.err", fetch.stderr_base),
        )
        self._ended: ExitFrame | None = None
        self._news = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    def on_output(self, stdout_kept: int, stderr_kept: int) -> None:
        for local, kept in zip(self._streams, (stdout_kept, stderr_kept), strict=True):
            local.kept = kept
        self._news.set()

    def on_exit(self, ended: ExitFrame) -> None:
        self.on_output(ended.stdout_kept, ended.stderr_kept)
        self._ended = ended

    def on_lost(self, error: SandboxBrokenError) -> None:
        self.stop()
        self._sink.on_lost(error)

    def stop(self) -> None:
        """Fetch no more."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                await self._fetch_new()
                if self._ended is not None and not self._news.is_set():
                    break
            await self._end(self._ended)
        except SandboxBrokenError as error:
            self._sink.on_lost(error)
        except FaasError as error:
            self._channel.close(f"its output cannot be fetched: {error.code}")
            self._sink.on_lost(SandboxBrokenError(details={"cause": "output was lost"}))

    async def _fetch_new(self) -> None:
        for local in self._streams:
            while local.have < local.kept:
                length = min(CHUNK_BYTES_MAX, local.kept - local.have)
                data = await files.read(
                    self._channel, local.inside, offset=local.have, length=length
                )
                if not data:
                    break
                local.add(data)
        stdout, stderr = self._streams
        if self._ended is None:
            self._sink.on_output(stdout.have, stderr.have)

    async def _end(self, ended: ExitFrame) -> None:
        # The verdict is made of them when the end is told.
        await self._channel.groups.refresh()
        if self._fetch.is_exclusive:
            with contextlib.suppress(FaasError):
                await self._channel.call(
                    Request.SIGNAL,
                    pack_u32(_SIGKILL),
                    flags=SIGNAL_TREE,
                    frame_id=self._number,
                )
        self._sink.on_exit(ended)
        for local in self._streams:
            with contextlib.suppress(FaasError):
                await files.remove(self._channel, local.inside, recursive=False)


class _Local:
    """One output stream: how much of it is here, and how much there is."""

    def __init__(self, path: str, inside: str, base: int) -> None:
        self._path = path
        self._base = base
        self.inside = inside
        self.have = 0
        with contextlib.suppress(OSError):
            self.have = max(0, Path(path).stat().st_size - base)
        self.kept = self.have

    def add(self, data: bytes) -> None:
        """Add what was fetched. A full disk here is as at the agent: the rest is lost."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, data, self._base + self.have)
            finally:
                os.close(descriptor)
        self.have += len(data)


def new_prefix() -> str:
    """Name one connection's files inside."""
    return secrets.token_hex(6)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    with contextlib.suppress(BrokenPipeError):
        while view:
            view = view[os.write(descriptor, view) :]


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def _name_in(payload: bytes) -> str:
    """The command's name in an EXEC, after three u64, two u32 and two u16."""
    at = 36
    length = int.from_bytes(payload[at : at + 4], "little")
    return payload[at + 4 : at + 4 + length].decode()
