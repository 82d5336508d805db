"""The bytes of the twelve jobs: inputs, outputs, and the envelope of a result.

Plain ABI tuples. The order of each class's fields is the wire order; the vectors that the
platform, the contract and this client are all held to are `spec/vectors/jobs.json`.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import Any, ClassVar, Dict, Tuple, Type

from eth_abi.abi import decode, encode
from eth_abi.exceptions import EncodingError
from eth_hash.auto import keccak

from faas_sdk._errors import DataLossError, InvalidArgumentError, TooLargeError
from faas_sdk.tangle._abi import UNREADABLE

INLINE_BYTES_MAX = 32 * 1024
"""Largest payload or archive in a transaction: operators refuse more, and bytes are paid for."""


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
    """Where the contract says a job stands; `DONE`, `FAILED` and `TIMED_OUT` are ends."""

    NONE = 0
    PENDING = 1
    DONE = 2
    FAILED = 3
    TIMED_OUT = 4
    EXPIRED = 5

    @property
    def is_over(self) -> bool:
        """Whether a result was accepted."""
        return self in (JobStatus.DONE, JobStatus.FAILED, JobStatus.TIMED_OUT)


@dataclass(frozen=True)
class JobCall:
    """The inputs of one job."""

    kind: ClassVar[JobKind]
    input_types: ClassVar[Tuple[str, ...]]
    output_type: ClassVar[str]

    def encode(self) -> bytes:
        """Write the inputs.

        Raises:
            InvalidArgumentError: a value does not fit its field.
            TooLargeError: a payload is too large for the chain.
        """
        name = self.kind.name.lower()
        for value in astuple(self):
            if isinstance(value, bytes) and len(value) > INLINE_BYTES_MAX:
                raise TooLargeError(
                    f"{len(value)} bytes are too many for {name}: at most {INLINE_BYTES_MAX}",
                    hint="everything on a chain is paid by the byte: let the command fetch it",
                )
        try:
            return encode(self.input_types, astuple(self))
        except (EncodingError, UnicodeEncodeError, TypeError, ValueError) as error:
            raise InvalidArgumentError(f"the inputs of {name} do not fit: {error}") from error


@dataclass(frozen=True)
class ExecuteFunction(JobCall):
    """Run a command in a fresh sandbox."""

    kind = JobKind.EXECUTE_FUNCTION
    input_types = ("string", "string[]", "string[]", "bytes")
    output_type = "bytes"

    image: str
    command: Tuple[str, ...]
    env: Tuple[str, ...] = ()
    payload: bytes = b""
    """As it rides: `carry(...)` makes it of any data, or of a reference."""


@dataclass(frozen=True)
class ExecuteAdvanced(JobCall):
    """Run a command in a mode, on a resource where the mode has one."""

    kind = JobKind.EXECUTE_ADVANCED
    input_types = ("string", "string", "string[]", "string[]", "bytes", "string", "uint64")
    output_type = "bytes"

    resource: str
    image: str
    command: Tuple[str, ...]
    env: Tuple[str, ...] = ()
    payload: bytes = b""
    mode: str = ""
    timeout_ms: int = 0


@dataclass(frozen=True)
class CreateSnapshot(JobCall):
    """Keep the state of a container; answers the snapshot's id."""

    kind = JobKind.CREATE_SNAPSHOT
    input_types = ("string", "string", "string")
    output_type = "string"

    container: str
    name: str
    description: str = ""


@dataclass(frozen=True)
class RestoreSnapshot(JobCall):
    """Make a container from a snapshot; answers its id."""

    kind = JobKind.RESTORE_SNAPSHOT
    input_types = ("string",)
    output_type = "string"

    snapshot: str


@dataclass(frozen=True)
class CreateBranch(JobCall):
    """Branch off a snapshot; answers the branch's id."""

    kind = JobKind.CREATE_BRANCH
    input_types = ("string", "string")
    output_type = "string"

    parent: str
    name: str


@dataclass(frozen=True)
class MergeBranches(JobCall):
    """Merge branches by a strategy; answers the merged snapshot's id."""

    kind = JobKind.MERGE_BRANCHES
    input_types = ("string", "string[]", "string")
    output_type = "string"

    first: str
    others: Tuple[str, ...]
    strategy: str = ""


@dataclass(frozen=True)
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
    enable_ssh: bool = False


@dataclass(frozen=True)
class StopInstance(JobCall):
    """Stop an instance."""

    kind = JobKind.STOP_INSTANCE
    input_types = ("string",)
    output_type = "bool"

    instance: str


@dataclass(frozen=True)
class PauseInstance(JobCall):
    """Pause an instance; answers the checkpoint's id."""

    kind = JobKind.PAUSE_INSTANCE
    input_types = ("string",)
    output_type = "string"

    instance: str


@dataclass(frozen=True)
class ResumeInstance(JobCall):
    """Resume from a checkpoint; answers the instance's id."""

    kind = JobKind.RESUME_INSTANCE
    input_types = ("string",)
    output_type = "string"

    checkpoint: str


@dataclass(frozen=True)
class ExposePort(JobCall):
    """Make a port of an instance reachable; answers the URL."""

    kind = JobKind.EXPOSE_PORT
    input_types = ("string", "uint16", "string", "string")
    output_type = "string"

    instance: str
    port: int
    protocol: str = "http"
    subdomain: str = ""


@dataclass(frozen=True)
class UploadFiles(JobCall):
    """Unpack a tar archive in an instance; answers the bytes written."""

    kind = JobKind.UPLOAD_FILES
    input_types = ("string", "string", "bytes")
    output_type = "uint64"

    instance: str
    path: str
    archive: bytes


CALLS: Dict[JobKind, Type[JobCall]] = {
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


@dataclass(frozen=True)
class Envelope:
    """What an operator hands in: the end, for which inputs, what it made, the output, the proof."""

    status: JobStatus
    inputs_hash: bytes
    resource_key: bytes
    output: bytes
    receipt: bytes = b""
    """A signed record, a fifth field; four fields when there is none."""


_ENVELOPE_TYPES = ("uint8", "bytes32", "bytes32", "bytes")
_SIGNED_TYPES = (*_ENVELOPE_TYPES, "bytes")
_OUTPUT_AT = slice(96, 128)


def decode_envelope(result: bytes) -> Envelope:
    """Read a result, as strictly as the contract does.

    Raises:
        DataLossError: it is not the one encoding of an end.
    """
    # The output begins right behind the head, so its place says how many fields there are.
    has_receipt = int.from_bytes(result[_OUTPUT_AT], "big") == len(_SIGNED_TYPES) * 32
    types = _SIGNED_TYPES if has_receipt else _ENVELOPE_TYPES
    try:
        status, *rest = decode(types, result)
        envelope = Envelope(JobStatus(status), *rest)
    except (*UNREADABLE, ValueError) as error:
        raise DataLossError("the result is not an envelope") from error
    is_whole = encode(types, astuple(envelope)[: len(types)]) == result
    if not (envelope.status.is_over and is_whole) or (has_receipt and not envelope.receipt):
        raise DataLossError("the result is not an envelope of an end")
    return envelope


def decode_output(job: int, output: bytes) -> Any:
    """Read what a job answered; of a job we do not know, the bytes.

    Raises:
        DataLossError: the operator sent something else.
    """
    if job not in CALLS:
        return output
    kind = JobKind(job)
    try:
        return decode((CALLS[kind].output_type,), output)[0]
    except UNREADABLE as error:
        raise DataLossError(f"the output of {kind.name.lower()} does not decode") from error


def decode_failure(output: bytes) -> Tuple[str, str]:
    """Read the output of a job that failed: a code, and a sentence."""
    try:
        code, message = decode(("string", "string"), output)
    except UNREADABLE:
        return "unreadable_failure", "the operator's reason cannot be read"
    return code, message


def resource_key_of(resource: str) -> bytes:
    """Name a resource as the contract does; zeros for none."""
    return keccak(resource.encode()) if resource else bytes(32)
