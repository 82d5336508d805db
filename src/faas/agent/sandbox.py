"""A sandbox whose commands and files are reached through an agent.

Every runtime with our agent inside shares this half; what differs (limits, verdicts, destruction)
is left to the subclass.
"""

import asyncio
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

from faas.agent import archive, files, ports
from faas.agent.channel import AgentChannel
from faas.agent.moving import (
    EXPORT_STANDS_STILL,
    Exported,
    adopt_flags,
    pack_adopt,
    parse_exported,
)
from faas.agent.process import AgentProcess
from faas.agent.protocol import Answer, Request, exec_flags, pack_exec, pack_string, parse_list
from faas.agent.spool import open_for_agent
from faas.errors import NotFoundError, SandboxBrokenError
from faas.ids import SandboxId
from faas.model import FileInput, Limits
from faas.sandbox.protocols import Command, FileStat, OutputFiles

_DIALS_MAX = 4
"""Connections to ports being made at once: the agent has room for eight hosts."""

_REMEMBERED_MAX = 128
"""Ended commands kept for `attach`; the agent remembers at most 256 in all."""


class AgentSandbox(ABC):
    """A `Sandbox` over an `AgentChannel`; `_channel` is set by whoever connected it."""

    def __init__(
        self,
        sandbox_id: SandboxId,
        channel: AgentChannel,
        *,
        open_agent: ports.OpenAgent | None = None,
    ) -> None:
        self._id = sandbox_id
        self._channel = channel
        self._open_agent = open_agent
        self._dials = asyncio.Semaphore(_DIALS_MAX)
        self._is_destroyed = False
        self._running: dict[str, AgentProcess] = {}

    @property
    def id(self) -> SandboxId:
        return self._id

    @property
    @abstractmethod
    def runtime(self) -> str: ...

    @property
    @abstractmethod
    def isolation(self) -> str: ...

    @property
    @abstractmethod
    def image_digest(self) -> str: ...

    @property
    def is_alive(self) -> bool:
        return self._channel.is_open and not self._is_destroyed

    @abstractmethod
    async def apply_limits(self, limits: Limits) -> None: ...

    @abstractmethod
    async def destroy(self, reason: str) -> None: ...

    @abstractmethod
    def _command(self, command: Command) -> Command:
        """Complete a command by what this sandbox adds to it."""

    @abstractmethod
    def _process(self, name: str, output: OutputFiles | None) -> AgentProcess:
        """Make the process with this runtime's verdicts."""

    async def start(self, name: str, command: Command, output: OutputFiles) -> AgentProcess:
        self._require_alive()
        await self._forget_old()
        whole = self._command(command)
        process = self._process(name, output)
        payload = pack_exec(name, whole)
        command_id, started = await self._channel.command(
            Request.EXEC,
            payload,
            process,
            flags=exec_flags(whole),
            descriptors=_descriptors(whole, output),
        )
        process.pid = started.pid
        self._take_up(process, command_id)
        return process

    async def attach(self, name: str) -> AgentProcess | None:
        self._require_alive()
        known = self._running.get(name)
        if known is not None:  # a command has one id a connection; a second would take the first's
            return known
        process = self._process(name, None)
        try:
            command_id, started = await self._channel.command(
                Request.ATTACH, pack_string(name), process
            )
        except NotFoundError:
            return None
        process.pid = started.pid
        self._take_up(process, command_id)
        return process

    async def remembered(self) -> list[AgentProcess]:
        """Every command the agent knows, ended or not, whoever started it."""
        payload = await self._channel.call(Request.LIST, expects=Answer.LIST_OK)
        states = self._channel.parsed(parse_list, payload)
        found = [await self.attach(state.name) for state in states]
        return [process for process in found if process is not None]

    async def export(self, process: AgentProcess, *, typed: bool = False) -> Exported:
        """Have the agent describe a running command, its output read up to now.

        Args:
            process: the command.
            typed: also what was typed on its terminal and not read; only while all stands still.
        """
        payload = await self._channel.call(
            Request.EXPORT,
            expects=Answer.EXPORTED,
            flags=EXPORT_STANDS_STILL if typed else 0,
            frame_id=process.command_id,
        )
        return self._channel.parsed(parse_exported, payload)

    async def adopt_command(
        self, name: str, command: Exported, descriptors: list[int]
    ) -> AgentProcess:
        """Give the agent a command whose processes will come. Takes over `descriptors`: both
        spools, where it reads their output, and where it writes their input; with a terminal, both
        spools and its end of the terminal."""
        process = self._process(name, None)
        command_id, started = await self._channel.command(
            Request.ADOPT,
            pack_adopt(name, command),
            process,
            flags=adopt_flags(command),
            descriptors=descriptors,
        )
        process.pid = started.pid
        self._take_up(process, command_id)
        return process

    async def put_files(self, files_: tuple[FileInput, ...]) -> None:
        self._require_alive()
        for item in files_:
            await files.write(self._channel, item.path, item.content, mode=item.mode)

    async def put_archive(self, tar: bytes | Path, *, path: str) -> None:
        self._require_alive()
        await archive.unpack(self._channel, tar, path=path)

    def get_archive(self, path: str) -> AsyncIterator[bytes]:
        self._require_alive()
        return archive.pack(self._channel, path)

    async def save_archive(self, path: str, tar: Path) -> None:
        self._require_alive()
        await archive.pack_into(self._channel, path, tar)

    async def read_file(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self._require_alive()
        return await files.read(self._channel, path, offset=offset, length=length)

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        self._require_alive()
        await files.write(self._channel, path, data, mode=mode)

    async def stat(self, path: str) -> FileStat:
        self._require_alive()
        return await files.stat(self._channel, path)

    async def list_dir(self, path: str) -> list[FileStat]:
        self._require_alive()
        return await files.list_dir(self._channel, path)

    async def make_dir(self, path: str, *, parents: bool = True) -> None:
        self._require_alive()
        await files.make_dir(self._channel, path, parents=parents)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        self._require_alive()
        await files.remove(self._channel, path, recursive=recursive)

    async def rename(self, source: str, target: str) -> None:
        self._require_alive()
        await files.rename(self._channel, source, target)

    async def connect(self, port: int) -> socket.socket:
        self._require_alive()
        async with self._dials:
            return await ports.connect(self._open_agent, port)

    def _require_alive(self) -> None:
        if not self.is_alive:
            raise SandboxBrokenError(details={"sandbox": self._id})

    def _take_up(self, process: AgentProcess, command_id: int) -> None:
        process.bind(command_id)
        self._running[process.name] = process

    async def _forget_old(self) -> None:
        if len(self._running) <= _REMEMBERED_MAX:
            return
        ended = [process for process in self._running.values() if process.is_ended]
        for process in ended[: len(self._running) - _REMEMBERED_MAX]:
            del self._running[process.name]
            await self._channel.call(Request.RELEASE, frame_id=process.command_id)


def _descriptors(command: Command, output: OutputFiles) -> list[int]:
    taken: list[int] = []
    try:
        taken.append(open_for_agent(output.stdout_name))
        taken.append(open_for_agent(output.stderr_name))
        if command.stdin is not None:
            taken.append(archive.sealed(command.stdin))
    except BaseException:
        for descriptor in taken:
            os.close(descriptor)
        raise
    return taken
