"""A result taken off the chain, with its inputs, as a file that can be checked anywhere."""

from pathlib import Path
from typing import Final

import msgspec

from faas.chain.codec import JobStatus, ResultEnvelope, decode_result
from faas.chain.contract import Contracts, Manager, Tangle, key_of, word
from faas.chain.journal import CallKey
from faas.chain.receipts import Receipt, decode_receipt
from faas.errors import InvalidArgumentError, NotFoundError

_FILE_BYTES_MAX: Final = 1 << 20


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What `faas receipt get` writes; bytes are in hexadecimal."""

    chain_id: int
    manager: str
    service: int
    call: int
    inputs: str
    result: str

    @property
    def envelope(self) -> ResultEnvelope:
        """The result.

        Raises:
            DataLossError: it is no envelope.
        """
        return decode_result(_bytes(self.result))

    @property
    def inputs_bytes(self) -> bytes:
        """The inputs."""
        return _bytes(self.inputs)


def read_evidence(path: Path) -> Evidence:
    """Read a file.

    Raises:
        InvalidArgumentError: it is not one.
    """
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_FILE_BYTES_MAX), type=Evidence)
    except (OSError, msgspec.MsgspecError) as failure:
        raise InvalidArgumentError(
            f"{path} is not what faas receipt get writes", hint="faas receipt get --help"
        ) from failure


async def fetch_evidence(contracts: Contracts, key: CallKey, *, first_block: int = 0) -> Evidence:
    """Take the accepted result of a call off the chain, and its inputs.

    Raises:
        NotFoundError: none was accepted.
    """
    node = contracts.node
    last = (await node.head()).block.number
    topics = (word(key.service), word(key.call))
    accepted = await node.newest_logs(
        contracts.manager, (Manager.ACCEPTED.topic, *topics), first=first_block, last=last
    )
    if not accepted:
        raise NotFoundError(f"no result of call {key.service}/{key.call} was accepted")
    receipt = await node.receipt(accepted[-1].transaction_hash)
    submitted = await node.newest_logs(
        contracts.tangle,
        ((Tangle.JOB_SUBMITTED.topic, Tangle.JOB_SUBMITTED_FROM_QUOTE.topic), *topics),
        first=first_block,
        last=accepted[-1].block.number,
    )
    results = [
        Tangle.JOB_RESULT_SUBMITTED.decode(entry)[0]
        for entry in (receipt.logs if receipt else ())
        if entry.topics[0] == Tangle.JOB_RESULT_SUBMITTED.topic and key_of(entry) == key
    ]
    if not results or not submitted:
        raise NotFoundError("the node does not have the logs of that call", hint="--first-block")
    is_plain = submitted[-1].topics[0] == Tangle.JOB_SUBMITTED.topic
    event = Tangle.JOB_SUBMITTED if is_plain else Tangle.JOB_SUBMITTED_FROM_QUOTE
    return Evidence(
        chain_id=await node.chain_id(),
        manager=contracts.manager,
        service=key.service,
        call=key.call,
        inputs="0x" + event.decode(submitted[-1])[-1].hex(),
        result="0x" + results[-1].hex(),
    )


def mismatches(evidence: Evidence) -> list[str]:
    """What a file says of itself that its receipt does not; empty when they agree."""
    receipt = decode_receipt(evidence.envelope.receipt).receipt
    said = (evidence.chain_id, evidence.manager.lower(), evidence.service, evidence.call)
    signed = (receipt.chain_id, receipt.manager.lower(), receipt.service, receipt.call)
    return [] if said == signed else ["the receipt is of another call than the file says"]


def shown(receipt: Receipt) -> dict[str, object]:
    """A receipt for people and programs."""
    names = ("timeout_ms", "memory_bytes", "cpu_millis", "pids_max", "disk_bytes")
    told = {name: getattr(receipt, name) for name in Receipt.__slots__}
    told |= {name: "0x" + value.hex() for name, value in told.items() if isinstance(value, bytes)}
    told["status"] = JobStatus(receipt.status).name.lower()
    told["limits"] = dict(zip(names, receipt.limits, strict=True))
    return told


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise InvalidArgumentError("the file has something that is not hexadecimal") from None
