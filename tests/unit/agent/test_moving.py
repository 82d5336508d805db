"""What an agent says of a command that moves is taken whole or not at all."""

import json
from pathlib import Path

import pytest

from faas.agent.moving import adopt_flags, pack_adopt, parse_exported
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
