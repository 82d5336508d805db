"""A few kilobytes that would unfold to gigabytes are refused before they are decoded."""

import time
import tracemalloc

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from faas.chain.codec import ExecuteFunction, decode_call, encode_call
from faas.chain.overlaps import overlaps
from faas.chain.sealing import open_box, open_secrets, seal
from faas.chain.wallet import LocalWallet
from faas.errors import InvalidArgumentError
from faas_sdk.tangle import _sealing

WALLET = LocalWallet(b"\x11" * 32, chain_id=1)
CONTEXT = bytes(32)
INPUTS = ("string", "string[]", "string[]", "bytes")
SECRETS = ("string[]", "bytes", "bytes")
BOX = ("bytes", "address[]", "bytes[]", "bytes", "bytes")


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _unfolding(types: tuple[str, ...], entries: int, size: int) -> bytes:
    """Every array of dynamic entries points again and again at one entry."""
    array = _word(entries) + _word(entries * 32) * entries + _word(size) + bytes(size)
    head, body = b"", b""
    for kind in types:
        head += _word(len(types) * 32 + len(body))
        body += array if kind in ("string[]", "bytes[]") else _word(0)
    return head + body


@pytest.fixture
def frugal():
    """What is refused must not have been unfolded first."""
    tracemalloc.start()
    began = time.monotonic()
    yield
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 64 << 20
    assert time.monotonic() - began < 10


def test_inputs_that_unfold_are_not_canonical(frugal):
    with pytest.raises(InvalidArgumentError, match="not canonical"):
        decode_call(0, _unfolding(INPUTS, 1900, 30_000))


def test_box_that_unfolds_is_refused(frugal):
    with pytest.raises(InvalidArgumentError, match="not canonical"):
        open_box(_unfolding(BOX, 100_000, 1 << 20), WALLET, CONTEXT)


def test_secrets_that_unfold_are_refused(frugal):
    box = seal(_unfolding(SECRETS, 100_000, 1 << 20), [WALLET.public_key], CONTEXT)
    with pytest.raises(InvalidArgumentError, match="not canonical"):
        open_secrets(box, WALLET, CONTEXT)


def test_output_that_unfolds_at_its_caller_is_refused(frugal):
    with pytest.raises(_sealing.DataLossError):
        _sealing._open(_unfolding(BOX, 100_000, 1 << 20), b"\x22" * 32, CONTEXT)


@given(
    command=st.lists(st.text(max_size=20), max_size=8),
    env=st.lists(st.text(max_size=20), max_size=8),
    payload=st.binary(max_size=40),
)
def test_what_an_encoder_makes_never_overlaps(command, env, payload):
    call = ExecuteFunction("image", tuple(command), tuple(env), payload)
    inputs = encode_call(call)
    assert not overlaps(INPUTS, inputs)
    assert decode_call(0, inputs) == call
    assert not overlaps(SECRETS, encode(SECRETS, (env, payload, b"")))


@given(data=st.binary(max_size=400))
def test_any_bytes_are_looked_at_without_an_error(data):
    overlaps(INPUTS, data)
    overlaps(BOX, data)
