"""The bytes of the twelve jobs, both ways: inputs, outputs and the result envelope.

Plain ABI tuples (the blueprint's schemas are empty, so the chain checks nothing). The field order
of each class is the wire order, and `spec/vectors/jobs.json` holds it to other encoders. Jobs on a
resource name it first: the contract reads the first string to route the job to its holder.
"""

from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import ClassVar, Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, EncodingError, InsufficientDataBytes
from eth_hash.auto import keccak

from faas.chain.overlaps import overlaps
from faas.errors import DataLossError, InvalidArgumentError

INLINE_BYTES_MAX: Final = 32 * 1024
"""Largest payload, archive or output that rides in a transaction: at some 40 gas a byte this is
1.3 million gas, and nodes refuse transactions over 128 KiB. Larger ones go by reference."""

NO_RESOURCE: Final = bytes(32)


class JobKind(IntEnum):
    """The blueprint's jobs, numbered as on the chain."""

    EXECUTE_FUNCTION = 0
    EXECUTE_ADVANCED = 1
    CREATE_SNAPSHOT = 2
    RESTORE_SNAPSHOT = 3
    CREATE_BRANCH = 4
    MERGE_BRANCHES = 5
    START_INSTANCE = 6
    STOP_INSTANCE = 7
    PAUSE_INSTANCE = 8
    RESUME_INSTANCE = 9
    EXPOSE_PORT = 10
    UPLOAD_FILES = 11


class JobStatus(IntEnum):
    """Where the contract says a job stands; `DONE`, `FAILED` and `TIMED_OUT` end it."""

    NONE = 0
    PENDING = 1
    DONE = 2
    FAILED = 3
    TIMED_OUT = 4
    EXPIRED = 5


class Rejection(IntEnum):
    """Why the contract did not take a result."""

    NONE = 0
    NOT_PENDING = 1
    MALFORMED = 2
    NOT_ASSIGNEE = 3
    TIMED_OUT_BY_ASSIGNEE = 4
    OTHER_INPUTS = 5


@dataclass(frozen=True, slots=True)
class JobCall:
    """The inputs of one job."""

    kind: ClassVar[JobKind]
    input_types: ClassVar[tuple[str, ...]]
    output_type: ClassVar[str]


@dataclass(frozen=True, slots=True)
class ExecuteFunction(JobCall):
    """Run a command in a fresh sandbox."""

    kind = JobKind.EXECUTE_FUNCTION
    input_types = ("string", "string[]", "string[]", "bytes")
    output_type = "bytes"

    image: str
    command: tuple[str, ...]
    env: tuple[str, ...]
    payload: bytes


@dataclass(frozen=True, slots=True)
class ExecuteAdvanced(JobCall):
    """Run a command in a mode, on a resource where the mode has one."""

    kind = JobKind.EXECUTE_ADVANCED
    input_types = ("string", "string", "string[]", "string[]", "bytes", "string", "uint64")
    output_type = "bytes"

    resource: str
    image: str
    command: tuple[str, ...]
    env: tuple[str, ...]
    payload: bytes
    mode: str
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class CreateSnapshot(JobCall):
    """Keep the state of a container; answers the snapshot's id."""

    kind = JobKind.CREATE_SNAPSHOT
    input_types = ("string", "string", "string")
    output_type = "string"

    container: str
    name: str
    description: str


@dataclass(frozen=True, slots=True)
class RestoreSnapshot(JobCall):
    """Make a container from a snapshot; answers its id."""

    kind = JobKind.RESTORE_SNAPSHOT
    input_types = ("string",)
    output_type = "string"

    snapshot: str


@dataclass(frozen=True, slots=True)
class CreateBranch(JobCall):
    """Branch off a snapshot; answers the branch's id."""

    kind = JobKind.CREATE_BRANCH
    input_types = ("string", "string")
    output_type = "string"

    parent: str
    name: str


@dataclass(frozen=True, slots=True)
class MergeBranches(JobCall):
    """Merge branches by a strategy; answers the merged snapshot's id."""

    kind = JobKind.MERGE_BRANCHES
    input_types = ("string", "string[]", "string")
    output_type = "string"

    first: str
    others: tuple[str, ...]
    strategy: str


@dataclass(frozen=True, slots=True)
class StartInstance(JobCall):
    """Start a long-running instance; answers its id."""

    kind = JobKind.START_INSTANCE
    input_types = ("string", "string", "uint32", "uint32", "uint32", "bool")
    output_type = "string"

    snapshot: str
    image: str
    cpu_cores: int
    memory_mb: int
    disk_gb: int
    enable_ssh: bool


@dataclass(frozen=True, slots=True)
class StopInstance(JobCall):
    """Stop an instance."""

    kind = JobKind.STOP_INSTANCE
    input_types = ("string",)
    output_type = "bool"

    instance: str


@dataclass(frozen=True, slots=True)
class PauseInstance(JobCall):
    """Pause an instance; answers the checkpoint's id."""

    kind = JobKind.PAUSE_INSTANCE
    input_types = ("string",)
    output_type = "string"

    instance: str


@dataclass(frozen=True, slots=True)
class ResumeInstance(JobCall):
    """Resume from a checkpoint; answers the instance's id."""

    kind = JobKind.RESUME_INSTANCE
    input_types = ("string",)
    output_type = "string"

    checkpoint: str


@dataclass(frozen=True, slots=True)
class ExposePort(JobCall):
    """Make a port of an instance reachable; answers the URL."""

    kind = JobKind.EXPOSE_PORT
    input_types = ("string", "uint16", "string", "string")
    output_type = "string"

    instance: str
    port: int
    protocol: str
    subdomain: str


@dataclass(frozen=True, slots=True)
class UploadFiles(JobCall):
    """Unpack a tar archive in an instance; answers the bytes written."""

    kind = JobKind.UPLOAD_FILES
    input_types = ("string", "string", "bytes")
    output_type = "uint64"

    instance: str
    path: str
    archive: bytes


CALLS: Final[dict[JobKind, type[JobCall]]] = {
    call.kind: call
    for call in (
        ExecuteFunction,
        ExecuteAdvanced,
        CreateSnapshot,
        RestoreSnapshot,
        CreateBranch,
        MergeBranches,
        StartInstance,
        StopInstance,
        PauseInstance,
        ResumeInstance,
        ExposePort,
        UploadFiles,
    )
}


@dataclass(frozen=True, slots=True)
class ResultEnvelope:
    """What an operator hands in: the end, for which inputs, what it made, the output, the proof."""

    status: JobStatus
    inputs_hash: bytes
    resource_key: bytes
    output: bytes
    receipt: bytes = b""
    """A signed record (`receipts`), a fifth field; four fields when there is none."""


_ENVELOPE_TYPES: Final = ("uint8", "bytes32", "bytes32", "bytes")
_SIGNED_TYPES: Final = (*_ENVELOPE_TYPES, "bytes")
_OUTPUT_AT: Final = slice(96, 128)
_ENDS: Final = frozenset({JobStatus.DONE, JobStatus.FAILED, JobStatus.TIMED_OUT})
_UNREADABLE: Final = (DecodingError, InsufficientDataBytes, UnicodeDecodeError, OverflowError)


def encode_call(call: JobCall) -> bytes:
    """Write a job's inputs.

    Raises:
        InvalidArgumentError: a value does not fit its field.
    """
    try:
        return encode(call.input_types, astuple(call))
    except (EncodingError, UnicodeEncodeError) as error:
        raise InvalidArgumentError(f"the inputs of {call.kind.name.lower()} do not fit") from error


def decode_call(job: int, inputs: bytes) -> JobCall:
    """Read a job's inputs.

    The message depends on nothing but the bytes, so that every operator answers an unreadable job
    with the same result.

    Raises:
        InvalidArgumentError: unknown job, or bytes that are not the one encoding of its inputs.
    """
    try:
        kind = JobKind(job)
    except ValueError as error:
        raise InvalidArgumentError(f"there is no job {job}") from error
    shape = CALLS[kind]
    if overlaps(shape.input_types, inputs):
        raise InvalidArgumentError(f"the inputs of {kind.name.lower()} are not canonical")
    try:
        call = shape(*decode(shape.input_types, inputs))
    except _UNREADABLE as error:
        raise InvalidArgumentError(f"the inputs of {kind.name.lower()} do not decode") from error
    if encode(shape.input_types, astuple(call)) != inputs:
        raise InvalidArgumentError(f"the inputs of {kind.name.lower()} are not canonical")
    return call


def encode_output(kind: JobKind, output: object) -> bytes:
    """Write what a job answers.

    Raises:
        InvalidArgumentError: it is not of the job's kind.
    """
    try:
        return encode((CALLS[kind].output_type,), (output,))
    except (EncodingError, UnicodeEncodeError) as error:
        raise InvalidArgumentError(f"the output of {kind.name.lower()} does not fit") from error


def decode_output(kind: JobKind, output: bytes) -> object:
    """Read what a job answered.

    Raises:
        DataLossError: the operator sent something else.
    """
    try:
        return decode((CALLS[kind].output_type,), output)[0]
    except _UNREADABLE as error:
        raise DataLossError(f"the output of {kind.name.lower()} does not decode") from error


def encode_failure(code: str, message: str) -> bytes:
    """Write the output of a job that failed: the platform's error code and one sentence."""
    return encode(("string", "string"), (code, message))


def decode_failure(output: bytes) -> tuple[str, str]:
    """Read the output of a job that failed.

    Raises:
        DataLossError: the operator sent something else.
    """
    try:
        code, message = decode(("string", "string"), output)
    except _UNREADABLE as error:
        raise DataLossError("the failure does not decode") from error
    return code, message


def encode_result(envelope: ResultEnvelope) -> bytes:
    """Write the envelope that `submitResult` carries."""
    fields = astuple(envelope)
    return (
        encode(_SIGNED_TYPES, fields) if envelope.receipt else encode(_ENVELOPE_TYPES, fields[:4])
    )


def decode_result(result: bytes) -> ResultEnvelope:
    """Read an envelope, as strictly as the contract does.

    Raises:
        DataLossError: it is not the one encoding of an end.
    """
    try:
        # The output begins right behind the head, so its place says how many fields there are.
        has_receipt = int.from_bytes(result[_OUTPUT_AT]) == len(_SIGNED_TYPES) * 32
        status, *rest = decode(_SIGNED_TYPES if has_receipt else _ENVELOPE_TYPES, result)
        envelope = ResultEnvelope(JobStatus(status), *rest)
    except (*_UNREADABLE, ValueError) as error:
        raise DataLossError("the result is not an envelope") from error
    if envelope.status not in _ENDS or encode_result(envelope) != result:
        raise DataLossError("the result is not an envelope of an end")
    return envelope


def inputs_hash_of(inputs: bytes) -> bytes:
    """Hash inputs as Tangle does, for the envelope."""
    return keccak(inputs)


def resource_of(call: JobCall) -> str:
    """Name the resource a job is on, by which the contract routes it; "" for none."""
    return "" if call.kind is JobKind.EXECUTE_FUNCTION else astuple(call)[0]


def resource_key_of(resource: str) -> bytes:
    """Name a resource as the contract does; zeros for none."""
    return keccak(resource.encode()) if resource else NO_RESOURCE
