"""Processes are taken with their memory and go on elsewhere, by the real CRIU."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from faas.criu import processes
from faas.errors import ConflictError, UnsupportedError, WrongStateError
from faas.model import ExitReason
from faas.sandbox.capabilities import Capability, Resumption
from faas.sandbox.protocols import Command, RootFilesystem

pytestmark = [pytest.mark.needs_criu, pytest.mark.needs_root]

COUNTING = """
import itertools, sys
for n in itertools.count():
    sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
"""
SECONDS = 60


def program(script: str, **options: object) -> Command:
    options.setdefault("timeout_ms", 0)
    return Command(("/usr/bin/python3", "-c", script), **options)  # type: ignore[arg-type]


async def until(is_so) -> None:
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.sleep(0.01)


def numbers(path: Path) -> list[int]:
    """Whole lines only: the last may be under way."""
    return [int(line) for line in path.read_bytes().rpartition(b"\n")[0].split()]


class Kept:
    """A sandbox with one command, and where its memory is kept."""

    def __init__(self, keeping, sandbox, process, output):
        self.keeping = keeping
        self.sandbox = sandbox
        self.process = process
        self.output = output
        self.images = keeping.data_dir / f"memory-{sandbox.id}" / "images"

    async def take(self):
        self.images.mkdir(parents=True)
        async with self.sandbox.processes_taken(self.images):
            return self.output.stdout.read_bytes()

    async def restore(self, *, files=None, **options):
        sandbox = await self.keeping.sandbox(keeps_memory=True, is_refilled=True)
        for path, data in (files or {}).items():
            await sandbox.write_file(path, data)
        output = self.keeping.output()
        resumption = Resumption("main", output, is_continued=False, **options)
        got = await sandbox.restore_processes(self.images, {"main": resumption})
        return Kept.of(self.keeping, sandbox, got["main"], output)

    @classmethod
    def of(cls, *parts):
        return cls(*parts)


@pytest.fixture
async def begin(keeping):
    made = []

    async def start(script: str, **options):
        sandbox = await keeping.sandbox(keeps_memory=True)
        made.append(sandbox)
        output = keeping.output()
        process = await sandbox.start("main", program(script, **options), output)
        return Kept(keeping, sandbox, process, output)

    yield start
    for sandbox in made:
        if sandbox.is_alive:
            await sandbox.destroy("tested")


async def test_a_count_in_memory_goes_on_and_no_output_is_lost_or_doubled(begin):
    first = await begin(COUNTING)
    await until(lambda: len(numbers(first.output.stdout)) > 100)
    before = await first.take()
    await first.process.kill()
    again = await first.restore()
    await until(lambda: len(numbers(again.output.stdout)) > 100)
    await again.process.kill()
    await again.process.wait()
    whole = (before + again.output.stdout.read_bytes()).rpartition(b"\n")[0].split()
    assert [int(word) for word in whole] == list(range(len(whole)))


async def test_what_was_taken_runs_on_when_it_is_let_go(begin):
    kept = await begin(COUNTING)
    await until(lambda: len(numbers(kept.output.stdout)) > 10)
    before = await kept.take()
    await until(lambda: len(kept.output.stdout.read_bytes()) > len(before))
    seen = numbers(kept.output.stdout)
    assert seen == list(range(len(seen)))


async def test_one_memory_goes_on_in_several_sandboxes_at_once_each_with_its_own_user(begin):
    kept = await begin(COUNTING)
    await until(lambda: len(numbers(kept.output.stdout)) > 10)
    await kept.take()
    children = await asyncio.gather(*(kept.restore() for _ in range(3)))
    users = {child.sandbox._site.user for child in children} | {kept.sandbox._site.user}
    assert len(users) == 4
    for child in children:
        await until(lambda child=child: len(numbers(child.output.stdout)) > 10)
    firsts = {numbers(child.output.stdout)[1] for child in children}
    assert len(firsts) == 1


async def test_files_processes_and_sockets_among_them_are_there_again(begin):
    kept = await begin("""
import os, socket, time
ours, theirs = socket.socketpair()
log = open("/workspace/log", "w"); log.write("before\\n"); log.flush()
if not os.fork():
    while data := theirs.recv(10):
        theirs.send(data.upper())
print("ready", flush=True)
while not os.path.exists("/tmp/go"): time.sleep(0.01)
ours.send(b"abc"); print(ours.recv(10).decode(), flush=True)
log.write("after\\n"); log.close(); print(open("/workspace/log").read(), flush=True)
""")
    await until(lambda: b"ready" in kept.output.stdout.read_bytes())
    await kept.take()
    again = await kept.restore(files={"/workspace/log": b"before\n", "/tmp/go": b""})
    ended = await again.process.wait()
    assert (ended.code, again.output.stdout.read_text()) == (0, "ABC\nbefore\nafter\n\n")


async def test_input_that_was_not_read_is_read_after_it(begin):
    kept = await begin(
        """
import os, sys, time
print("ready", flush=True)
while not os.path.exists("/tmp/go"): time.sleep(0.01)
print(sys.stdin.read(), flush=True)
""",
        stdin_open=True,
    )
    await until(lambda: b"ready" in kept.output.stdout.read_bytes())
    large = b"x" * 200_000  # more than a pipe holds
    assert await kept.process.write_stdin(large, offset=0) == len(large)
    await kept.take()
    again = await kept.restore(files={"/tmp/go": b""})
    await again.process.write_stdin(b"end", offset=len(large), is_last=True)
    await again.process.wait()
    assert again.output.stdout.read_bytes() == large + b"end\n"


async def test_the_exit_code_and_the_time_limit_are_those_of_the_restored(begin):
    kept = await begin(
        "import time, os, sys\nwhile not os.path.exists('/tmp/go'): time.sleep(0.01)\nsys.exit(7)"
    )
    await until(lambda: True)
    await asyncio.sleep(0.2)  # the interpreter starts; wherever it is taken, it goes on
    await kept.take()
    ended = await (await kept.restore(files={"/tmp/go": b""})).process.wait()
    late = await (await kept.restore(timeout_ms=300)).process.wait()
    assert (ended.code, late.code, late.reason) == (7, 124, ExitReason.TIMED_OUT)


async def test_a_restored_one_can_be_taken_again(begin):
    kept = await begin(COUNTING)
    await until(lambda: len(numbers(kept.output.stdout)) > 10)
    for _ in range(3):
        last = numbers(kept.output.stdout)[-1]
        await kept.take()
        kept = await kept.restore()
        await until(lambda kept=kept: len(numbers(kept.output.stdout)) > 10)
        assert numbers(kept.output.stdout)[1] > last


async def test_processes_left_behind_are_taken_along(begin):
    kept = await begin("""
import os, time
if not os.fork():
    if os.fork(): os._exit(0)
    os.setsid()
    while not os.path.exists("/tmp/go"): time.sleep(0.01)
    open("/tmp/done", "w").close()
    time.sleep(1000)
os.wait()
print("ready", flush=True)
while not os.path.exists("/tmp/done"): time.sleep(0.01)
print("done", flush=True)
""")
    await until(lambda: b"ready" in kept.output.stdout.read_bytes())
    await kept.take()
    again = await kept.restore(files={"/tmp/go": b""})
    await again.process.wait()
    assert again.output.stdout.read_text() == "done\n"


async def test_what_is_restored_is_in_the_control_groups_of_its_sandbox(begin):
    kept = await begin(COUNTING)
    await until(lambda: len(numbers(kept.output.stdout)) > 10)
    await kept.take()
    again = await kept.restore()
    init = again.sandbox._site.init
    restored = [one.pid for one in processes.below(init) if one.inner_pid == again.process.pid]
    assert len(restored) == 1
    groups = [Path(f"/proc/{pid}/cgroup").read_text() for pid in (init, restored[0])]
    assert groups[0] == groups[1]
    assert again.sandbox.id in groups[0]


async def test_one_that_ended_and_was_not_waited_for_is_taken_along(begin):
    kept = await begin("""
import os, time
child = os.fork()
if not child: os._exit(3)
time.sleep(0.2); print("ready", flush=True)
while not os.path.exists("/tmp/go"): time.sleep(0.01)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
""")
    await until(lambda: b"ready" in kept.output.stdout.read_bytes())
    await kept.take()
    again = await kept.restore(files={"/tmp/go": b""})
    await again.process.wait()
    assert again.output.stdout.read_text() == "3\n"


async def test_a_socket_to_what_is_not_taken_is_refused_with_its_reason_and_all_run_on(
    begin, keeping
):
    kept = await begin("""
import socket, itertools
server = socket.socket(socket.AF_UNIX); server.bind("/tmp/s"); server.listen()
print("ready", flush=True)
client, _ = server.accept()
for n in itertools.count(): print(n, flush=True)
""", is_exclusive=False)  # fmt: skip
    await until(lambda: b"ready" in kept.output.stdout.read_bytes())
    script = "import socket, time; s = socket.socket(1); s.connect('/tmp/s'); time.sleep(1000)"
    await kept.sandbox.start("other", program(script, is_exclusive=False), keeping.output())
    await until(lambda: b"1\n" in kept.output.stdout.read_bytes())
    with pytest.raises(UnsupportedError, match="socket"):
        await kept.take()
    before = len(kept.output.stdout.read_bytes())
    await until(lambda: len(kept.output.stdout.read_bytes()) > before)


async def test_a_file_that_became_another_is_a_conflict(begin):
    kept = await begin("""
import time
log = open("/workspace/log", "w"); log.write("x" * 1000); log.flush()
print("ready", flush=True); time.sleep(1000)
""")
    await until(lambda: b"ready" in kept.output.stdout.read_bytes())
    await kept.take()
    with pytest.raises(ConflictError):
        await kept.restore(files={"/workspace/log": b"another"})


async def test_a_sandbox_without_a_command_or_not_made_for_it_is_refused(keeping):
    target = keeping.data_dir / "nothing"
    target.mkdir()
    plain = await keeping.sandbox()
    with pytest.raises(UnsupportedError, match="not made for"):
        async with plain.processes_taken(target):
            pass
    idle = await keeping.sandbox(keeps_memory=True)
    with pytest.raises(WrongStateError):
        async with idle.processes_taken(target):
            pass


async def test_a_host_without_criu_says_how_to_get_it(embedded):
    assert Capability.MEMORY_SNAPSHOT not in embedded.runtime.capabilities
    with pytest.raises(UnsupportedError) as refused:
        await embedded.sandbox(keeps_memory=True)
    assert "scripts/criu.sh" in (refused.value.hint or "")


async def test_what_a_dead_gateway_had_stopped_goes_on_with_the_next(begin, keeping):
    kept = await begin(COUNTING)
    await until(lambda: len(numbers(kept.output.stdout)) > 10)
    kept.images.mkdir(parents=True)
    taken = kept.sandbox.processes_taken(kept.images)
    await taken.__aenter__()
    stopped = len(kept.output.stdout.read_bytes())
    kept.sandbox.let_go()  # as a gateway that dies here does
    keeping.runtime._sandboxes.clear()
    other = keeping.new_runtime()
    await other.start()
    try:
        assert await other.adopt(kept.sandbox.id) is not None
        await until(lambda: len(kept.output.stdout.read_bytes()) > stopped)
    finally:
        await other.aclose()


async def test_what_the_sandbox_itself_had_stopped_stays_stopped(begin):
    kept = await begin("""
import os, signal, time
child = os.fork()
if not child:
    while True: time.sleep(0.001); open("/tmp/alive", "a").write("x")
time.sleep(0.1); os.kill(child, signal.SIGSTOP); os.waitpid(child, os.WUNTRACED)
print("ready", flush=True); time.sleep(1000)
""")
    await until(lambda: b"ready" in kept.output.stdout.read_bytes())
    size = (await kept.sandbox.stat("/tmp/alive")).size_bytes
    await kept.take()
    await asyncio.sleep(0.1)
    assert (await kept.sandbox.stat("/tmp/alive")).size_bytes == size


async def test_an_imported_image_keeps_memory_too(keeping, begin, tmp_path):
    tree = keeping.data_dir / "tree"
    for name in ("usr", "bin", "lib", "lib64", "tmp", "etc/criu", "usr/lib/criu"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    busybox = Path("/bin/busybox")
    if not busybox.is_file():
        pytest.skip("needs busybox")
    (tree / "bin/sh").write_bytes(busybox.read_bytes())
    (tree / "bin/sh").chmod(0o755)
    # Hostile: CRIU must read neither of the two.
    (tree / "etc/criu/default.conf").write_text("no-such-option-at-all\n")
    (tree / "usr/lib/criu/evil.so").write_bytes(b"not a library")
    root = RootFilesystem("sha256:" + "0" * 64, tree)
    sandbox = await keeping.sandbox(root=root, keeps_memory=True)
    output = keeping.output()
    script = "echo mine > /etc/own; i=0; while :; do i=$((i+1)); echo $i; done"
    command = Command(("/bin/sh", "-c", script), timeout_ms=0)
    process = await sandbox.start("main", command, output)
    await until(lambda: len(numbers(output.stdout)) > 10)
    kept = Kept(keeping, sandbox, process, output)
    await kept.take()
    assert await sandbox.read_file("/etc/own") == b"mine\n"
    other = await keeping.sandbox(root=root, keeps_memory=True, is_refilled=True)
    again = keeping.output()
    await other.restore_processes(kept.images, {"main": Resumption("main", again, False)})
    await until(lambda: len(numbers(again.stdout)) > 10)


@pytest.mark.parametrize("pause", [0.0, 0.008, 0.02])
async def test_a_dump_whose_launcher_dies_comes_to_its_end_and_all_run_on(begin, keeping, pause):
    # A busy machine may take longer than the usual 16 MiB of numbers.
    kept = await begin(COUNTING, output_bytes_max=1 << 30)
    await until(lambda: len(numbers(kept.output.stdout)) > 10)
    taking = asyncio.ensure_future(kept.take())
    await asyncio.sleep(pause)
    os.kill(keeping.runtime._launcher.pid, signal.SIGKILL)
    await asyncio.gather(taking, return_exceptions=True)
    size = len(kept.output.stdout.read_bytes())
    await until(lambda: len(kept.output.stdout.read_bytes()) > size)
    seen = numbers(kept.output.stdout)
    assert seen == list(range(len(seen)))
