"""CONNECT: a socket made in the sandbox's network, handed to the host."""

import errno
import os
import select
import socket
import struct
from pathlib import Path

import pytest
from tests.native.conftest import Inside
from tests.native.plans import usual
from tests.native.wire import (
    CONNECT,
    CONNECTED,
    LIST,
    LIST_OK,
    ConnectionEndedError,
    Frame,
    Host,
    error_of,
    frame,
)

IPV6 = 1


def listener(family: int = socket.AF_INET) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.settimeout(20)
    made.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    made.listen(64)
    return made


def port_of(server: socket.socket) -> int:
    return server.getsockname()[1]


def asks_for(port: int) -> bytes:
    return struct.pack("<H", port)


def failure_of(host: Host, answer: Frame) -> str:
    """At once, or a moment later on the socket: the kernel's choice."""
    if answer.type == CONNECTED:
        with socket.socket(fileno=host.descriptors.pop()) as ours:
            poll = select.poll()
            poll.register(ours, select.POLLOUT)
            assert poll.poll(20_000)
            number = ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    else:
        number = error_of(answer)[0]
    return {errno.ECONNREFUSED: "refused"}.get(number, errno.errorcode[number])


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_to_a_port_is_handed_out(host, family):
    with listener(family) as server:
        flags = IPV6 if family == socket.AF_INET6 else 0
        answer = host.call(CONNECT, asks_for(port_of(server)), flags=flags)
        assert (answer.type, answer.payload) == (CONNECTED, b"")
        with socket.socket(fileno=host.descriptors.pop()) as ours, server.accept()[0] as theirs:
            assert ours.getpeername()[:2] == server.getsockname()[:2]
            theirs.sendall(b"hello")
            assert ours.recv(5) == b"hello"
            ours.sendall(b"back")
            assert theirs.recv(4) == b"back"
            ours.close()
            assert theirs.recv(1) == b"", "somebody else holds a copy"


def test_where_nobody_listens_is_refused(host):
    with listener() as server:
        port = port_of(server)
    for flags in (0, IPV6):
        assert failure_of(host, host.call(CONNECT, asks_for(port), flags=flags)) == "refused"


def test_port_zero_and_unknown_flags_are_refused(agent):
    host = agent.connect()
    assert error_of(host.call(CONNECT, asks_for(0)))[0] == errno.EINVAL
    host.send(frame(CONNECT, 5, asks_for(80), 2))
    with pytest.raises(ConnectionEndedError):
        host.receive()


def test_each_descriptor_comes_with_its_own_frame_and_too_many_are_refused(host):
    with listener() as one, listener() as two:
        ports = [port_of(one), port_of(two)] * 10
        numbers = [host.new_id() for _ in ports]
        frames = [frame(CONNECT, n, asks_for(p)) for n, p in zip(numbers, ports, strict=True)]
        host.send(b"".join(frames) + frame(LIST, 99))
        answers = [host.expect(number, CONNECTED, 71) for number in numbers]
        host.expect(99, LIST_OK)
        taken = [port for port, a in zip(ports, answers, strict=True) if a.type == CONNECTED]
        assert len(taken) >= 8
        refused = {error_of(a)[0] for a in answers if a.type != CONNECTED}
        assert refused <= {errno.EAGAIN}
        assert len(host.descriptors) == len(taken)
        for descriptor, port in zip(host.descriptors, taken, strict=True):
            with socket.socket(fileno=os.dup(descriptor)) as ours:
                assert ours.getpeername()[1] == port


def test_a_host_that_goes_away_costs_the_agent_no_descriptor(agent):
    def held() -> int:
        return sum(1 for _ in Path(f"/proc/{agent.process.pid}/fd").iterdir())

    agent.connect().call(LIST)
    before = held()
    with listener() as server:
        for _ in range(30):
            host = agent.connect()
            host.send(frame(CONNECT, 7, asks_for(port_of(server))) * 3)
            host.close()
        survivor = agent.connect()
        assert survivor.call(LIST).type == LIST_OK
        while held() > before + 1:  # those that hung up are noticed one after the other
            survivor.call(LIST)


def test_a_port_is_the_sandboxes_own(launcher):
    with listener() as outside:
        inside = Inside(launcher, launcher.launch(usual()))
        answer = inside.host.call(CONNECT, asks_for(port_of(outside)))
        assert failure_of(inside.host, answer) == "refused"
        serving = inside.run(
            "python3",
            "-c",
            "import socket; s=socket.create_server(('127.0.0.1', 8123)); print('up', flush=True);"
            "c,_=s.accept(); c.sendall(b'from inside'); c.close()",
        )
        serving.wait_for_output(b"up")
        assert inside.host.call(CONNECT, asks_for(8123)).type == CONNECTED
        with socket.socket(fileno=inside.host.descriptors.pop()) as ours:
            ours.settimeout(20)
            ours.setblocking(True)
            assert ours.recv(100, socket.MSG_WAITALL) == b"from inside"
        assert serving.wait().code == 0
