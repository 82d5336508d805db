"""Receipts: what an operator signs for with each result, checked by anybody without a chain.

A receipt says which inputs were run for whom, with what (image, runtime, isolation, limits), when,
and which output that gave. It is the fifth field of the result's envelope, so it stands on the
chain with the result; its signature is the operator's, over a digest that names this use.

It is evidence, not proof: an operator can run something else and sign what it likes. What it cannot
do is deny it later, and operators who ran the same job can be compared (`compare`).
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final, Protocol

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, InsufficientDataBytes
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from faas.chain.codec import JobStatus, ResultEnvelope, resource_key_of
from faas.chain.signatures import signer_of_message
from faas.errors import DataLossError
from faas.model import Limits

_DOMAIN: Final = keccak(b"FaaSReceipt.v1")
_TYPES: Final = (
    *("uint64", "address", "uint64", "uint64", "uint8", "address", "address"),
    *("uint8", "bytes32", "bytes32", "bytes32"),
    *("string", "string", "string", "(uint64,uint64,uint32,uint32,uint64)", "string"),
    *("uint64", "uint64"),
)
_UNREADABLE: Final = (DecodingError, InsufficientDataBytes, UnicodeDecodeError, OverflowError)


class Notary(Protocol):
    """Signs for an operator."""

    @property
    def address(self) -> str:
        """The operator's account."""
        ...

    async def sign_receipt(self, digest: bytes) -> bytes:
        """Sign 32 bytes as a personal message (EIP-191); 65 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """With what a job was done."""

    image_digest: str = ""
    runtime: str = ""
    isolation: str = ""
    limits: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    """Milliseconds, bytes of memory, thousandths of a core, processes, bytes of disk."""

    @staticmethod
    def limits_of(limits: Limits) -> tuple[int, int, int, int, int]:
        """The limits that a receipt tells."""
        return (
            *(limits.timeout_ms, limits.memory_bytes, limits.cpu_millis),
            *(limits.pids_max, limits.disk_bytes),
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """One job done by one operator. The field order is the ABI's."""

    chain_id: int
    manager: str
    service: int
    call: int
    job: int
    caller: str
    operator: str
    status: JobStatus
    inputs_hash: bytes
    """keccak of the inputs on the chain."""
    payload_sha256: bytes
    """Of the payload as it was fed: fetched, opened, or as it stood in the inputs."""
    output_hash: bytes
    """keccak of the envelope's output field."""
    image_digest: str
    runtime: str
    isolation: str
    limits: tuple[int, int, int, int, int]
    resource: str
    """What was made or kept, by its name; the envelope has only its key."""
    started_ms: int
    finished_ms: int

    @property
    def digest(self) -> bytes:
        """What is signed."""
        return keccak(_DOMAIN + encode(_TYPES, astuple(self)))


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt and its signature."""

    receipt: Receipt
    signature: bytes


def encode_receipt(signed: SignedReceipt) -> bytes:
    """Write what the envelope carries."""
    return encode((*_TYPES, "bytes"), (*astuple(signed.receipt), signed.signature))


def decode_receipt(data: bytes) -> SignedReceipt:
    """Read what an envelope carries.

    Raises:
        DataLossError: it is no receipt.
    """
    try:
        *values, signature = decode((*_TYPES, "bytes"), data)
        for place in (1, 5, 6):
            values[place] = to_checksum_address(values[place])
        values[7] = JobStatus(values[7])
        signed = SignedReceipt(Receipt(*values), signature)
    except (*_UNREADABLE, ValueError) as error:
        raise DataLossError("the receipt does not decode") from error
    if encode_receipt(signed) != data:
        raise DataLossError("the receipt is not canonical")
    return signed


def signer_of(signed: SignedReceipt) -> str:
    """Whose signature it is.

    Raises:
        DataLossError: it is nobody's.
    """
    return signer_of_message(signed.receipt.digest, signed.signature)


def problems_of(envelope: ResultEnvelope, *, inputs: bytes | None = None) -> list[str]:
    """Check a result against its receipt, off-line; empty when it holds.

    Raises:
        DataLossError: there is no receipt, or none that can be read.
    """
    if not envelope.receipt:
        raise DataLossError("the result has no receipt")
    signed = decode_receipt(envelope.receipt)
    receipt = signed.receipt
    found: list[str] = []
    if (signer := signer_of(signed)) != receipt.operator:
        found.append(f"it was signed by {signer}, not by {receipt.operator}")
    if receipt.status is not envelope.status:
        found.append("its status is not the result's")
    if receipt.inputs_hash != envelope.inputs_hash:
        found.append("it is for other inputs than the result")
    if receipt.output_hash != keccak(envelope.output):
        found.append("it is for another output than the result's")
    if resource_key_of(receipt.resource) != envelope.resource_key:
        found.append("its resource is not the result's")
    if inputs is not None and keccak(inputs) != receipt.inputs_hash:
        found.append("it is for other inputs than the given ones")
    if receipt.finished_ms < receipt.started_ms:
        found.append("it ends before it begins")
    return found


def compare(envelopes: Sequence[ResultEnvelope]) -> list[str]:
    """Compare what different operators made of the same inputs; empty when they agree.

    A result without a receipt is a finding too, and is compared by what it says.
    """
    found: list[str] = []
    receipts: dict[int, Receipt] = {}
    outputs: dict[tuple[JobStatus, bytes], list[str]] = {}
    for number, envelope in enumerate(envelopes):
        name = f"result {number}"
        try:
            found += [f"{name}: {problem}" for problem in problems_of(envelope)]
            receipts[number] = decode_receipt(envelope.receipt).receipt
            name = receipts[number].operator
        except DataLossError as failure:
            found.append(f"{name}: {failure.message}")
        outputs.setdefault((envelope.status, keccak(envelope.output)), []).append(name)
    told = {"inputs_hash": {envelope.inputs_hash for envelope in envelopes}}
    for field in ("chain_id", "manager", "job", "image_digest", "payload_sha256"):
        told[field] = {getattr(receipt, field) for receipt in receipts.values()}
    for field in (field for field, values in told.items() if len(values) > 1):
        found.append(f"the results differ in {field}: they are not of the same job")
    if len({receipt.operator for receipt in receipts.values()}) != len(receipts):
        found.append("an operator is there twice: that compares nothing")
    if len(outputs) > 1:
        ranked = sorted(outputs.values(), key=len, reverse=True)
        odd = ", ".join(operator for group in ranked[1:] for operator in group)
        found.append(f"the outputs differ; fewer say what was said by {odd}")
    return found
