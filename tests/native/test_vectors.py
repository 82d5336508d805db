"""`spec/vectors/frames.json` holds the table of PROTOCOL.md, C and Python to the same bytes."""

import json
import os
import struct
from pathlib import Path

import pytest
from tests.native import wire
from tests.native.wire import ConnectionEndedError

VECTORS = json.loads((Path(__file__).resolve().parents[2] / "spec/vectors/frames.json").read_text())
REQUESTS = [v for v in VECTORS["frames"] if v["direction"] == "to_agent"]
ANSWERS = [v for v in VECTORS["frames"] if v["direction"] == "from_agent"]
NUMBERS = {
    name: value for name, value in vars(wire).items() if name.isupper() and isinstance(value, int)
}


def of(vector: dict[str, object]) -> bytes:
    return bytes.fromhex(str(vector["hex"]))


def test_every_frame_type_has_two_examples_or_more():
    types = [v["type"] for v in VECTORS["frames"]]
    wanted = {*range(1, 9), *range(16, 28), *range(65, 78)}
    assert {t for t in wanted if types.count(t) >= 2} == wanted
    assert len({v["name"] for v in VECTORS["frames"]}) == len(types)


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda v: v["name"])
def test_a_vector_is_a_whole_frame(vector):
    length, kind, flags, zero, id_ = wire.HEADER.unpack_from(of(vector))
    assert (kind, flags, zero, id_) == (vector["type"], vector["flags"], 0, vector["id"])
    assert len(of(vector)) == wire.HEADER.size + length


@pytest.mark.parametrize("vector", REQUESTS, ids=lambda v: v["name"])
def test_the_agent_understands_every_request(agent, place, vector):
    host = agent.connect()
    fds = [os.open(place / str(n), os.O_RDWR | os.O_CREAT) for n in range(vector["fds"])]
    if vector["name"] != "hello_of_another_version" or vector["type"] != wire.HELLO:
        host.send(of(vector), fds)
        answer = host.receive()
        assert answer.id == vector["id"]
        assert answer.type in vector["answers"]
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("vector", REQUESTS, ids=lambda v: v["name"])
def test_the_agent_hangs_up_on_every_request_with_a_byte_too_many(agent, place, vector):
    host = agent.connect()
    data = bytearray(of(vector) + b"\0")
    struct.pack_into("<I", data, 0, len(data) - wire.HEADER.size)
    fds = [os.open(place / str(n), os.O_RDWR | os.O_CREAT) for n in range(vector["fds"])]
    host.send(bytes(data), fds)
    for fd in fds:
        os.close(fd)
    with pytest.raises(ConnectionEndedError):
        host.receive()


@pytest.mark.parametrize("vector", ANSWERS, ids=lambda v: v["name"])
def test_an_answer_has_the_size_of_its_fields(vector):
    payload = of(vector)[wire.HEADER.size :]
    fixed = {65: 24, 66: 13, 67: 16, 68: 72, 69: 8, 70: 8, 76: 0}
    if vector["type"] in fixed:
        assert len(payload) == fixed[vector["type"]]
    elif vector["type"] == wire.STAT_OK:
        assert wire.read_entry(payload, 0)[1] == len(payload)
    elif vector["type"] == wire.ERROR:
        wire.error_of(wire.Frame(wire.ERROR, 0, payload))
