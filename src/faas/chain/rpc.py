"""A node's JSON-RPC: the dozen calls the operator makes, as bytes and integers.

A read can be pinned to a block's hash, so that an answer is never of another fork. Reads that are
asked for at the same time travel as one request: an operator asks for a hundred jobs at once.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import aiohttp
import msgspec

from faas.chain.journal import Block
from faas.chain.reverts import error_of_revert, read_revert
from faas.errors import ChainUnavailableError, FaasError

_TIMEOUT_SECONDS: Final = 20.0
RANGE_MAX: Final = 2000
"""Blocks of one search for events: what public nodes allow."""
_BATCH_MAX: Final = 50
"""Calls in one request; public nodes take a hundred and some fewer."""
_REFUSED: Final = range(400, 429)
_TOGETHER: Final = frozenset({"eth_call", "eth_getTransactionReceipt"})
Topics = Sequence[bytes | Sequence[bytes] | None]


class RevertedError(Exception):
    """The contract refused a call; `error` is the platform's word for it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        found = read_revert(data)
        self.name = found.name if found else ""
        super().__init__(str(found) if found else "0x" + data.hex())

    @property
    def error(self) -> FaasError:
        """Who must act."""
        return error_of_revert(self.data)


class NodeRefusedError(Exception):
    """The node refused a request, for example a transaction whose nonce was used."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest block, and what the next transaction has to pay."""

    block: Block
    timestamp: int
    base_fee: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One event as the node tells it."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block: Block
    transaction_hash: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mined transaction."""

    block: Block
    is_success: bool
    logs: tuple[LogEntry, ...]
    gas_used: int
    contract_address: str | None


@dataclass(frozen=True, slots=True)
class _Question:
    method: str
    params: Sequence[object]
    answer: asyncio.Future[dict[str, Any]]

    def settle(self, answer: dict[str, Any]) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


class Node:
    """One node, over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session: aiohttp.ClientSession | None = None
        self._waiting: list[_Question] = []
        self._asking: set[asyncio.Task[None]] = set()
        self._takes_batches = True

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(self, method: str, *params: object) -> Any:
        """Ask the node anything.

        Raises:
            ChainUnavailableError: it does not answer.
            RevertedError: a contract refused.
            NodeRefusedError: the node refused.
        """
        if method in _TOGETHER and self._takes_batches:
            answer = await self._together(method, params)
        else:
            answer = await self._alone(method, params)
        if error := cast("dict[str, Any] | None", answer.get("error")):
            raise _refusal(error)
        return answer.get("result")

    async def _alone(self, method: str, params: Sequence[object]) -> dict[str, Any]:
        answer = await self._post(_message(1, method, params))
        if not isinstance(answer, dict):
            raise self._silence("its answer is not JSON-RPC")
        return cast("dict[str, Any]", answer)

    async def _together(self, method: str, params: Sequence[object]) -> dict[str, Any]:
        """Ask with whatever else is asked for in this turn of the loop."""
        loop = asyncio.get_running_loop()
        question = _Question(method, params, loop.create_future())
        self._waiting.append(question)
        if len(self._waiting) == 1:
            loop.call_soon(self._send_waiting)
        return await question.answer

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _BATCH_MAX):
            task = asyncio.ensure_future(self._ask_all(waiting[start : start + _BATCH_MAX]))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask_all(self, questions: list["_Question"]) -> None:
        try:
            if len(questions) == 1 or not await self._ask_as_one(questions):
                for question in questions:
                    question.settle(await self._alone(question.method, question.params))
        except ChainUnavailableError as failure:
            for question in questions:
                if not question.answer.done():
                    question.answer.set_exception(failure)

    async def _ask_as_one(self, questions: list["_Question"]) -> bool:
        messages = [
            _message(number, question.method, question.params)
            for number, question in enumerate(questions)
        ]
        answers = await self._post(messages)
        if not isinstance(answers, list):
            self._takes_batches = False  # said as one error for all of it
            return False
        by_number = {each.get("id"): each for each in cast("list[dict[str, Any]]", answers)}
        if not by_number.keys() >= set(range(len(questions))):
            raise self._silence("it left questions out")
        for number, question in enumerate(questions):
            question.settle(by_number[number])
        return True

    async def _post(self, message: object) -> object:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
                headers={"Content-Type": "application/json"},
            )
        try:
            async with self._session.post(self.url, data=msgspec.json.encode(message)) as answer:
                if isinstance(message, list) and answer.status in _REFUSED:
                    return None
                body = await answer.read()
                if answer.status in _REFUSED and (refusal := _said_in(body)):
                    return refusal
                answer.raise_for_status()
                return msgspec.json.decode(body)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as failure:
            raise self._silence(str(failure) or "it takes too long") from failure

    def _silence(self, why: str) -> ChainUnavailableError:
        return ChainUnavailableError(
            f"the chain node at {self.url} does not answer: {why}", hint="faas chain check"
        )

    async def chain_id(self) -> int:
        """Which chain this is."""
        return _number(await self.request("eth_chainId"))

    async def head(self) -> Head:
        """Look at the newest block."""
        found = await self.request("eth_getBlockByNumber", "latest", False)  # noqa: FBT003  JSON
        return Head(
            Block(_number(found["number"]), _bytes(found["hash"])),
            _number(found["timestamp"]),
            _number(found.get("baseFeePerGas", "0x0")),
        )

    async def block(self, number: int) -> Block | None:
        """Look at one block of the node's present fork."""
        found = await self.request("eth_getBlockByNumber", hex(number), False)  # noqa: FBT003  JSON
        return None if found is None else Block(number, _bytes(found["hash"]))

    async def logs(self, address: str, topics: Topics, *, first: int, last: int) -> list[LogEntry]:
        """List events of a contract, in order, both blocks included."""
        asked = {
            "address": address,
            "topics": [_topic(topic) for topic in topics],
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        return [_log_entry(found) for found in await self.request("eth_getLogs", asked)]

    async def newest_logs(
        self, address: str, topics: Topics, *, first: int, last: int
    ) -> list[LogEntry]:
        """List the events of the last blocks that have any, looking back from the newest."""
        async for found in self._pieces(address, topics, first, last):
            if found:
                return found
        return []

    async def all_logs(
        self, address: str, topics: Topics, *, first: int, last: int
    ) -> list[LogEntry]:
        """List events of a contract, in order, in as many searches as the node wants."""
        pieces = [found async for found in self._pieces(address, topics, first, last)]
        return [entry for found in reversed(pieces) for entry in found]

    async def _pieces(
        self, address: str, topics: Topics, first: int, last: int
    ) -> AsyncIterator[list[LogEntry]]:
        """Look back, a range at a time; nodes differ in how wide a range they search."""
        span = RANGE_MAX
        while last >= first:
            start = max(first, last - span + 1)
            try:
                found = await self.logs(address, topics, first=start, last=last)
            except NodeRefusedError:
                if start == last:
                    raise
                span = (last - start + 1) // 2
                continue
            yield found
            last = start - 1

    async def call(
        self, to: str, data: bytes, *, sender: str | None = None, at: bytes | None = None
    ) -> bytes:
        """Run a call without sending it, at the newest block or at the block of hash `at`."""
        asked = {"to": to, "data": _hex(data)} | ({"from": sender} if sender else {})
        where = {"blockHash": _hex(at)} if at else "latest"
        return _bytes(await self.request("eth_call", asked, where))

    async def estimate_gas(self, to: str, data: bytes, *, sender: str) -> int:
        """Try a transaction and say what gas it needs."""
        asked = {"to": to, "data": _hex(data), "from": sender}
        return _number(await self.request("eth_estimateGas", asked))

    async def priority_fee(self) -> int:
        """What the node thinks a transaction should offer above the base fee."""
        return _number(await self.request("eth_maxPriorityFeePerGas"))

    async def transaction_count(self, address: str, *, with_pending: bool = False) -> int:
        """The next nonce: of what is mined, or of what waits in the node's pool as well."""
        tag = "pending" if with_pending else "latest"
        return _number(await self.request("eth_getTransactionCount", address, tag))

    async def transaction_count_at(self, address: str, block: bytes) -> int:
        """The next nonce as of the block of that hash."""
        where = {"blockHash": _hex(block)}
        return _number(await self.request("eth_getTransactionCount", address, where))

    async def balance(self, address: str) -> int:
        """Coins of an account, in wei."""
        return _number(await self.request("eth_getBalance", address, "latest"))

    async def code(self, address: str) -> bytes:
        """The program at an address; empty when there is none."""
        return _bytes(await self.request("eth_getCode", address, "latest"))

    async def send_raw(self, raw: bytes) -> None:
        """Hand a signed transaction to the node."""
        await self.request("eth_sendRawTransaction", _hex(raw))

    async def receipt(self, digest: bytes) -> Receipt | None:
        """Look for a mined transaction on the node's present fork."""
        found = await self.request("eth_getTransactionReceipt", _hex(digest))
        if found is None or found.get("blockHash") is None:
            return None
        return Receipt(
            block=Block(_number(found["blockNumber"]), _bytes(found["blockHash"])),
            is_success=_number(found["status"]) == 1,
            logs=tuple(_log_entry(log) for log in found["logs"]),
            gas_used=_number(found["gasUsed"]),
            contract_address=found.get("contractAddress"),
        )


def _message(number: int, method: str, params: Sequence[object]) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def _said_in(body: bytes) -> dict[str, Any] | None:
    """Some nodes refuse, for example too wide a search, by the status and by JSON-RPC as well."""
    try:
        told = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    is_error = isinstance(told, dict) and isinstance(told.get("error"), dict)  # pyright: ignore[reportUnknownMemberType]
    return cast("dict[str, Any]", told) if is_error else None


def _refusal(error: dict[str, Any]) -> Exception:
    data = error.get("data")
    if isinstance(data, dict):
        data = cast("dict[str, Any]", data).get("data")
    message = str(error.get("message", ""))
    if isinstance(data, str) and data.startswith("0x"):
        return RevertedError(_bytes(data))
    if "revert" in message.lower():
        return RevertedError(b"")
    return NodeRefusedError(message)


def _log_entry(found: dict[str, Any]) -> LogEntry:
    return LogEntry(
        address=found["address"],
        topics=tuple(_bytes(topic) for topic in found["topics"]),
        data=_bytes(found["data"]),
        block=Block(_number(found["blockNumber"]), _bytes(found["blockHash"])),
        transaction_hash=_bytes(found["transactionHash"]),
    )


def _topic(topic: bytes | Sequence[bytes] | None) -> str | list[str] | None:
    if topic is None or isinstance(topic, bytes):
        return None if topic is None else _hex(topic)
    return [_hex(each) for each in topic]


def _number(text: str) -> int:
    return int(text, 16)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
