"""The chain part of the SDK, held to what the platform and the contracts are held to."""

import ast
import json
from pathlib import Path

import pytest
from eth_hash.auto import keccak

from faas_sdk import DataLossError, InvalidArgumentError, TooLargeError
from faas_sdk.tangle import _abi, _codec
from faas_sdk.tangle._client import TangleClient, as_command, as_environment
from faas_sdk.tangle._errors import RefusedError, error_of_revert
from faas_sdk.tangle._sync import SyncTangleClient

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "sdks/python/src/faas_sdk/tangle").glob("*.py"))
VECTORS = json.loads((ROOT / "spec/vectors/jobs.json").read_text())


def bytes_of(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def value_of(kind: str, value: object) -> object:
    """Vectors write bytes as hex, and numbers that JSON cannot hold as text."""
    if kind == "bytes":
        return bytes_of(str(value))
    if isinstance(value, list):
        return tuple(value)
    return int(str(value)) if kind.startswith("uint") else value


def abi(name: str) -> list[dict]:
    return json.loads((ROOT / f"src/faas/chain/abi/{name}.json").read_text())["abi"]


def type_of(entry: dict) -> str:
    if not entry["type"].startswith("tuple"):
        return entry["type"]
    return f"({','.join(map(type_of, entry['components']))}){entry['type'][5:]}"


def signatures(kind: str) -> dict[str, dict]:
    entries = [e for name in ("DevTangle", "FaaSBlueprint") for e in abi(name)]
    return {
        f"{e['name']}({','.join(map(type_of, e['inputs']))})": e
        for e in entries
        if e["type"] == kind
    }


@pytest.mark.parametrize("vector", VECTORS["jobs"], ids=lambda vector: vector["name"])
def test_jobs_are_written_and_read_as_the_vectors_say(vector: dict) -> None:
    shape = _codec.CALLS[_codec.JobKind(vector["job"])]
    assert shape.kind.name.lower() == vector["name"]
    assert list(shape.input_types) == vector["inputTypes"]
    values = [
        value_of(kind, value)
        for kind, value in zip(vector["inputTypes"], vector["inputs"].values(), strict=True)
    ]
    inputs = shape(*values).encode()
    assert inputs == bytes_of(vector["encodedInputs"])
    assert keccak(inputs) == bytes_of(vector["inputsHash"])
    output = _codec.decode_output(vector["job"], bytes_of(vector["encodedOutput"]))
    assert output == value_of(vector["outputType"], vector["output"])


@pytest.mark.parametrize("vector", VECTORS["envelopes"], ids=lambda vector: str(vector["status"]))
def test_envelopes_are_read_as_the_vectors_say(vector: dict) -> None:
    encoded = bytes_of(vector["encoded"])
    if vector["status"] not in (2, 3, 4):
        with pytest.raises(DataLossError):
            _codec.decode_envelope(encoded)
        return
    envelope = _codec.decode_envelope(encoded)
    assert envelope.status == vector["status"]
    assert envelope.inputs_hash == bytes_of(vector["inputsHash"])
    assert envelope.resource_key == bytes_of(vector["resourceKey"])
    assert envelope.receipt == bytes_of(vector.get("receipt", "0x"))


@pytest.mark.parametrize("name", VECTORS["malformedEnvelopes"])
def test_what_is_no_envelope_is_refused(name: str) -> None:
    with pytest.raises(DataLossError):
        _codec.decode_envelope(bytes_of(VECTORS["malformedEnvelopes"][name]))


@pytest.mark.parametrize("holder", [_abi.Tangle, _abi.Manager])
def test_functions_and_events_are_those_of_the_committed_abi(holder: type) -> None:
    functions, events = signatures("function"), signatures("event")
    for each in vars(holder).values():
        if isinstance(each, _abi.Function):
            entry = functions[each.signature]
            answer = ",".join(map(type_of, entry["outputs"]))
            assert each.answer in ("", answer), each.signature
        elif isinstance(each, _abi.Event):
            entry = events[each.signature]
            data = ",".join(type_of(i) for i in entry["inputs"] if not i["indexed"])
            assert each.data in ("", data), each.signature


def test_custom_errors_are_those_of_the_committed_abi() -> None:
    theirs = {keccak(s.encode())[:4]: e["name"] for s, e in signatures("error").items()}
    ours = _abi.errors()
    assert {selector: theirs.get(selector) for selector in ours} == ours


def test_refusal_inside_a_refusal_is_the_one_that_is_told() -> None:
    inner = keccak(b"NoOperatorFree(uint64)")[:4] + (7).to_bytes(32, "big")
    outer = (
        keccak(b"ManagerReverted(address,bytes)")[:4]
        + bytes(32)
        + (64).to_bytes(32, "big")
        + len(inner).to_bytes(32, "big")
        + inner.ljust(64, b"\0")
    )
    error = error_of_revert(outer)
    assert (error.revert, dict(error.arguments)) == ("NoOperatorFree", {"serviceId": 7})


def test_refusal_nobody_knows_is_still_a_refusal() -> None:
    for data in (b"", b"\x01\x02\x03\x04", keccak(b"NoOperatorFree(uint64)")[:4] + b"short"):
        assert isinstance(error_of_revert(data), RefusedError)


def test_what_does_not_fit_is_refused_before_it_costs_anything() -> None:
    with pytest.raises(TooLargeError):
        _codec.UploadFiles("i", "/", b"x" * (_codec.INLINE_BYTES_MAX + 1)).encode()
    with pytest.raises(InvalidArgumentError):
        _codec.ExposePort("i", 70_000).encode()
    with pytest.raises(InvalidArgumentError):
        as_command([])
    with pytest.raises(InvalidArgumentError):
        as_environment(["no sign"])
    assert as_command("echo $A") == ("sh", "-c", "echo $A")
    assert as_environment({"A": "1=2"}) == ("A=1=2",)


def test_the_sync_twin_has_the_same_names() -> None:
    def names(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert names(TangleClient) - {"aclose", "connect", "calls"} == names(SyncTangleClient) - {
        "close",
        "run",
    }


def test_the_sdk_does_not_import_the_platform() -> None:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name == "faas" or name.startswith("faas.") for name in found), source


def test_the_plain_sdk_does_not_load_the_chain_part() -> None:
    init = (ROOT / "sdks/python/src/faas_sdk/__init__.py").read_text()
    assert "tangle" not in init
