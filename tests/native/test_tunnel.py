"""Both ends of the tunnel: the program as it runs in a container, and the host's side of it."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.native.conftest import SANITIZER_ENV

from faas.docker.tunnel import Tunnel
from faas.errors import PortClosedError, ResourceExhaustedError

OPEN, DATA, END, RESET, CREDIT = 1, 2, 3, 4, 5
MEBIBYTE = 1 << 20


@dataclass
class Message:
    stream: int
    data: bytes


class Piped:
    """A started program in the place of a stream through the Engine."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def read_out(self) -> Message | None:
        assert self.process.stdout
        data = await self.process.stdout.read(1 << 16)
        return Message(1, data) if data else None

    async def write_in(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        await self.process.stdin.drain()

    async def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert await self.process.wait() == 0


async def started(binary: Path) -> Piped:
    return Piped(
        await asyncio.create_subprocess_exec(
            binary, "tunnel", stdin=-1, stdout=-1, env={**os.environ, **SANITIZER_ENV}
        )
    )


@pytest.fixture(params=["released", "sanitized"])
def binary(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
async def tunnel(binary: Path) -> AsyncIterator[Tunnel]:
    tasks: list[asyncio.Task[None]] = []
    made = Tunnel(lambda: started(binary), tasks.append)  # type: ignore[arg-type, return-value]
    yield made
    made.close()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def served(serve, host: str = "127.0.0.1") -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def everything(connection: socket.socket) -> bytes:
    loop, got = asyncio.get_running_loop(), bytearray()
    while piece := await loop.sock_recv(connection, 1 << 16):
        got += piece
    return bytes(got)


async def test_what_is_sent_comes_back_whole_also_after_the_callers_end(tunnel: Tunnel) -> None:
    async def echo_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read()
        writer.write(said[::-1])
        await writer.drain()
        writer.close()

    sent = os.urandom(3 * MEBIBYTE)
    async with served(echo_at_the_end) as port:
        with await tunnel.connect(port) as connection:
            await asyncio.get_running_loop().sock_sendall(connection, sent)
            connection.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(30):
                came = await everything(connection)
        assert came == sent[::-1], "it came back changed"


async def test_a_connection_that_nobody_reads_holds_up_no_other(tunnel: Tunnel) -> None:
    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(8 * MEBIBYTE))
        await writer.drain()
        writer.close()

    async with served(flood) as port:
        idle = [await tunnel.connect(port) for _ in range(5)]
        with await tunnel.connect(port) as connection:
            async with asyncio.timeout(30):
                assert len(await everything(connection)) == 8 * MEBIBYTE
        async with asyncio.timeout(30):
            assert [len(await everything(one)) for one in idle] == [8 * MEBIBYTE] * 5
        for one in idle:
            one.close()


async def test_a_server_on_the_other_loopback_is_found_and_nobody_is_told(tunnel: Tunnel) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"six")
        writer.close()

    async with served(greet, "::1") as port:
        with await tunnel.connect(port) as connection:
            assert await everything(connection) == b"six"
    with pytest.raises(PortClosedError, match="refused"):
        await tunnel.connect(port)


async def test_a_caller_who_goes_is_told_to_the_server(tunnel: Tunnel) -> None:
    gone = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        gone.set()
        writer.close()

    async with served(wait) as port:
        (await tunnel.connect(port)).close()
        async with asyncio.timeout(10):
            await gone.wait()


async def test_more_connections_than_there_may_be_are_refused_and_room_comes_back(
    tunnel: Tunnel,
) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with served(hold) as port:
        held = [await tunnel.connect(port) for _ in range(64)]
        with pytest.raises(ResourceExhaustedError):
            await tunnel.connect(port)
        for one in held:
            one.close()
        async with asyncio.timeout(10):
            while True:
                try:
                    (await tunnel.connect(port)).close()
                    break
                except ResourceExhaustedError:
                    await asyncio.sleep(0.05)


async def test_a_tunnel_that_was_lost_is_made_anew(binary: Path) -> None:
    made: list[Piped] = []
    tasks: list[asyncio.Task[None]] = []

    async def dial() -> Piped:
        made.append(await started(binary))
        return made[-1]

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    tunnel = Tunnel(dial, tasks.append)  # type: ignore[arg-type]
    async with served(hold) as port:
        with await tunnel.connect(port) as connection:
            await made[0].write_in(struct.pack("<BBHI", 99, 0, 0, 1))  # no frame: it ends
            async with asyncio.timeout(10):
                assert await everything(connection) == b""
        (await tunnel.connect(port)).close()
    tunnel.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(made) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        struct.pack("<BBHI", OPEN, 0, 1, 1) + b"x",
        struct.pack("<BBHIH", OPEN, 0, 2, 0, 80),
        struct.pack("<BBHI", 77, 0, 0, 0),
        struct.pack("<BBHI", DATA, 0, 0, 0),
        os.urandom(3),
    ],
    ids=["short", "connection-0", "unknown", "data-of-nobody", "torn"],
)
async def test_what_is_no_frame_ends_it(binary: Path, wrong: bytes) -> None:
    piped = await started(binary)
    await piped.write_in(wrong)
    async with asyncio.timeout(10):
        await piped.close()
