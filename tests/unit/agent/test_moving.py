"""What an agent says of a command that moves is taken whole or not at all."""

import json
from pathlib import Path

import pytest

from faas.agent.moving import TYPED_BYTES_MAX, Terminal, adopt_flags, pack_adopt, parse_exported
from faas.agent.protocol import ProtocolError

FRAMES = json.loads((Path(__file__).parents[3] / "spec/vectors/frames.json").read_text())["frames"]
HEADER_BYTES = 12
EXPORTED = {v["name"]: bytes.fromhex(v["hex"])[HEADER_BYTES:] for v in FRAMES if v["type"] == 77}


@pytest.mark.parametrize("name", EXPORTED)
def test_a_whole_answer_is_read(name):
    exported = parse_exported(EXPORTED[name])
    assert exported.pid == 1001
    assert exported.pid in exported.roots


@pytest.mark.parametrize("name", EXPORTED)
def test_one_that_is_cut_off_or_too_long_is_refused_at_every_byte(name):
    whole = EXPORTED[name]
    for length in range(len(whole)):
        with pytest.raises(ProtocolError):
            parse_exported(whole[:length])
    with pytest.raises(ProtocolError):
        parse_exported(whole + b"\0")


def test_what_is_packed_is_what_the_vectors_say():
    fed = parse_exported(EXPORTED["exported_fed"])
    vector = next(v for v in FRAMES if v["name"] == "adopt_fed_with_input_unread")
    assert pack_adopt("again", fed) == bytes.fromhex(vector["hex"])[HEADER_BYTES:]
    assert adopt_flags(fed) == vector["flags"]


def test_a_terminal_goes_with_its_command():
    exported = parse_exported(EXPORTED["exported_on_a_terminal"])
    assert exported.terminal == Terminal(3, 0x4B, b"\x01\0\0half")
    vector = next(v for v in FRAMES if v["name"] == "adopt_on_a_terminal")
    assert pack_adopt("shell", exported) == bytes.fromhex(vector["hex"])[HEADER_BYTES:]
    assert adopt_flags(exported) == vector["flags"]


def test_more_typed_than_a_terminal_holds_is_refused():
    whole = EXPORTED["exported_on_a_terminal"].removesuffix(b"\7\0\0\0\x01\0\0half")
    most = TYPED_BYTES_MAX
    assert parse_exported(whole + most.to_bytes(4, "little") + bytes(most)).terminal is not None
    with pytest.raises(ProtocolError):
        parse_exported(whole + (most + 1).to_bytes(4, "little") + bytes(most + 1))
