"""An agent made of a socket pair: a test says what it answers, byte by byte."""

import asyncio
import socket
import struct
from dataclasses import dataclass, field

from faas.agent.channel import AgentChannel
from faas.agent.protocol import Answer, pack_frame


@dataclass(frozen=True)
class Asked:
    kind: int
    flags: int
    id: int
    payload: bytes
    descriptors: list[int] = field(default_factory=list)


class FakeAgent:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.socket = theirs
        self.channel = AgentChannel(ours)
        self._buffer = b""
        self._descriptors: list[int] = []

    async def asked(self) -> Asked:
        """Wait for one whole request."""
        async with asyncio.timeout(5):
            while True:
                if len(self._buffer) >= 12:
                    length, kind, flags, _, number = struct.unpack_from("<IBBHI", self._buffer)
                    if len(self._buffer) >= 12 + length:
                        payload = self._buffer[12 : 12 + length]
                        self._buffer = self._buffer[12 + length :]
                        taken, self._descriptors = self._descriptors, []
                        return Asked(kind, flags, number, payload, taken)
                await self._receive()

    async def _receive(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, 8)
            except BlockingIOError:
                await asyncio.sleep(0)
                continue
            assert data, "the channel closed"
            self._buffer += data
            self._descriptors += descriptors
            return

    def say(self, kind: Answer, number: int, payload: bytes = b"") -> None:
        self.socket.sendall(pack_frame(kind, number, payload))

    def say_started(self, number: int, *, stdin_offset: int = 0) -> None:
        self.say(Answer.STARTED, number, struct.pack("<IBQ", 7, 0, stdin_offset))

    def say_output(self, number: int, stdout: int, stderr: int) -> None:
        self.say(Answer.OUTPUT, number, struct.pack("<QQ", stdout, stderr))

    def say_exit(self, number: int, code: int = 0, *, reason: int = 0, stdout: int = 0) -> None:
        payload = struct.pack(
            "<BBHIQQQQQQQQ", reason, 0, 0, code, stdout, stdout, 0, 0, 10, 1, 2, 3
        )
        self.say(Answer.EXIT, number, payload)

    def say_error(self, number: int, error: int, what: str = "trying") -> None:
        raw = what.encode()
        self.say(Answer.ERROR, number, struct.pack("<II", error, len(raw)) + raw)

    def close(self) -> None:
        self.channel.close()
        self.socket.close()
