"""What the client asks a node, as bytes and integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union, cast

from faas_sdk._errors import ChainUnavailableError
from faas_sdk.tangle._errors import ContractError, error_of_revert
from faas_sdk.tangle._transport import Bell, Transport

Topic = Union[bytes, Sequence[bytes], None]


class NodeRefusedError(Exception):
    """The node refused a request, for example a transaction whose nonce was used."""


@dataclass(frozen=True)
class Block:
    """A block of the node's chain."""

    number: int
    hash: bytes
    parent: bytes
    timestamp: int
    base_fee: int


@dataclass(frozen=True)
class LogEntry:
    """One event as the node tells it."""

    address: str
    topics: Tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    transaction_hash: bytes

    def number(self, index: int) -> int:
        """Read an indexed number."""
        return int.from_bytes(self.topics[index], "big")

    def account(self, index: int) -> str:
        """Read an indexed address."""
        return address_of(self.topics[index][-20:])


@dataclass(frozen=True)
class Mined:
    """A transaction of a block, as far as it says whose it is."""

    hash: bytes
    sender: str
    nonce: int


@dataclass(frozen=True)
class Receipt:
    """A mined transaction."""

    transaction_hash: bytes
    block_number: int
    block_hash: bytes
    is_success: bool
    gas_used: int
    logs: Tuple[LogEntry, ...]


class Node:
    """One node."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def url(self) -> str:
        """Where it is."""
        return self._transport.url

    @property
    def heads(self) -> Bell:
        """Rings when there may be a new block."""
        return self._transport.heads

    @property
    def poll_seconds(self) -> float:
        """How often to look without a ring."""
        return self._transport.poll_seconds

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made anew."""
        return self._transport.reconnects

    async def aclose(self) -> None:
        """Close the connection."""
        await self._transport.aclose()

    async def request(self, method: str, *params: object) -> Any:
        """Ask the node anything.

        Raises:
            ChainUnavailableError: it does not answer.
            ContractError: a contract refused.
            NodeRefusedError: the node refused.
        """
        answer = await self._transport.ask(method, params)
        if error := cast("Optional[Dict[str, Any]]", answer.get("error")):
            raise _refusal(error)
        return answer.get("result")

    async def chain_id(self) -> int:
        """Which chain this is."""
        return int(await self.request("eth_chainId"), 16)

    async def head(self) -> Block:
        """Look at the newest block."""
        found = await self._block("latest")
        if found is None:
            raise ChainUnavailableError("the node has no blocks")
        return found

    async def block(self, number: int) -> Optional[Block]:
        """Look at one block of the node's present fork."""
        return await self._block(hex(number))

    async def logs(
        self, address: str, topics: Sequence[Topic], *, first: int, last: int
    ) -> List[LogEntry]:
        """List events of a contract, in order, both blocks included."""
        asked = {"address": address, "topics": [_topic(topic) for topic in topics]}
        asked.update(fromBlock=hex(first), toBlock=hex(last))
        return [_log_entry(found) for found in await self.request("eth_getLogs", asked)]

    async def logs_of(
        self, block_hash: bytes, address: str, topics: Sequence[Topic]
    ) -> List[LogEntry]:
        """List events of a contract in one block, which may be gone."""
        asked = {"address": address, "topics": [_topic(topic) for topic in topics]}
        try:
            found = cast(
                "Optional[List[Dict[str, Any]]]",
                await self.request("eth_getLogs", {**asked, "blockHash": _hex(block_hash)}),
            )
        except (NodeRefusedError, ContractError):
            return []
        return [_log_entry(each) for each in found or []]

    async def call(self, to: str, data: bytes) -> bytes:
        """Run a call without sending it, at the newest block."""
        return _bytes(await self.request("eth_call", {"to": to, "data": _hex(data)}, "latest"))

    async def estimate_gas(self, to: str, data: bytes, *, sender: str, value: int) -> int:
        """Try a transaction and say what gas it needs."""
        asked = {"to": to, "data": _hex(data), "from": sender, "value": hex(value)}
        return int(await self.request("eth_estimateGas", asked), 16)

    async def priority_fee(self) -> int:
        """What the node thinks a transaction should offer above the base fee."""
        return int(await self.request("eth_maxPriorityFeePerGas"), 16)

    async def transaction_count(self, address: str, *, with_pending: bool = False) -> int:
        """The next nonce: of what is mined, or of what waits in the node's pool as well."""
        tag = "pending" if with_pending else "latest"
        return int(await self.request("eth_getTransactionCount", address, tag), 16)

    async def transaction_count_at(self, address: str, block: int) -> int:
        """The next nonce as of a block."""
        return int(await self.request("eth_getTransactionCount", address, hex(block)), 16)

    async def transactions(self, block: int) -> List[Mined]:
        """List the transactions of a block; none when it is not there."""
        found = cast(
            "Optional[Dict[str, Any]]",
            await self.request("eth_getBlockByNumber", hex(block), True),  # noqa: FBT003  JSON
        )
        told = cast("List[Dict[str, Any]]", found["transactions"] if found else [])
        return [Mined(_bytes(each["hash"]), each["from"], int(each["nonce"], 16)) for each in told]

    async def code(self, address: str) -> bytes:
        """The program at an address; empty when there is none."""
        return _bytes(await self.request("eth_getCode", address, "latest"))

    async def send_raw(self, raw: bytes) -> None:
        """Hand a signed transaction to the node."""
        await self.request("eth_sendRawTransaction", _hex(raw))

    async def receipt(self, digest: bytes) -> Optional[Receipt]:
        """Look for a mined transaction on the node's present fork."""
        found = await self.request("eth_getTransactionReceipt", _hex(digest))
        if found is None or found.get("blockHash") is None:
            return None
        return Receipt(
            transaction_hash=digest,
            block_number=int(found["blockNumber"], 16),
            block_hash=_bytes(found["blockHash"]),
            is_success=int(found["status"], 16) == 1,
            gas_used=int(found["gasUsed"], 16),
            logs=tuple(_log_entry(log) for log in found["logs"]),
        )

    async def _block(self, which: str) -> Optional[Block]:
        found = await self.request("eth_getBlockByNumber", which, False)  # noqa: FBT003  JSON
        if found is None:
            return None
        return Block(
            number=int(found["number"], 16),
            hash=_bytes(found["hash"]),
            parent=_bytes(found["parentHash"]),
            timestamp=int(found["timestamp"], 16),
            base_fee=int(found.get("baseFeePerGas") or "0x0", 16),
        )


def address_of(data: bytes) -> str:
    """Write an address with its checksum."""
    from eth_utils.address import to_checksum_address  # noqa: PLC0415  slow to import

    return to_checksum_address("0x" + data[-20:].hex())


def word(value: int) -> bytes:
    """A number as a topic."""
    return value.to_bytes(32, "big")


def account_word(address: str) -> bytes:
    """An address as a topic."""
    return bytes(12) + bytes.fromhex(address[2:])


def _refusal(error: Dict[str, Any]) -> Exception:
    data = error.get("data")
    if isinstance(data, dict):
        data = cast("Dict[str, Any]", data).get("data")
    message = str(error.get("message", ""))
    if isinstance(data, str) and data.startswith("0x"):
        return error_of_revert(_bytes(data))
    if "revert" in message.lower():
        return error_of_revert(b"")
    return NodeRefusedError(message)


def _log_entry(found: Dict[str, Any]) -> LogEntry:
    return LogEntry(
        address=found["address"],
        topics=tuple(_bytes(topic) for topic in found["topics"]),
        data=_bytes(found["data"]),
        block_number=int(found["blockNumber"], 16),
        block_hash=_bytes(found["blockHash"]),
        transaction_hash=_bytes(found["transactionHash"]),
    )


def _topic(topic: Topic) -> Union[str, List[str], None]:
    if topic is None:
        return None
    return _hex(topic) if isinstance(topic, bytes) else [_hex(each) for each in topic]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
