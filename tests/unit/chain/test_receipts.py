"""A receipt holds off-line or says what does not fit; no field of it can be changed unseen."""

import contextlib
from dataclasses import replace

import pytest
from eth_account import Account
from tests.unit.chain.desk import CHAIN, MANAGER

from faas.chain.codec import ExecuteFunction, JobStatus, encode_output, encode_result
from faas.chain.receipts import (
    SignedReceipt,
    compare,
    decode_receipt,
    encode_receipt,
    problems_of,
    signer_of,
)
from faas.chain.wallet import LocalWallet
from faas.errors import DataLossError

ECHO = ExecuteFunction("img", ("echo", "hi"), (), b"")
FIELDS = {
    "chain_id": 1,
    "manager": "0x" + "22" * 20,
    "service": 9,
    "call": 9,
    "job": 3,
    "caller": "0x" + "22" * 20,
    "operator": "0x" + "22" * 20,
    "status": JobStatus.FAILED,
    "inputs_hash": bytes(32),
    "payload_sha256": bytes(32),
    "output_hash": bytes(32),
    "image_digest": "sha256:0",
    "runtime": "docker",
    "isolation": "hypervisor",
    "limits": (1, 2, 3, 4, 5),
    "resource": "inst-1",
    "started_ms": 1,
    "finished_ms": 2**60,
}


async def test_receipt_of_a_job_tells_what_ran_and_holds(desk):
    done = await desk.do(ECHO)
    receipt = done.receipt
    assert problems_of(done.envelope, inputs=done.seen.inputs) == []
    assert (receipt.chain_id, receipt.manager, receipt.call) == (CHAIN, MANAGER, 0)
    assert (receipt.operator, receipt.image_digest) == (desk.wallet.address, "img")
    assert (receipt.runtime, receipt.isolation) == ("fake", "none")
    assert receipt.limits[0] == desk.settings.limits.timeout_ms
    assert receipt.finished_ms >= receipt.started_ms > 0


@pytest.mark.parametrize("field", FIELDS)
async def test_changed_field_is_noticed(desk, field):
    done = await desk.do(ECHO)
    signed = decode_receipt(done.envelope.receipt)
    forged = replace(signed, receipt=replace(signed.receipt, **{field: FIELDS[field]}))
    envelope = replace(done.envelope, receipt=encode_receipt(forged))
    assert any("it was signed by" in problem for problem in problems_of(envelope))


async def test_receipt_does_not_fit_another_result(desk):
    done = await desk.do(ECHO)
    other = encode_output(ECHO.kind, b"forged\n")
    assert problems_of(replace(done.envelope, output=other)) == [
        "it is for another output than the result's"
    ]
    assert problems_of(done.envelope, inputs=b"other") == [
        "it is for other inputs than the given ones"
    ]
    with pytest.raises(DataLossError, match="no receipt"):
        problems_of(replace(done.envelope, receipt=b""))


@pytest.mark.parametrize("signature", [b"", bytes(65), b"\x01" * 64 + b"\x1b", b"\xff" * 65])
async def test_nonsense_is_nobodys_signature(desk, signature):
    signed = decode_receipt((await desk.do(ECHO)).envelope.receipt)
    forged = SignedReceipt(signed.receipt, signature)
    with contextlib.suppress(DataLossError):
        assert signer_of(forged) != signed.receipt.operator


async def test_any_eth_account_can_read_the_signature(desk):
    from eth_account.messages import encode_defunct

    signed = decode_receipt((await desk.do(ECHO)).envelope.receipt)
    message = encode_defunct(signed.receipt.digest)
    found = Account.recover_message(message, signature=signed.signature)
    assert found == signed.receipt.operator == signer_of(signed)


async def test_bytes_that_are_no_receipt_are_refused(desk):
    good = (await desk.do(ECHO)).envelope.receipt
    for bad in (b"", good[:-32], good + bytes(32), b"\xff" * len(good)):
        with pytest.raises(DataLossError):
            decode_receipt(bad)


async def test_operators_that_ran_the_same_agree_and_the_odd_one_is_named(desk):
    one = await desk.do(ECHO)
    others = [
        replace(desk, wallet=LocalWallet(bytes.fromhex(digit * 64), chain_id=CHAIN))
        for digit in "56"
    ]
    second, third = [await other.do(ECHO) for other in others]
    assert compare([one.envelope, second.envelope, third.envelope]) == []
    assert "twice" in str(compare([one.envelope, one.envelope]))
    lying = await others[1].do(replace(ECHO, command=("echo", "lie")))
    # It signs for the inputs of the others, and for an output of its own.
    said = replace(
        decode_receipt(lying.envelope.receipt).receipt, inputs_hash=one.envelope.inputs_hash
    )
    signature = await others[1].wallet.sign_receipt(said.digest)
    forged = replace(
        lying.envelope,
        inputs_hash=one.envelope.inputs_hash,
        receipt=encode_receipt(SignedReceipt(said, signature)),
    )
    [problem] = compare([one.envelope, second.envelope, forged])
    assert others[1].wallet.address in problem
    assert one.receipt.operator not in problem


async def test_result_without_a_receipt_is_named_and_compared_by_what_it_says(desk):
    """Who lies signs nothing: the comparison must not stop there."""
    one = await desk.do(ECHO)
    silent = replace(one.envelope, receipt=b"", output=b"a lie")
    missing, differ = compare([one.envelope, silent])
    assert "result 1: the result has no receipt" in missing
    assert "result 1" in differ
    assert one.receipt.operator not in differ


async def test_receipt_costs_a_result_about_a_kilobyte(desk):
    done = await desk.do(ECHO)
    extra = len(encode_result(done.envelope)) - len(
        encode_result(replace(done.envelope, receipt=b""))
    )
    assert extra <= 1280
