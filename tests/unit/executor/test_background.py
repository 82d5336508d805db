"""No task is lost, and all can be ended."""

import asyncio

from faas.executor.background import Background


async def test_a_task_that_is_started_by_one_that_ends_is_ended_too():
    background = Background()
    ended = []

    async def second() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("second")

    async def first() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("first")
            background.spawn(second())
            await asyncio.sleep(0)

    background.spawn(first())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await background.aclose()
    assert ended == ["first", "second"]


async def test_join_waits_for_tasks_started_meanwhile():
    background = Background()
    done = []

    async def second() -> None:
        done.append("second")

    async def first() -> None:
        await asyncio.sleep(0)
        background.spawn(second())

    background.spawn(first())
    await background.join()
    assert done == ["second"]
