"""Who waits for a command waits on while it is away, and hears its one end."""

import asyncio

import pytest

from faas.errors import SandboxBrokenError, WrongStateError
from faas.executor.moving import MovingProcess
from faas.model import ExitReason
from faas.sandbox.protocols import Exit, Progress

END = Exit(
    code=3, signal=None, reason=ExitReason.EXITED, stdout_kept_bytes=9, stdout_total_bytes=9,
    stderr_kept_bytes=0, stderr_total_bytes=0, wall_us=1, cpu_us=1,
)  # fmt: skip


class Scripted:
    """A process whose end and output are said by the test."""

    name = "main"
    pid = 7

    def __init__(self, stdout_bytes: int = 0) -> None:
        self.end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.said = Progress(stdout_bytes, 0, is_ended=False)
        self.news = asyncio.Event()
        self.killed = False

    async def wait(self) -> Exit:
        return await asyncio.shield(self.end)

    def progress(self) -> Progress:
        return self.said

    async def changed(self, seen: Progress) -> Progress:
        while self.said == seen:
            if self.end.done():
                self.end.result()
            await self.news.wait()
            self.news.clear()
        return self.said

    def say(self, stdout_bytes: int) -> None:
        self.said = Progress(stdout_bytes, 0, is_ended=False)
        self.news.set()

    def die(self) -> None:
        self.end.set_exception(SandboxBrokenError())
        self.news.set()

    async def kill(self) -> None:
        self.killed = True


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_its_end_is_heard_in_the_sandbox_it_came_to():
    first, second = Scripted(), Scripted()
    moving = MovingProcess("main", first)
    waiting = asyncio.ensure_future(moving.wait())
    await turn()
    moving.leave()
    first.die()
    await turn()
    assert not waiting.done()
    moving.go()
    with pytest.raises(WrongStateError):
        await moving.signal(1)
    moving.arrive(second)
    second.end.set_result(END)
    assert await waiting == END


async def test_one_that_did_not_leave_ends_as_ever():
    first = Scripted()
    moving = MovingProcess("main", first)
    waiting = asyncio.ensure_future(moving.wait())
    moving.leave()
    moving.stay()
    first.end.set_result(END)
    assert await waiting == END


async def test_a_sandbox_that_breaks_is_an_end_unless_it_leaves():
    first = Scripted()
    moving = MovingProcess("main", first)
    waiting = asyncio.ensure_future(moving.wait())
    await turn()
    first.die()
    with pytest.raises(SandboxBrokenError):
        await waiting


async def test_a_sandbox_that_breaks_while_leaving_fails_is_an_end():
    first = Scripted()
    moving = MovingProcess("main", first)
    waiting = asyncio.ensure_future(moving.wait())
    await turn()
    moving.leave()
    first.die()
    await turn()
    assert not waiting.done()
    moving.stay()
    with pytest.raises(SandboxBrokenError):
        await waiting


async def test_output_never_goes_back_and_news_is_heard_over_a_move():
    first, second = Scripted(5), Scripted()
    moving = MovingProcess("main", first)
    seen = moving.progress()
    hearing = asyncio.ensure_future(moving.changed(seen))
    await turn()
    moving.leave()
    first.die()
    moving.go()
    await turn()
    moving.arrive(second)
    await turn()
    assert not hearing.done()
    assert moving.progress().stdout_bytes == 5
    second.say(8)
    assert (await hearing).stdout_bytes == 8


async def test_one_that_is_killed_while_away_does_not_come_back():
    moving = MovingProcess("main", None)
    waiting = asyncio.ensure_future(moving.wait())
    hearing = asyncio.ensure_future(moving.changed(moving.progress()))
    await turn()
    await moving.kill()
    for each in (waiting, hearing):
        with pytest.raises(SandboxBrokenError):
            await each


async def test_one_that_is_here_is_killed_here():
    first = Scripted()
    await MovingProcess("main", first).kill()
    assert first.killed
