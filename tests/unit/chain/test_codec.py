"""The bytes of the jobs: the shared vectors, and refusals."""

import json
from dataclasses import astuple, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas.chain.codec import (
    CALLS,
    JobKind,
    JobStatus,
    ResultEnvelope,
    decode_call,
    decode_failure,
    decode_output,
    decode_result,
    encode_call,
    encode_failure,
    encode_output,
    encode_result,
    inputs_hash_of,
    resource_key_of,
    resource_of,
)
from faas.errors import DataLossError, InvalidArgumentError

VECTORS = json.loads(
    (Path(__file__).parents[3] / "spec" / "vectors" / "jobs.json").read_text(encoding="utf-8")
)
JOBS = [pytest.param(job, id=job["name"]) for job in VECTORS["jobs"]]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _value(abi_type: str, shown: object) -> object:
    if abi_type == "bytes":
        return _bytes(str(shown))
    if abi_type.startswith("uint"):
        return int(str(shown))
    return tuple(shown) if isinstance(shown, list) else shown


def test_vectors_cover_all_twelve_jobs():
    assert [job["job"] for job in VECTORS["jobs"]] == list(JobKind)


@pytest.mark.parametrize("job", JOBS)
def test_inputs_are_the_bytes_of_the_vector_both_ways(job):
    shape = CALLS[JobKind(job["job"])]
    values = (
        _value(kind, job["inputs"][field.name])
        for kind, field in zip(shape.input_types, fields(shape), strict=True)
    )
    call = shape(*values)
    encoded = _bytes(job["encodedInputs"])
    assert encode_call(call) == encoded
    assert decode_call(job["job"], encoded) == call
    assert inputs_hash_of(encoded) == _bytes(job["inputsHash"])


@pytest.mark.parametrize("job", JOBS)
def test_resource_is_the_first_field_of_every_job_but_the_plain_one(job):
    call = decode_call(job["job"], _bytes(job["encodedInputs"]))
    assert resource_key_of(resource_of(call)) == _bytes(job["resourceKey"])


@pytest.mark.parametrize("job", JOBS)
def test_outputs_are_the_bytes_of_the_vector_both_ways(job):
    kind = JobKind(job["job"])
    output = _value(job["outputType"], job["output"])
    encoded = _bytes(job["encodedOutput"])
    assert encode_output(kind, output) == encoded
    assert decode_output(kind, encoded) == output


@pytest.mark.parametrize("shown", VECTORS["envelopes"])
def test_envelopes_are_the_bytes_of_the_vector_both_ways(shown):
    envelope = ResultEnvelope(
        JobStatus(shown["status"]),
        _bytes(shown["inputsHash"]),
        _bytes(shown["resourceKey"]),
        _bytes(shown["output"]),
        _bytes(shown["receipt"]),
    )
    assert encode_result(envelope) == _bytes(shown["encoded"])
    assert decode_result(_bytes(shown["encoded"])) == envelope


@pytest.mark.parametrize("name", VECTORS["malformedEnvelopes"])
def test_what_is_no_envelope_is_refused(name):
    with pytest.raises(DataLossError):
        decode_result(_bytes(VECTORS["malformedEnvelopes"][name]))


@pytest.mark.parametrize("job", JOBS)
def test_inputs_cut_short_are_refused(job):
    encoded = _bytes(job["encodedInputs"])
    for length in range(0, len(encoded), 32):
        with pytest.raises(InvalidArgumentError):
            decode_call(job["job"], encoded[:length])


def test_inputs_with_something_behind_them_are_refused():
    encoded = _bytes(VECTORS["jobs"][7]["encodedInputs"])
    with pytest.raises(InvalidArgumentError, match="not canonical"):
        decode_call(7, encoded + bytes(32))


def test_unknown_job_is_refused():
    with pytest.raises(InvalidArgumentError, match="no job 12"):
        decode_call(12, b"")


def test_text_that_is_not_utf8_is_refused():
    encoded = _bytes(VECTORS["jobs"][7]["encodedInputs"]).replace(b"inst-1", b"\xff\xfe\xfd\xfc12")
    with pytest.raises(InvalidArgumentError, match="do not decode"):
        decode_call(7, encoded)


def test_number_too_large_for_its_field_is_refused():
    port = decode_call(10, _bytes(VECTORS["jobs"][10]["encodedInputs"]))
    shape = type(port)
    values = (*astuple(port)[:1], 65536, *astuple(port)[2:])
    with pytest.raises(InvalidArgumentError, match="do not fit"):
        encode_call(shape(*values))


def test_output_of_another_kind_is_refused():
    with pytest.raises(InvalidArgumentError):
        encode_output(JobKind.STOP_INSTANCE, "yes")
    with pytest.raises(DataLossError):
        decode_output(JobKind.CREATE_SNAPSHOT, b"\x01")


def test_failure_survives_the_way():
    assert decode_failure(encode_failure("not_found", "no such image")) == (
        "not_found",
        "no such image",
    )
    with pytest.raises(DataLossError):
        decode_failure(b"")


@given(job=st.integers(0, 255), inputs=st.binary(max_size=400))
def test_any_bytes_decode_or_are_refused_by_name(job, inputs):
    try:
        call = decode_call(job, inputs)
    except InvalidArgumentError:
        return
    assert encode_call(call) == inputs


@given(result=st.binary(max_size=400))
def test_any_result_is_an_envelope_or_refused_by_name(result):
    try:
        envelope = decode_result(result)
    except DataLossError:
        return
    assert encode_result(envelope) == result
