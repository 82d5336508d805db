"""Payloads and outputs by reference and sealed: both ways, and what is refused."""

import contextlib
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.chain.desk import CHAIN, MALLORY, MANAGER, STORE

from faas.blobs.digest import digest_of
from faas.chain.carriage import reply_context
from faas.chain.carried import MARK, Form, Reference, Sealed, pack, unpack
from faas.chain.codec import ExecuteFunction, UploadFiles
from faas.chain.sealing import (
    Context,
    Secrets,
    address_of,
    open_box,
    seal_secrets,
)
from faas.chain.wallet import LocalWallet
from faas.errors import InvalidArgumentError

CAT = ExecuteFunction("img", ("cat",), (), b"")
READER = LocalWallet(bytes.fromhex("e5" * 32), chain_id=CHAIN)


@given(data=st.binary(max_size=300), is_marked=st.booleans())
def test_any_bytes_are_carried_as_they_are(data, is_marked):
    given_ = MARK + data if is_marked else data
    assert unpack(pack(given_)) == given_


@given(rest=st.binary(max_size=300))
def test_any_bytes_behind_the_mark_are_read_or_refused(rest):
    with contextlib.suppress(InvalidArgumentError):
        assert pack(unpack(MARK + rest)) == MARK + rest


def test_reference_that_is_cut_or_longer_is_refused():
    whole = pack(Reference(STORE, bytes(32), 5))
    assert unpack(whole) == Reference(STORE, bytes(32), 5)
    for bad in (whole[:-1], whole + bytes(32), MARK + bytes([Form.REFERENCE])):
        with pytest.raises(InvalidArgumentError):
            unpack(bad)


async def _put(desk, data):
    digest = await desk.store.put(data)
    return Reference(STORE, bytes.fromhex(digest[7:]), len(data))


async def test_large_payload_comes_by_reference_and_large_output_leaves_by_one(desk):
    data = b"x" * 100_000
    done = await desk.do(replace(CAT, payload=pack(await _put(desk, data))))
    answer = unpack(done.output)
    assert isinstance(answer, Reference)
    assert answer.store == STORE
    assert await desk.store.get(digest_of(data)) == data
    assert answer.sha256 == hashlib.sha256(data).digest()
    assert done.receipt.payload_sha256 == hashlib.sha256(data).digest()


async def test_large_output_without_a_store_is_too_large(desk):
    desk.has_store = False
    done = await desk.do(replace(CAT, command=("echo", "x" * 40_000)))
    assert done.code == "too_large"


async def test_output_that_looks_like_a_reference_is_not_one(desk):
    fake = pack(Reference(STORE, bytes(32), 5))
    done = await desk.do(replace(CAT, payload=pack(fake)))
    assert unpack(done.output) == fake
    shown = await desk.do(replace(CAT, payload=MARK + bytes([Form.PLAIN]) + fake))
    assert unpack(shown.output) == fake


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"store": "s3://elsewhere/jobs"}, "unsupported"),
        ({"store": "http://169.254.169.254/latest"}, "unsupported"),
        ({"sha256": bytes(32)}, "not_found"),
        ({"size_bytes": 4}, "invalid_argument"),
        ({"size_bytes": 2**63}, "too_large"),
    ],
)
async def test_reference_that_does_not_hold_is_refused(desk, change, code):
    reference = replace(await _put(desk, b"12345"), **change)
    assert (await desk.do(replace(CAT, payload=pack(reference)))).code == code


async def test_reference_to_another_reference_is_refused(desk):
    inner = pack(await _put(desk, b"12345"))
    outer = pack(await _put(desk, inner))
    assert (await desk.do(replace(CAT, payload=outer))).code == "invalid_argument"


async def test_damaged_bytes_in_the_store_are_refused(desk):
    reference = await _put(desk, b"12345")
    [path] = [p for p in (desk.platform.data_dir / "shared").rglob("*") if p.is_file()]
    path.chmod(0o600)
    path.write_bytes(b"54321")
    assert (await desk.do(replace(CAT, payload=pack(reference)))).code == "invalid_argument"


async def test_archive_may_be_a_reference_too(desk):
    done = await desk.do(UploadFiles("inst-none", "/w", pack(await _put(desk, b"x" * 50))))
    assert done.code == "invalid_argument"
    assert "no tar" in done.failure[1]


def _sealed(desk, job, secret, *, caller, keys=None):
    context = Context(CHAIN, MANAGER, 0, caller).of(job)
    return replace(
        job, payload=pack(Sealed(seal_secrets(secret, keys or [desk.wallet.public_key], context)))
    )


async def test_sealed_payload_and_environment_reach_the_command(desk):
    from tests.unit.chain.desk import ALICE

    job = ExecuteFunction("img", ("sh", "-c", "env; cat"), ("A=1",), b"")
    done = await desk.do(_sealed(desk, job, Secrets(("TOKEN=t",), b"secret"), caller=ALICE))
    assert b"TOKEN=t" in done.output
    assert b"secret" in done.output
    assert done.receipt.payload_sha256 == hashlib.sha256(b"secret").digest()


async def test_output_of_a_sealed_payload_is_sealed_to_the_key_it_names(desk):
    from tests.unit.chain.desk import ALICE

    secret = Secrets((), b"secret", READER.public_key)
    done = await desk.do(_sealed(desk, CAT, secret, caller=ALICE))
    answer = unpack(done.output)
    assert isinstance(answer, Sealed)
    assert b"secret" not in done.envelope.output
    assert open_box(answer.box, READER, reply_context(done.seen.inputs_hash)) == b"secret"
    with pytest.raises(InvalidArgumentError):
        open_box(answer.box, READER, reply_context(bytes(32)))


async def test_sealed_payload_for_another_operator_or_nobody_is_refused(desk):
    from tests.unit.chain.desk import ALICE

    job = _sealed(desk, CAT, Secrets((), b"s"), caller=ALICE, keys=[READER.public_key])
    refused = await desk.do(job)
    assert "not sealed to this operator" in refused.failure[1]
    garbage = replace(CAT, payload=pack(Sealed(b"garbage")))
    assert (await desk.do(garbage)).code == "invalid_argument"


async def test_box_is_for_every_operator_it_names(desk):
    from tests.unit.chain.desk import ALICE

    keys = [READER.public_key, desk.wallet.public_key]
    done = await desk.do(_sealed(desk, CAT, Secrets((), b"s"), caller=ALICE, keys=keys))
    assert done.output == b"s"


async def test_failed_command_with_a_sealed_payload_says_nothing_of_it(desk):
    from tests.unit.chain.desk import ALICE

    job = ExecuteFunction("img", ("sh", "-c", "echo leaked >&2; exit 3"), (), b"")
    failed = await desk.do(_sealed(desk, job, Secrets((), b"s"), caller=ALICE))
    assert failed.code == "command_failed"
    assert "leaked" not in failed.failure[1]


def test_address_is_the_account_of_the_key():
    assert address_of(READER.public_key) == READER.address


@pytest.mark.parametrize("part", range(5))
async def test_box_that_was_changed_does_not_open(desk, part):
    from eth_abi.abi import decode, encode
    from tests.unit.chain.desk import ALICE

    types = ("bytes", "address[]", "bytes[]", "bytes", "bytes")
    context = Context(CHAIN, MANAGER, 0, ALICE).of(CAT)
    fields = list(decode(types, seal_secrets(Secrets(), [desk.wallet.public_key], context)))
    if part == 1:
        fields[1] = [MALLORY]
    elif part == 2:
        fields[2] = [bytes([fields[2][0][0] ^ 1]) + fields[2][0][1:]]
    elif part == 0:
        fields[0] = READER.public_key
    else:
        fields[part] = bytes([fields[part][0] ^ 1]) + fields[part][1:]
    job = replace(CAT, payload=pack(Sealed(encode(types, fields))))
    assert (await desk.do(job)).code == "invalid_argument"
