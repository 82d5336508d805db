"""A command behind a channel: progress, input by offset, one end."""

import asyncio
import errno
import struct

import pytest

from faas.agent.process import AgentProcess
from faas.agent.protocol import Answer, Request
from faas.errors import InvalidArgumentError, SandboxBrokenError, WrongStateError
from faas.model import ExitReason
from faas.sandbox.protocols import Exit, Progress


@pytest.fixture
async def process(agent):
    return await started(agent)


async def started(agent, **options):
    made = AgentProcess(agent.channel, "main", **options)
    starting = asyncio.ensure_future(agent.channel.command(Request.EXEC, b"", made))
    agent.say_started((await agent.asked()).id)
    number, _ = await starting
    made.bind(number)
    return made


async def answer_stdin(agent, taken):
    asked = await agent.asked()
    assert asked.kind == Request.STDIN
    agent.say(Answer.STDIN_OK, asked.id, struct.pack("<Q", taken))
    offset, length = struct.unpack_from("<QI", asked.payload)
    return offset, asked.payload[12 : 12 + length], asked.flags


async def test_wait_gives_the_same_end_to_all_and_for_ever(agent, process):
    waiting = [asyncio.ensure_future(process.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    agent.say_exit(process.command_id, 3)
    ends = [*await asyncio.gather(*waiting), await process.wait()]
    assert {ended.code for ended in ends} == {3}
    assert ends[0].reason is ExitReason.EXITED


async def test_cancelling_one_waiter_touches_no_other(agent, process):
    first, second = (asyncio.ensure_future(process.wait()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    agent.say_exit(process.command_id, 0)
    assert (await second).code == 0


async def test_wait_fails_when_the_sandbox_dies_first(agent, process):
    agent.socket.close()
    with pytest.raises(SandboxBrokenError):
        await process.wait()
    with pytest.raises(SandboxBrokenError):
        await process.changed(process.progress())


async def test_a_loss_verdict_turns_the_loss_into_an_end(agent):
    ended = Exit(137, 9, ExitReason.OUT_OF_MEMORY, 0, 0, 0, 0, 0, 0)
    process = await started(agent, loss_verdict=lambda: ended)
    agent.socket.close()
    assert await process.wait() is ended


async def test_changed_returns_on_each_step_and_at_the_end(agent, process):
    seen = process.progress()
    assert seen == Progress(0, 0, is_ended=False)
    agent.say_output(process.command_id, 5, 0)
    seen = await process.changed(seen)
    assert seen == Progress(5, 0, is_ended=False)
    agent.say_exit(process.command_id, 0, stdout=5)
    assert await process.changed(seen) == Progress(5, 0, is_ended=True)


async def test_changed_returns_at_once_when_what_was_seen_is_old(agent, process):
    agent.say_output(process.command_id, 5, 2)
    await process.changed(Progress(0, 0, is_ended=False))
    assert (await process.changed(Progress(1, 0, is_ended=False))).stdout_bytes == 5


async def test_an_agent_cannot_take_progress_back(agent, process):
    agent.say_output(process.command_id, 9, 9)
    seen = await process.changed(process.progress())
    agent.say_output(process.command_id, 1, 10)
    assert await process.changed(seen) == Progress(9, 10, is_ended=False)


async def test_input_is_sent_again_from_where_the_command_took_it(agent, process):
    writing = asyncio.ensure_future(process.write_stdin(b"abcdef", offset=10, is_last=True))
    assert await answer_stdin(agent, 12) == (10, b"abcdef", 1)
    assert await answer_stdin(agent, 16) == (12, b"cdef", 1)
    assert await writing == 16


async def test_only_the_last_piece_closes_the_input(agent, process):
    data = bytes(300_000)
    writing = asyncio.ensure_future(process.write_stdin(data, offset=0, is_last=True))
    first = await answer_stdin(agent, 262_144)
    second = await answer_stdin(agent, 300_000)
    assert (first[2], second[2]) == (0, 1)
    assert await writing == 300_000


async def test_a_gap_in_the_input_is_the_callers_mistake(agent, process):
    writing = asyncio.ensure_future(process.write_stdin(b"x", offset=7))
    agent.say_error((await agent.asked()).id, errno.EINVAL)
    with pytest.raises(InvalidArgumentError, match="gap"):
        await writing


async def test_closed_input_is_the_wrong_state(agent, process):
    writing = asyncio.ensure_future(process.write_stdin(b"x", offset=0))
    agent.say_error((await agent.asked()).id, errno.EPIPE)
    with pytest.raises(WrongStateError):
        await writing


async def test_input_after_the_end_is_the_wrong_state(agent, process):
    agent.say_exit(process.command_id)
    await process.wait()
    with pytest.raises(WrongStateError):
        await process.write_stdin(b"x", offset=0)


async def test_kill_asks_for_the_whole_tree(agent, process):
    killing = asyncio.ensure_future(process.kill())
    asked = await agent.asked()
    assert (asked.kind, asked.flags, asked.payload) == (Request.SIGNAL, 1, struct.pack("<I", 9))
    agent.say(Answer.OK, asked.id, bytes(8))
    await killing


async def test_kill_of_what_has_ended_is_harmless(agent, process):
    killing = asyncio.ensure_future(process.kill())
    agent.say_error((await agent.asked()).id, errno.ESRCH)
    await killing
    agent.say_exit(process.command_id)
    await process.wait()
    await process.kill()
