"""Bombs: the sandbox that throws one suffers alone, and can still be taken away."""

import asyncio

import pytest

from faas.errors import FaasError, ResourceExhaustedError, TooLargeError
from faas.model import ExitReason, Limits
from faas.sandbox.protocols import Command

pytestmark = pytest.mark.needs_root

SMALL = Limits(memory_bytes=64 << 20, pids_max=32, disk_bytes=8 << 20, cpu_millis=500)


@pytest.fixture
async def small(embedded):
    made = await embedded.sandbox(limits=SMALL)
    yield made
    await made.destroy("tested")


async def test_a_fork_bomb_stays_small_and_ends_in_time(embedded, small):
    bomb = ":(){ :|:& };:; while :; do :; done"
    ran = await embedded.run(small, "/bin/bash", "-c", bomb, timeout_ms=1_500)
    assert (ran.exit.reason, ran.code) == (ExitReason.TIMED_OUT, 124)


async def test_a_fork_bomb_does_not_hinder_others(embedded, small, sandbox):
    bomb = ":(){ :|:& };:; sleep 60"
    process = await small.start("b", Command(("/bin/bash", "-c", bomb)), embedded.output())
    await asyncio.sleep(0.2)
    assert (await embedded.sh(sandbox, "echo fine")).text == "fine\n"
    await process.kill()
    assert (await process.wait()).reason is ExitReason.CANCELLED


async def test_a_sandbox_full_of_processes_can_be_destroyed(embedded, small):
    bomb = "while :; do sleep 60 & done"
    await small.start("b", Command(("/bin/bash", "-c", bomb)), embedded.output())
    await asyncio.sleep(0.2)
    await small.destroy("tested")
    assert not [name for name in embedded.runtime._cgroups.names() if name.startswith("sbx-")]


async def test_a_sandbox_without_room_says_so_and_lives(embedded, small):
    bomb = "i=0; while [ $i -lt 60 ]; do sleep 60 & i=$((i+1)); done 2>/dev/null; sleep 60"
    process = await small.start("b", Command(("/bin/bash", "-c", bomb)), embedded.output())
    await asyncio.sleep(0.3)
    try:
        ran = await embedded.sh(small, "echo squeezed in", timeout_ms=5_000)
        assert ran.code in {0, 126, 2}
    except ResourceExhaustedError:
        pass
    await process.kill()
    await process.wait()
    assert (await embedded.sh(small, "echo again")).text == "again\n"


async def test_a_memory_bomb_is_ended_and_named(embedded, small):
    ran = await embedded.python(small, "x = []\nwhile True: x.append(bytearray(1 << 20))")
    assert (ran.exit.reason, ran.code) == (ExitReason.OUT_OF_MEMORY, 137)
    assert (await embedded.sh(small, "echo alive")).text == "alive\n"


async def test_memory_in_files_counts(embedded, small):
    ran = await embedded.sh(small, "head -c 100M /dev/zero > /dev/shm/x; echo $?")
    assert ran.exit.reason is ExitReason.OUT_OF_MEMORY or "0" not in ran.text.split()


@pytest.mark.parametrize("place", ["/tmp", "/workspace", "/root", "/var/tmp", "/"])
async def test_a_disk_bomb_fills_only_its_own_disk(embedded, small, place):
    ran = await embedded.sh(small, f"head -c 40M /dev/zero > {place}/x; echo $?; rm {place}/x")
    assert b"No space left" in ran.stderr
    assert (await embedded.sh(small, f"echo y > {place}/y && echo ok")).text == "ok\n"


async def test_a_bomb_of_empty_files_ends_too(embedded, small):
    script = "import os\nfor n in range(10**7): os.close(os.open(f'/tmp/{n}', os.O_CREAT))"
    ran = await embedded.python(small, script)
    assert ran.code != 0
    assert b"No space left" in ran.stderr or ran.exit.reason is ExitReason.OUT_OF_MEMORY


async def test_a_full_disk_is_told_to_who_uploads(small):
    with pytest.raises(FaasError) as caught:
        await small.write_file("/tmp/x", bytes(20 << 20))
    assert isinstance(caught.value, TooLargeError)


async def test_ten_gigabytes_of_output_keep_what_was_asked_for(embedded, sandbox):
    command = Command(
        ("/bin/sh", "-c", "head -c 10G /dev/zero"), output_bytes_max=1 << 20, timeout_ms=100_000
    )
    output = embedded.output()
    process = await sandbox.start("flood", command, output)
    ended = await process.wait()
    assert output.stdout.stat().st_size == ended.stdout_kept_bytes == 1 << 20
    if ended.reason is ExitReason.EXITED:
        assert ended.stdout_total_bytes == 10 << 30


async def test_a_flood_on_both_streams_is_capped_on_both(embedded, sandbox):
    ran = await embedded.sh(
        sandbox, "yes & yes >&2 & sleep 0.3; kill %1 %2", output_bytes_max=4096, timeout_ms=20_000
    )
    assert (len(ran.stdout), len(ran.stderr)) == (4096, 4096)
    assert ran.exit.stdout_total_bytes > 4096


async def test_sigterm_may_be_ignored_but_not_the_end(embedded, sandbox):
    ran = await embedded.sh(
        sandbox, "trap '' TERM INT HUP; echo on; while :; do sleep 1; done",
        timeout_ms=300, grace_ms=200,
    )  # fmt: skip
    assert (ran.exit.reason, ran.code, ran.text) == (ExitReason.TIMED_OUT, 124, "on\n")


async def test_a_polite_command_may_clean_up(embedded, sandbox):
    ran = await embedded.sh(
        sandbox, "trap 'echo bye; exit 0' TERM; echo on; while :; do sleep 0.05; done",
        timeout_ms=300, grace_ms=10_000,
    )  # fmt: skip
    assert (ran.exit.reason, ran.text) == (ExitReason.TIMED_OUT, "on\nbye\n")


async def test_setsid_and_double_forks_do_not_escape_the_end(embedded, sandbox):
    script = "setsid sh -c 'setsid sleep 31415 & sleep 31415' & (sleep 31415 &) ; sleep 31415"
    ran = await embedded.sh(sandbox, script, timeout_ms=300)
    assert ran.exit.reason is ExitReason.TIMED_OUT
    left = await embedded.sh(sandbox, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "31415" not in left.text.replace("cat", "")


async def test_what_an_exclusive_command_leaves_is_killed(embedded, sandbox):
    await embedded.sh(sandbox, "setsid sleep 27182 & exit 0")
    left = await embedded.sh(sandbox, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "27182" not in left.text


async def test_a_stopped_command_still_runs_out_of_time(embedded, sandbox):
    ran = await embedded.sh(sandbox, "kill -STOP $$; echo never", timeout_ms=300)
    assert (ran.exit.reason, ran.stdout) == (ExitReason.TIMED_OUT, b"")


async def test_a_command_that_closes_its_output_still_ends_properly(embedded, sandbox):
    ran = await embedded.sh(sandbox, "exec >&- 2>&-; sleep 0.1; exit 5")
    assert ran.code == 5


async def test_processor_time_is_limited(embedded, small):
    ran = await embedded.sh(small, "while :; do :; done", timeout_ms=1_000)
    assert ran.exit.cpu_us < 800_000, f"half a core for a second: {ran.exit}"


async def test_huge_arguments_are_refused_or_run_but_break_nothing(embedded, sandbox):
    for size in (100_000, 200_000, 900_000, 5_000_000):
        try:
            ran = await embedded.run(sandbox, "/bin/echo", "x" * size)
            assert ran.code in {0, 126}
        except FaasError as error:
            assert error.code in {"too_large", "invalid_argument"}  # noqa: PT017
    assert (await embedded.sh(sandbox, "echo alive")).text == "alive\n"


async def test_a_huge_environment_is_refused_or_runs_but_breaks_nothing(embedded, sandbox):
    env = tuple((f"K{n}", "v" * 1000) for n in range(3000))
    try:
        ran = await embedded.run(sandbox, "/bin/true", env=env)
        assert ran.code in {0, 126}
    except FaasError as error:
        assert error.code in {"too_large", "invalid_argument"}  # noqa: PT017
    assert (await embedded.sh(sandbox, "echo alive")).text == "alive\n"


async def test_many_open_files_are_the_commands_own_problem(embedded, sandbox):
    script = """
import os
fds = []
try:
    while True: fds.append(os.open('/dev/null', os.O_RDONLY))
except OSError as error:
    print(error.strerror)
"""
    assert (await embedded.python(sandbox, script)).text == "Too many open files\n"
