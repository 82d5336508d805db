"""Our hand-written views against the ABI that was compiled from the contracts."""

import json
from importlib import resources

import pytest
from eth_hash.auto import keccak

from faas.chain.contract import Event, Function, Manager, StatusRegistry, Tangle, split_types


def _abi(name):
    return json.loads((resources.files("faas.chain") / "abi" / f"{name}.json").read_text())["abi"]


def _type(parameter):
    if not parameter["type"].startswith("tuple"):
        return parameter["type"]
    inner = ",".join(_type(each) for each in parameter["components"])
    return f"({inner}){parameter['type'].removeprefix('tuple')}"


def _signature(entry):
    return f"{entry['name']}({','.join(_type(each) for each in entry['inputs'])})"


def _views():
    for view, contract in (
        (Tangle, "DevTangle"),
        (Manager, "FaaSBlueprint"),
        (StatusRegistry, "DevStatusRegistry"),
    ):
        for name, value in vars(view).items():
            if isinstance(value, Function | Event):
                yield pytest.param(value, contract, id=f"{contract}.{name}")


@pytest.mark.parametrize(("view", "contract"), list(_views()))
def test_a_view_says_what_the_contract_says(view, contract):
    [entry] = [
        each
        for each in _abi(contract)
        if each["type"] in ("function", "event") and _signature(each) == view.signature
    ]
    if isinstance(view, Event):
        data = [_type(each) for each in entry["inputs"] if not each["indexed"]]
        assert list(split_types(view.data)) == data
    elif view.answer:
        assert [_type(each) for each in entry["outputs"]] == list(split_types(view.answer))


def test_types_are_taken_apart_at_outer_commas_only():
    assert split_types("uint8,(bytes,(a,b)[])[],c") == ("uint8", "(bytes,(a,b)[])[]", "c")
    assert split_types("") == ()


def test_selector_is_the_hash_of_the_signature():
    assert Tangle.SUBMIT_JOB.selector == keccak(b"submitJob(uint64,uint8,bytes)")[:4]
    assert Tangle.SUBMIT_JOB.selector.hex() == "3413e8ee"
