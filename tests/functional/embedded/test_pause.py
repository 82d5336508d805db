"""A paused sandbox does nothing, keeps everything, and can be ended, lost and taken back."""

import asyncio

import pytest

from faas.sandbox.capabilities import Capability
from faas.sandbox.protocols import Command

COUNT = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count.new; mv /tmp/count.new /tmp/count; done"


@pytest.fixture(autouse=True)
def a_host_that_can_freeze(embedded):
    if Capability.PAUSE not in embedded.runtime.capabilities:
        pytest.skip("this host has no freezer")


async def counting(embedded, sandbox):
    command = Command(("/bin/sh", "-c", COUNT), timeout_ms=0, is_exclusive=False)
    return await sandbox.start("count", command, embedded.output())


async def count(embedded, sandbox) -> int:
    async with asyncio.timeout(20):
        while True:
            ran = await embedded.sh(sandbox, "cat /tmp/count", is_exclusive=False)
            if ran.text.strip():
                return int(ran.text)


def cpu_us(sandbox) -> int:
    return sandbox._meter.cpu_us()


async def test_a_paused_sandbox_uses_no_processor_and_goes_on_where_it_was(embedded, sandbox):
    process = await counting(embedded, sandbox)
    before = await count(embedded, sandbox)
    await sandbox.pause()
    used = cpu_us(sandbox)
    await asyncio.sleep(0.1)
    assert cpu_us(sandbox) == used
    await sandbox.resume()
    assert await count(embedded, sandbox) > before
    assert not process.progress().is_ended


async def test_pausing_and_resuming_may_be_repeated(embedded, sandbox):
    for _ in range(3):
        await sandbox.pause()
        await sandbox.pause()
        await sandbox.resume()
        await sandbox.resume()
    assert (await embedded.sh(sandbox, "echo on")).text == "on\n"


async def test_a_paused_sandbox_can_be_destroyed(embedded):
    made = await embedded.sandbox()
    await counting(embedded, made)
    await made.pause()
    async with asyncio.timeout(5):
        await made.destroy("while paused")


async def test_processes_that_fork_are_all_frozen(embedded, sandbox):
    storm = "while :; do (true) & (true) & wait; done"
    command = Command(("/bin/sh", "-c", storm), timeout_ms=0, is_exclusive=False)
    await sandbox.start("storm", command, embedded.output())
    await asyncio.sleep(0.05)
    await sandbox.pause()
    used = cpu_us(sandbox)
    await asyncio.sleep(0.1)
    assert cpu_us(sandbox) == used
    await sandbox.resume()


async def test_a_paused_sandbox_is_taken_back_by_the_next_gateway(embedded):
    made = await embedded.sandbox()
    await counting(embedded, made)
    before = await count(embedded, made)
    await made.pause()
    await embedded.runtime.aclose(leave_running={made.id})
    embedded.runtime = embedded.new_runtime()
    await embedded.runtime.start()
    found = await embedded.runtime.adopt(made.id)
    assert found is not None
    await found.pause()
    await found.resume()
    assert await count(embedded, found) >= before
    await found.destroy("tested")


async def test_a_paused_sandbox_that_nobody_keeps_is_reclaimed(embedded):
    made = await embedded.sandbox()
    await counting(embedded, made)
    await made.pause()
    await embedded.runtime.aclose(leave_running={made.id})
    embedded.runtime = embedded.new_runtime()
    await embedded.runtime.start()
    async with asyncio.timeout(10):
        report = await embedded.runtime.reclaim(keep=set())
    assert report.sandboxes == 1
    assert await embedded.runtime.adopt(made.id) is None
