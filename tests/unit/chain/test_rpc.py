"""The node's JSON-RPC: questions travel together, and one by one where a node wants that."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from faas.chain.rpc import Node, NodeRefusedError, RevertedError
from faas.errors import ChainUnavailableError


@asynccontextmanager
async def node_that(answer):
    """A node whose answers are made by a function of the parsed body: (status, value)."""
    asked = []

    async def serve(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            size = next(
                int(line.split(b":")[1])
                for line in head.lower().splitlines()
                if line.startswith(b"content-length")
            )
            body = json.loads(await reader.readexactly(size))
            asked.append(body)
            status, value = answer(body)
            data = json.dumps(value).encode()
            writer.write(
                b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (status, len(data)) + data
            )
            await writer.drain()

    async def quietly(reader, writer):
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    node = Node(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield node, asked
    finally:
        await node.aclose()
        server.close()
        await server.wait_closed()


def one(message):
    data = message["params"][0]["data"]
    if data == "0xbad0":
        return {"id": message["id"], "error": {"message": "execution reverted", "data": "0x"}}
    return {"id": message["id"], "result": data}


def call_all(node, datas):
    return asyncio.gather(
        *(node.call("0x" + "0" * 40, data) for data in datas), return_exceptions=True
    )


async def test_questions_of_one_moment_travel_together_and_each_gets_its_answer():
    def backwards(body):
        return 200, [one(each) for each in reversed(body)]

    async with node_that(backwards) as (node, asked):
        answers = await call_all(node, [b"\x01", b"\xba\xd0", b"\x03"])
    assert (answers[0], answers[2]) == (b"\x01", b"\x03")
    assert isinstance(answers[1], RevertedError)
    assert len(asked) == 1


async def test_a_crowd_is_cut_into_batches():
    async with node_that(lambda body: (200, [one(each) for each in body])) as (node, asked):
        answers = await call_all(node, [bytes([n]) for n in range(120)])
    assert answers == [bytes([n]) for n in range(120)]
    assert sorted(map(len, asked)) == [20, 50, 50]


@pytest.mark.parametrize("refusal", [(200, {"error": {"message": "no batches"}}), (400, "no")])
async def test_node_that_takes_no_batches_is_asked_one_by_one(refusal):
    def singly(body):
        return refusal if isinstance(body, list) else (200, one(body))

    async with node_that(singly) as (node, asked):
        for _ in range(2):
            assert await call_all(node, [b"\x01", b"\x02"]) == [b"\x01", b"\x02"]
    assert sum(isinstance(body, list) for body in asked) == 1


@pytest.mark.parametrize("answer", [(200, []), (502, "bad gateway"), (200, "text")])
async def test_node_that_answers_nonsense_is_unavailable(answer):
    async with node_that(lambda body: answer if isinstance(body, list) else (200, 1)) as (node, _):
        for found in await call_all(node, [b"\x01", b"\x02"]):
            assert isinstance(found, ChainUnavailableError)


async def test_refusal_without_data_is_the_nodes():
    refused = {"id": 1, "error": {"message": "nonce too low"}}
    async with node_that(lambda _: (200, refused)) as (node, _):
        with pytest.raises(NodeRefusedError, match="nonce too low"):
            await node.send_raw(b"\x01")


def _searching(most, first_block_with_any):
    """A node that searches so many blocks at once; it refuses by HTTP's status as well."""

    def answer(message):
        asked = message["params"][0]
        first, last = (int(asked[name], 16) for name in ("fromBlock", "toBlock"))
        if last - first >= most:
            refusal = {"id": message["id"], "error": {"message": "range is too wide"}}
            return 400, refusal
        found = range(max(first, first_block_with_any), last + 1)
        return 200, {"id": message["id"], "result": [_event(number) for number in found]}

    return answer


def _event(number):
    return {
        "address": "0x",
        "topics": [],
        "data": "0x",
        "blockNumber": hex(number),
        "blockHash": "0x",
        "transactionHash": "0x",
    }


async def test_all_events_come_in_order_however_few_blocks_are_searched_at_once():
    async with node_that(_searching(7, 90)) as (node, asked):
        found = await node.all_logs("0x", (), first=3, last=100)
        assert [entry.block.number for entry in found] == list(range(90, 101))
        ranges = [
            tuple(int(each["params"][0][name], 16) for name in ("fromBlock", "toBlock"))
            for each in asked
        ]
        assert min(first for first, _ in ranges) == 3
        newest = await node.newest_logs("0x", (), first=3, last=100)
        assert newest[-1].block.number == 100
        assert await node.newest_logs("0x", (), first=3, last=80) == []


async def test_node_that_refuses_a_single_block_is_not_asked_for_ever():
    async with node_that(_searching(0, 0)) as (node, asked):
        with pytest.raises(NodeRefusedError):
            await node.all_logs("0x", (), first=1, last=2000)
        assert len(asked) < 20


async def test_status_without_a_reason_is_a_node_that_does_not_answer():
    async with node_that(lambda _: (401, "who are you")) as (node, _):
        with pytest.raises(ChainUnavailableError):
            await node.chain_id()
