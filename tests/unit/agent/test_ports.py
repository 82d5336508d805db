"""A socket from an agent is an attack until it is proved to be the one that was asked for."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable

import pytest

from faas.agent import ports
from faas.agent.protocol import Answer, Request, pack_frame
from faas.errors import (
    PortClosedError,
    ResourceExhaustedError,
    SandboxBrokenError,
    UnsupportedError,
)

HELLO_OK = struct.pack("<I16sI", 1, bytes(16), 1)
Says = Callable[[socket.socket, int, int, int], None]


class Agent:
    """Greets as it should and answers CONNECT as the test says."""

    def __init__(self, says: Says) -> None:
        self._says = says
        self.opened = 0
        self.asked: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.opened += 1
        task = asyncio.ensure_future(self._serve(theirs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return ours

    async def _serve(self, theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with theirs:
            while data := await loop.sock_recv(theirs, 4096):
                length, kind, flags, _, number = struct.unpack_from("<IBBHI", data)
                if kind == Request.HELLO:
                    theirs.send(pack_frame(Answer.HELLO_OK, number, HELLO_OK))
                    continue
                assert (kind, length) == (Request.CONNECT, 2)
                port = struct.unpack_from("<H", data, 12)[0]
                self.asked.append(flags)
                try:
                    self._says(theirs, number, port, flags)
                except EOFError:
                    return


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def hand_out(theirs: socket.socket, number: int, *descriptors: int) -> None:
    frame = pack_frame(Answer.CONNECTED, number)
    socket.send_fds(theirs, [frame], list(descriptors))


class Elsewhere:
    port = 0


elsewhere = Elsewhere()


@pytest.fixture(autouse=True)
def _another_server():
    with socket.create_server(("127.0.0.1", 0)) as made:
        elsewhere.port = made.getsockname()[1]
        yield


def connected_to(port: int) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    made.connect_ex(("127.0.0.1", port))
    return made


def refuse(theirs: socket.socket, number: int, errno_: int) -> None:
    theirs.send(pack_frame(Answer.ERROR, number, struct.pack("<II", errno_, 3) + b"why"))


async def test_a_socket_to_the_port_is_taken(server) -> None:
    def says(theirs, number, port, flags) -> None:
        with connected_to(port) as one:
            hand_out(theirs, number, one.fileno())

    agent = Agent(says)
    port = server.getsockname()[1]
    with await ports.connect(agent.open, port) as connection:
        assert connection.getpeername() == ("127.0.0.1", port)
        assert not connection.getblocking()
        assert not os.get_inheritable(connection.fileno())
    assert (agent.opened, agent.asked) == (1, [0])


async def test_a_port_closed_on_both_families_is_closed() -> None:
    agent = Agent(lambda theirs, number, _port, _flags: refuse(theirs, number, 111))
    with pytest.raises(PortClosedError):
        await ports.connect(agent.open, 8000)
    assert agent.asked == [0, 1]


async def test_a_refusal_that_comes_late_is_heard_on_the_socket(server) -> None:
    server.close()

    def says(theirs, number, port, flags) -> None:
        family = socket.AF_INET6 if flags else socket.AF_INET
        with socket.socket(family) as one:
            one.setblocking(False)
            one.connect_ex(("::1" if flags else "127.0.0.1", port))
            hand_out(theirs, number, one.fileno())

    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(PortClosedError):
        await ports.connect(Agent(says).open, port)


def a_pipe(theirs, number, port, flags) -> None:
    reader, writer = os.pipe()
    hand_out(theirs, number, reader)
    os.close(reader)
    os.close(writer)


def a_unix_socket(theirs, number, port, flags) -> None:
    one, two = socket.socketpair()
    with one, two:
        hand_out(theirs, number, one.fileno())


def a_datagram_socket(theirs, number, port, flags) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("127.0.0.1", port))
        hand_out(theirs, number, one.fileno())


def another_port(theirs, number, port, flags) -> None:
    with connected_to(elsewhere.port) as one:
        hand_out(theirs, number, one.fileno())


def two_sockets(theirs, number, port, flags) -> None:
    with connected_to(port) as one:
        hand_out(theirs, number, one.fileno(), one.fileno())


def no_socket(theirs, number, port, flags) -> None:
    theirs.send(pack_frame(Answer.CONNECTED, number))


def a_payload(theirs, number, port, flags) -> None:
    with connected_to(port) as one:
        socket.send_fds(theirs, [pack_frame(Answer.CONNECTED, number, b"x")], [one.fileno()])


def another_id(theirs, number, port, flags) -> None:
    with connected_to(port) as one:
        hand_out(theirs, number + 1, one.fileno())


def two_answers(theirs, number, port, flags) -> None:
    theirs.send(pack_frame(Answer.CONNECTED, number) * 2)


def no_frame(theirs, number, port, flags) -> None:
    theirs.send(b"\xff" * 40)


@pytest.mark.parametrize(
    "says",
    [
        a_pipe,
        a_unix_socket,
        a_datagram_socket,
        another_port,
        two_sockets,
        no_socket,
        a_payload,
        another_id,
        two_answers,
        no_frame,
    ],
)
async def test_anything_else_is_refused_and_leaves_no_descriptor(server, says: Says) -> None:
    def held() -> set[str]:
        return set(os.listdir("/proc/self/fd"))  # noqa: PTH208  names are enough

    agent = Agent(says)
    before = held()
    with pytest.raises(SandboxBrokenError):
        await ports.connect(agent.open, server.getsockname()[1])
    while agent._tasks:
        await asyncio.sleep(0)
    assert held() == before


async def test_an_agent_without_room_is_busy_and_not_broken() -> None:
    def hang_up(theirs, number, port, flags) -> None:
        raise EOFError

    with pytest.raises(ResourceExhaustedError):
        await ports.connect(Agent(hang_up).open, 8000)


async def test_an_agent_on_another_machine_hands_out_nothing() -> None:
    with pytest.raises(UnsupportedError, match="another machine"):
        await ports.connect(None, 8000)


async def test_an_agent_that_is_gone_is_a_broken_sandbox() -> None:
    def gone() -> socket.socket:
        raise ConnectionRefusedError

    with pytest.raises(SandboxBrokenError):
        await ports.connect(gone, 8000)
