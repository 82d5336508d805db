"""Refusals of the contracts, told as the platform's errors."""

import pytest
from eth_abi.abi import encode
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from faas.chain import reverts
from faas.chain.reverts import error_of_revert, read_revert
from faas.errors import (
    FaasError,
    InternalError,
    PermissionDeniedError,
    ResourceExhaustedError,
    WrongStateError,
)

MANAGER = "0x" + "11" * 20


def _data(signature: str, *values: object) -> bytes:
    types = signature.partition("(")[2].removesuffix(")")
    return keccak(signature.encode())[:4] + encode(types.split(",") if types else [], values)


def _wrapped(reason: bytes) -> bytes:
    return _data("ManagerReverted(address,bytes)", MANAGER, reason)


def test_error_is_named_with_its_arguments():
    found = read_revert(_data("JobAlreadyCompleted(uint64,uint64)", 3, 7))
    assert str(found) == "JobAlreadyCompleted(serviceId=3, callId=7)"


def test_reason_of_the_manager_is_taken_out_of_its_wrapper():
    found = read_revert(_wrapped(_data("NoOperatorFree(uint64)", 5)))
    assert str(found) == "NoOperatorFree(serviceId=5)"


def test_wrapper_with_an_unknown_reason_is_told_as_it_is():
    found = read_revert(_wrapped(b"\x01\x02\x03\x04"))
    assert found is not None
    assert found.name == "ManagerReverted"
    assert found.arguments["reason"] == b"\x01\x02\x03\x04"


def test_wrappers_without_end_are_not_followed():
    data = _data("NoOperatorFree(uint64)", 5)
    for _ in range(6):
        data = _wrapped(data)
    assert read_revert(data) is None


@pytest.mark.parametrize("data", [b"", b"\x07", b"\xff\xff\xff\xff", bytes(36)])
def test_unknown_data_has_no_name(data):
    assert read_revert(data) is None
    assert isinstance(error_of_revert(data), InternalError)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_wrapped(_data("NoOperatorFree(uint64)", 0)), ResourceExhaustedError),
        (_data("NotPermittedCaller(uint64,address)", 0, MANAGER), PermissionDeniedError),
        (_data("ResultAlreadySubmitted(uint64,uint64,address)", 0, 0, MANAGER), WrongStateError),
    ],
)
def test_error_is_of_the_class_of_who_must_act(data, expected):
    assert type(error_of_revert(data)) is expected


def test_every_name_with_a_class_is_an_error_of_the_contracts():
    known = {entry["name"] for entry in reverts._errors().values()}
    assert set(reverts._CLASSES) - known == set()


@given(data=st.binary(max_size=300))
def test_any_data_becomes_an_error(data):
    assert isinstance(error_of_revert(data), FaasError)
