"""One connection: answers find their questions, and the first bad byte ends it for everybody."""

import asyncio
import errno
import os
import struct

import pytest

from faas.agent.protocol import Answer, Request, pack_u32
from faas.errors import NotFoundError, SandboxBrokenError


class Sink:
    def __init__(self) -> None:
        self.heard = []

    def on_output(self, stdout_kept, stderr_kept):
        self.heard.append(("output", stdout_kept, stderr_kept))

    def on_exit(self, ended):
        self.heard.append(("exit", ended.code))

    def on_lost(self, error):
        self.heard.append(("lost",))


async def soon(awaitable):
    task = asyncio.ensure_future(awaitable)
    await asyncio.sleep(0)
    return task


async def test_an_answer_finds_its_question_out_of_order(agent):
    first = await soon(agent.channel.call(Request.MKDIR, b"1"))
    second = await soon(agent.channel.call(Request.MKDIR, b"2"))
    asked = [await agent.asked(), await agent.asked()]
    agent.say(Answer.OK, asked[1].id, b"second")
    agent.say(Answer.OK, asked[0].id, b"first")
    assert [await first, await second] == [b"first", b"second"]


async def test_requests_about_one_command_are_answered_in_order(agent):
    one = await soon(agent.channel.call(Request.SIGNAL, b"1", frame_id=5))
    two = await soon(agent.channel.call(Request.SIGNAL, b"2", frame_id=5))
    agent.say(Answer.OK, 5, b"one")
    agent.say(Answer.OK, 5, b"two")
    assert [await one, await two] == [b"one", b"two"]


async def test_a_refusal_is_the_error_of_who_must_act(agent):
    call = await soon(agent.channel.call(Request.STAT, b""))
    agent.say_error((await agent.asked()).id, errno.ENOENT, "stat a")
    with pytest.raises(NotFoundError, match="stat a"):
        await call
    assert agent.channel.is_open


async def test_the_wrong_kind_of_answer_ends_the_channel(agent):
    call = await soon(agent.channel.call(Request.STAT, b"", expects=Answer.STAT_OK))
    agent.say(Answer.OK, (await agent.asked()).id, bytes(8))
    with pytest.raises(SandboxBrokenError):
        await call
    assert not agent.channel.is_open


@pytest.mark.parametrize(
    "attack",
    [
        b"\xff" * 12,
        struct.pack("<IBBHI", 0, Answer.OK, 0, 0, 999),
        struct.pack("<IBBHIQQ", 16, Answer.OUTPUT, 0, 0, 999, 1, 1),
        struct.pack("<IBBHI", 0, Answer.OUTPUT, 0, 0, 1),
    ],
    ids=["noise", "answer to no question", "news of no command", "short news"],
)
async def test_a_bad_byte_ends_it_for_everybody_who_waits(agent, attack):
    sink = Sink()
    call = await soon(agent.channel.call(Request.LIST))
    command = await soon(agent.channel.command(Request.EXEC, b"", sink))
    agent.socket.sendall(attack)
    for waiting in (call, command):
        with pytest.raises(SandboxBrokenError):
            await waiting
    assert sink.heard == [("lost",)]
    with pytest.raises(SandboxBrokenError):
        await agent.channel.call(Request.LIST)


async def test_the_end_of_the_stream_reaches_commands(agent):
    sink = Sink()
    command = await soon(agent.channel.command(Request.EXEC, b"", sink))
    agent.say_started((await agent.asked()).id)
    await command
    agent.socket.close()
    await asyncio.sleep(0.01)
    assert sink.heard == [("lost",)]


async def test_all_news_of_one_read_reach_the_sink(agent):
    sink = Sink()
    command = await soon(agent.channel.command(Request.EXEC, b"", sink))
    number = (await agent.asked()).id
    agent.say_started(number)
    agent.say_output(number, 3, 0)
    agent.say_exit(number, 4, stdout=3)
    await command
    await asyncio.sleep(0)
    assert sink.heard == [("output", 3, 0), ("exit", 4)]


async def test_news_after_the_exit_are_an_attack(agent):
    sink = Sink()
    command = await soon(agent.channel.command(Request.EXEC, b"", sink))
    number = (await agent.asked()).id
    agent.say_started(number)
    agent.say_exit(number)
    agent.say_exit(number)
    await command
    await asyncio.sleep(0)
    assert sink.heard == [("exit", 0)]
    assert not agent.channel.is_open


async def test_a_cancelled_caller_leaves_the_channel_whole(agent):
    call = await soon(agent.channel.call(Request.LIST))
    asked = await agent.asked()
    call.cancel()
    await asyncio.wait({call})
    other = await soon(agent.channel.call(Request.MKDIR))
    agent.say(Answer.LIST_OK, asked.id, pack_u32(0))
    agent.say(Answer.OK, (await agent.asked()).id, b"yes")
    assert await other == b"yes"


async def test_no_answer_in_time_ends_the_channel(agent):
    with pytest.raises(SandboxBrokenError):
        await agent.channel.call(Request.LIST, seconds=0.01)
    assert not agent.channel.is_open


async def test_descriptors_go_with_their_frame_and_are_closed_here(agent):
    source, sink = os.pipe()
    call = await soon(agent.channel.call(Request.TAR_IN, b"", descriptors=[source]))
    asked = await agent.asked()
    assert len(asked.descriptors) == 1
    os.write(sink, b"through")
    assert os.read(asked.descriptors[0], 100) == b"through"
    agent.say(Answer.OK, asked.id, bytes(8))
    await call
    os.close(asked.descriptors[0])
    with pytest.raises(BrokenPipeError):
        os.write(sink, b"nobody holds the other end any more")
    os.close(sink)


async def test_a_full_socket_holds_frames_back_in_order(agent):
    payload = bytes(900_000)
    calls = [await soon(agent.channel.call(Request.WRITE, payload)) for _ in range(4)]
    ids = [(await agent.asked()).id for _ in calls]
    assert ids == sorted(ids)
    for number in ids:
        agent.say(Answer.OK, number, bytes(8))
    assert [await call for call in calls] == [bytes(8)] * 4


async def test_descriptors_of_frames_never_sent_are_closed(agent):
    blocked = [await soon(agent.channel.call(Request.WRITE, bytes(900_000))) for _ in range(3)]
    source, sink = os.pipe()
    blocked.append(await soon(agent.channel.call(Request.TAR_IN, b"", descriptors=[source])))
    agent.channel.close()
    await asyncio.gather(*blocked, return_exceptions=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(source)
    os.close(sink)


async def test_hello_gives_the_boot_id(agent):
    call = await soon(agent.channel.hello())
    asked = await agent.asked()
    assert (asked.kind, asked.payload) == (Request.HELLO, pack_u32(1))
    agent.say(Answer.HELLO_OK, asked.id, struct.pack("<I16sI", 1, b"b" * 16, 1))
    assert (await call).boot_id == b"b" * 16
