"""Bytes that are not the protocol end the connection, never the agent."""

import os
import socket
import struct
from pathlib import Path

import pytest
from tests.native.wire import (
    ATTACH,
    EXCLUSIVE,
    EXEC,
    EXIT,
    HELLO,
    HELLO_OK,
    LIST,
    READ,
    STARTED,
    TAR_IN,
    Exit,
    blob,
    count_of,
    error_of,
    exec_payload,
    frame,
)

HELLO_FRAME = frame(HELLO, 1, struct.pack("<I", 1))


def test_hello_says_version_boot_id_and_pid(agent):
    first, second = agent.connect(), agent.connect()
    assert first.hello.type == HELLO_OK
    version, boot, pid = struct.unpack("<I16sI", first.hello.payload)
    assert (version, pid) == (1, agent.process.pid)
    assert boot != bytes(16)
    assert second.hello.payload == first.hello.payload


def test_another_version_is_refused_with_words(agent):
    host = agent.connect(greet=False)
    number, text = error_of(host.call(HELLO, struct.pack("<I", 2)))
    assert "version 1" in text
    assert number


@pytest.mark.parametrize(
    "data",
    [
        frame(LIST, 1),
        struct.pack("<IBBHI", (1 << 20) + 1, HELLO, 0, 0, 1),
        struct.pack("<IBBHI", 0xFFFFFFFF, HELLO, 0, 0, 1),
        struct.pack("<IBBHI", 4, HELLO, 0, 1, 1) + bytes(4),
        frame(HELLO, 1, b"\1\0\0\0\0"),
        frame(HELLO, 1, b"\1\0"),
        frame(HELLO, 1, struct.pack("<I", 1), flags=1),
        HELLO_FRAME + frame(0, 2),
        HELLO_FRAME + frame(9, 2),
        HELLO_FRAME + frame(25, 2),
        HELLO_FRAME + frame(26, 2, b"x"),
        HELLO_FRAME + frame(27, 2),
        HELLO_FRAME + frame(28, 2),
        HELLO_FRAME + frame(65, 2),
        HELLO_FRAME + frame(255, 2),
        HELLO_FRAME + frame(LIST, 2, b"x"),
        HELLO_FRAME + frame(ATTACH, 2, struct.pack("<I", 5) + b"four"),
        HELLO_FRAME + frame(ATTACH, 2, blob("nul\0inside")),
        HELLO_FRAME + frame(READ, 2, blob("/etc/hostname") + b"\0" * 11),
        HELLO_FRAME + frame(EXEC, 2, exec_payload(["true"]), flags=16),
        HELLO_FRAME + frame(EXEC, 2, exec_payload(["true"])[:-1]),
        HELLO_FRAME + frame(EXEC, 2, exec_payload(["true"])),
        HELLO_FRAME + frame(TAR_IN, 2, blob("/tmp")),
    ],
    ids=lambda data: data[-24:].hex(),
)
def test_malformed_bytes_end_the_connection_and_only_that(agent, data):
    hostile, polite = agent.connect(greet=False), agent.connect()
    hostile.send(data)
    hostile.until_ended()
    assert polite.call(LIST).payload == bytes(4)


def test_an_argument_count_beyond_the_payload_ends_the_connection(agent):
    host = agent.connect()
    payload = exec_payload([])[:-8] + struct.pack("<I", 0xFFFFFFFF)
    host.send(frame(EXEC, 2, payload))
    assert host.is_ended()


def test_a_descriptor_without_a_frame_ends_the_connection(agent):
    host = agent.connect()
    host.send(frame(LIST, 2), [0])
    host.until_ended()


def test_too_many_descriptors_end_the_connection(agent):
    host = agent.connect()
    host.send(b"\0", [0] * 17)
    assert host.is_ended()


def test_a_frame_may_come_byte_by_byte(agent):
    host = agent.connect(greet=False)
    for index in range(len(HELLO_FRAME)):
        host.send(HELLO_FRAME[index : index + 1])
    assert host.receive().type == HELLO_OK


def test_many_frames_may_come_at_once(agent):
    host = agent.connect()
    host.send(b"".join(frame(LIST, number) for number in range(500)))
    assert [host.receive().id for _ in range(500)] == list(range(500))


def test_descriptors_find_their_frames_among_many(agent, place):
    host = agent.connect()
    files = [os.open(place / str(n), os.O_RDWR | os.O_CREAT) for n in range(8)]
    for number in range(4):
        payload = exec_payload(["echo", str(number)], name=f"n{number}")
        host.send(frame(LIST, 100 + number) + frame(LIST, 200 + number))
        host.send(frame(EXEC, number, payload), files[2 * number : 2 * number + 2])
    for number in range(4):
        assert Exit.parse(host.expect(number, EXIT).payload).code == 0
    for fd in files:
        os.close(fd)
    assert [(place / str(2 * n)).read_bytes() for n in range(4)] == [b"%d\n" % n for n in range(4)]


def test_a_ninth_host_is_turned_away(agent):
    eight = [agent.connect() for _ in range(8)]
    assert agent.connect(greet=False).is_ended()
    eight[0].close()
    agent.connect()
    assert eight[1].call(LIST).payload == bytes(4)


def test_a_host_that_does_not_read_is_not_read_and_gets_everything_in_the_end(agent, place):
    (place / "big").write_bytes(bytes(512 << 10))
    host, other = agent.connect(), agent.connect()
    request = blob(str(place / "big")) + struct.pack("<QI", 0, 512 << 10)
    host.send(b"".join(frame(READ, number, request) for number in range(40)))
    assert other.call(LIST).payload == bytes(4)
    rss = int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1])
    assert all(len(host.receive().payload) == 5 + (512 << 10) for _ in range(40))
    if "sanitized" not in str(agent.process.args[0]):
        assert rss * 4096 < 8 << 20


def test_a_host_that_sends_half_a_frame_and_goes_away_harms_nobody(agent, place):
    for _ in range(20):
        host = agent.connect(greet=False)
        host.send(HELLO_FRAME + frame(EXEC, 2, exec_payload(["true"]))[:30], [0, 0])
        host.close()
    assert agent.connect().call(LIST).payload == bytes(4)


def test_no_descriptor_leaks_from_any_of_this(agent):
    if os.geteuid() != 0:
        pytest.skip("needs root, to count the descriptors of a process that cannot be looked into")
    polite = agent.connect()
    before = _descriptors(agent)
    for _ in range(10):
        host = agent.connect(greet=False)
        host.send(HELLO_FRAME + frame(77, 1), [0, 0, 0])
        host.until_ended()
    while _descriptors(agent) != before:
        polite.call(LIST)


def _descriptors(agent) -> int:
    return len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))


def test_a_stranger_on_a_datagram_socket_is_not_heard(agent):
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with pytest.raises(OSError, match="rotocol"):
        stranger.connect(str(agent.path))
    stranger.close()


def test_started_comes_before_exit_and_output(agent, place):
    host = agent.connect()
    files = [os.open(place / name, os.O_RDWR | os.O_CREAT) for name in ("o", "e")]
    host.send(frame(EXEC, 5, exec_payload(["echo", "x"]), EXCLUSIVE), files)
    for fd in files:
        os.close(fd)
    kinds = []
    while EXIT not in kinds:
        kinds.append(host.receive().type)
    assert (kinds[0], kinds[-1]) == (STARTED, EXIT)
    count_of(host.call(8, id_=5))
