"""Commands on a terminal are taken with their memory and go on elsewhere on one of their own."""

import asyncio
from pathlib import Path

import pytest

from faas.criu import processes
from faas.errors import UnsupportedError, WrongStateError
from faas.sandbox.capabilities import Resumption
from faas.sandbox.protocols import Command

pytestmark = [pytest.mark.needs_criu, pytest.mark.needs_root]

SECONDS = 20


class Typed:
    """A command on a terminal, its sandbox, and somebody at the keys."""

    def __init__(self, keeping, sandbox, process, output, *, at=0):
        self.keeping, self.sandbox, self.process, self.output = keeping, sandbox, process, output
        self.images = keeping.data_dir / f"memory-{sandbox.id}" / "images"
        self.at = at

    @classmethod
    async def begin(cls, keeping, *argv, name="main", sandbox=None, **options):
        sandbox = sandbox or await keeping.sandbox(keeps_memory=True)
        options = {"tty": True, "stdin_open": True, "rows": 31, "columns": 97, **options}
        output = keeping.output()
        command = Command(argv, timeout_ms=0, **options)
        return cls(keeping, sandbox, await sandbox.start(name, command, output), output)

    @property
    def said(self) -> str:
        return self.output.stdout.read_bytes().decode()

    async def type(self, text: str) -> None:
        self.at = await self.process.write_stdin(text.encode(), offset=self.at)

    async def until(self, text: str, *, times: int = 1) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                while self.said.count(text) < times:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"waited for {text!r} in {self.said!r}")

    async def take(self) -> str:
        self.images.mkdir(parents=True)
        async with self.sandbox.processes_taken(self.images):
            return self.said

    async def restore(self, *, files=None) -> "Typed":
        sandbox = await self.keeping.sandbox(keeps_memory=True, is_refilled=True)
        for path, data in (files or {}).items():
            await sandbox.write_file(path, data)
        output = self.keeping.output()
        resumption = Resumption("main", output, is_continued=False)
        got = await sandbox.restore_processes(self.images, {"main": resumption})
        return Typed(self.keeping, sandbox, got["main"], output, at=self.at)

    async def end(self) -> int:
        await self.process.kill()
        return (await self.process.wait()).code


@pytest.mark.parametrize("shell", ["bash", "sh"])
async def test_an_interactive_shell_goes_on_where_it_was(keeping, shell):
    first = await Typed.begin(keeping, f"/bin/{shell}", "-i", env=(("PS1", "at> "),))
    await first.type("word=kept; tty; stty size\n")
    await first.until("31 97")
    await first.until("at> ", times=2)
    await first.take()
    again = await first.restore()
    await again.type("echo $word-$((6*7)); tty; stty size\n")
    await again.until("kept-42")
    await again.until("/dev/pts/0")
    await again.until("31 97")
    await again.type("exit 9\n")
    assert (await again.process.wait()).code == 9
    await first.type("echo $word again\n")
    await first.until("kept again")


@pytest.mark.parametrize("shell", ["bash", "sh"])
async def test_ctrl_c_interrupts_what_is_in_the_foreground_right_after_a_restore(keeping, shell):
    first = await Typed.begin(keeping, f"/bin/{shell}", "-i", env=(("PS1", "at> "),))
    await first.type("sh -c 'echo be\"\"gun; exec sleep 1000'\n")
    await first.until("begun")
    await first.take()
    for one in (await first.restore(), first):
        await one.type("\x03")
        await one.type("echo code $?\n")
        await one.until("code 130")


async def test_a_stopped_job_is_brought_to_the_foreground_after_a_restore(keeping):
    first = await Typed.begin(keeping, "/bin/bash", "-i", env=(("PS1", "at> "),))
    await first.type("cat\n")
    await asyncio.sleep(0.3)
    await first.type("\x1a")
    await first.until("Stopped")
    await first.take()
    again = await first.restore()
    await again.type("fg\n")
    await again.until("cat\r\n")
    await asyncio.sleep(0.2)  # bash has set the terminal by then, which throws away what was typed
    await again.type("hello\n")
    await again.until("hello", times=2)
    await again.type("\x04")
    await again.type("echo code $?\n")
    await again.until("code 0")


async def test_a_job_in_the_foreground_stays_there_when_the_original_runs_on(keeping):
    first = await Typed.begin(keeping, "/bin/bash", "-i", env=(("PS1", "at> "),))
    await first.type("cat\n")
    await asyncio.sleep(0.3)
    await first.take()
    await first.type("still\n")
    await first.until("still", times=2)
    assert "Stopped" not in first.said


async def test_a_job_of_the_shell_is_controlled_by_the_terminal_after_a_restore(keeping):
    job = """
import os, time
print("ready", flush=True)
while not os.path.exists("/tmp/go"): time.sleep(0.01)
print("front", os.tcgetpgrp(os.open("/dev/tty", os.O_RDWR)) == os.getpgrp(), flush=True)
"""
    first = await Typed.begin(keeping, "/bin/bash", "-i", env=(("PS1", "at> "),))
    await first.sandbox.write_file("/workspace/job.py", job.encode())
    await first.type("python3 /workspace/job.py\n")
    await first.until("ready")
    await first.take()
    again = await first.restore(files={"/tmp/go": b"", "/workspace/job.py": job.encode()})
    await again.until("front True")
    await again.type("echo code $?\n")
    await again.until("code 0")


async def test_a_python_prompt_goes_on_with_its_names(keeping):
    first = await Typed.begin(keeping, "/usr/bin/python3", "-i", "-q")
    await first.until(">>> ")
    await first.type("name = 41\n")
    await first.until(">>> ", times=2)
    await first.take()
    again = await first.restore()
    await again.type("print('is', name + 1)\n")
    await again.until("is 42")
    await again.type("\x04")
    assert (await again.process.wait()).code == 0


async def test_three_children_of_one_memory_have_a_terminal_each(keeping):
    first = await Typed.begin(keeping, "/bin/bash", "-i", env=(("PS1", "at> "),))
    await first.type("echo re''ady\n")
    await first.until("ready")
    await first.take()
    children = await asyncio.gather(*(first.restore() for _ in range(3)))
    for number, child in enumerate(children):
        await child.process.resize(rows=10 + number, columns=20)
        await child.type(f"echo i am {number}; stty size\n")
    for number, child in enumerate(children):
        await child.until(f"{10 + number} 20")
        others = {f"i am {other}" for other in range(3)} - {f"i am {number}"}
        assert not any(other in child.said for other in others)


async def test_what_was_typed_and_not_read_is_read_once_line_by_line(keeping):
    script = """
import sys, time, os
print("ready", flush=True)
while not os.path.exists("/tmp/go"): time.sleep(0.01)
while data := os.read(0, 4096): print(repr(data), flush=True)
print("end", flush=True)
"""
    first = await Typed.begin(keeping, "/usr/bin/python3", "-c", script)
    await first.until("ready")
    await first.type("one\ntwo\x16\x03\npart\x04half")
    await first.until("half")
    before = await first.take()
    again = await first.restore(files={"/tmp/go": b""})
    await first.sandbox.write_file("/tmp/go", b"")
    for one in (again, first):
        await one.type(" done\n\x04")
        assert (await one.process.wait()).code == 0
        said = one.said.removeprefix(before).replace("\r\n", "\n")
        read = [line for line in said.split("\n") if line.startswith("b'")]
        assert read == [
            "b'one\\n'", "b'two\\x03\\n'", "b'part'", "b'half done\\n'",
        ]  # fmt: skip


async def test_what_was_typed_is_there_in_a_terminal_without_lines(keeping):
    script = """
import os, sys, time, tty
tty.setraw(0)
print("ready", flush=True)
while not os.path.exists("/tmp/go"): time.sleep(0.01)
got = b""
while len(got) < 256: got += os.read(0, 4096)
print(got == bytes(range(256)), got.hex(), flush=True)
"""
    first = await Typed.begin(keeping, "/usr/bin/python3", "-c", script)
    await first.until("ready")
    whole = bytes(range(256))
    first.at = await first.process.write_stdin(whole[:200], offset=0)
    await first.take()
    again = await first.restore(files={"/tmp/go": b""})
    await again.process.write_stdin(whole[200:], offset=200)
    await again.process.wait()
    assert "True" in again.said, again.said


async def test_output_is_neither_lost_nor_there_twice(keeping):
    counting = "import itertools\nfor n in itertools.count(): print(n, flush=True)"
    first = await Typed.begin(keeping, "/usr/bin/python3", "-c", counting)
    await first.until("\n100\r\n")
    before = await first.take()
    again = await first.restore()
    count = before.count("\n")
    await again.until(f"\n{count + 1000}\r\n")
    await again.end()
    whole = (before + again.said).rpartition("\r\n")[0].split("\r\n")
    assert [int(word) for word in whole] == list(range(len(whole)))


async def test_a_restored_one_can_be_taken_again(keeping):
    one = await Typed.begin(keeping, "/bin/bash", "-i", env=(("PS1", "at> "),))
    await one.type("n=0; set +m\n")
    for turn in range(1, 4):
        await one.type(f"n=$((n+1)); echo n is $n, {turn}\n")
        await one.until(f"n is {turn}, {turn}")
        await one.take()
        one = await one.restore()
    await one.type("echo after $n\n")
    await one.until("after 3")


async def test_its_own_openings_keep_their_flags(keeping):
    script = """
import fcntl, os, time
quick = os.open("/dev/tty", os.O_RDWR | os.O_NONBLOCK)
reading = os.open(os.ttyname(0), os.O_RDONLY)
print("ready", flush=True)
while not os.path.exists("/tmp/go"): time.sleep(0.01)
kept = os.O_ACCMODE | os.O_NONBLOCK
flags = [fcntl.fcntl(n, fcntl.F_GETFL) & kept for n in (0, quick, reading)]
print(flags == [os.O_RDWR, os.O_RDWR | os.O_NONBLOCK, os.O_RDONLY], flush=True)
print(os.fstat(0).st_uid == os.getuid(), os.tcgetpgrp(quick) == os.getpgrp(), flush=True)
os.close(os.open(os.ttyname(0), os.O_RDWR)); os.close(os.open("/dev/tty", os.O_RDWR))
print("opened", flush=True)
"""
    first = await Typed.begin(keeping, "/usr/bin/python3", "-c", script)
    await first.until("ready")
    await first.take()
    again = await first.restore(files={"/tmp/go": b""})
    assert (await again.process.wait()).code == 0, again.said
    assert again.said.split() == ["True", "True", "True", "opened"]


async def test_two_commands_keep_their_terminals_apart(keeping):
    first = await Typed.begin(keeping, "/bin/bash", "-i", is_exclusive=False)
    other = await Typed.begin(
        keeping, "/bin/bash", "-i", name="other", sandbox=first.sandbox, is_exclusive=False
    )
    for one in (first, other):
        await one.type("tty; echo re''ady\n")
        await one.until("ready")
    await first.take()
    sandbox = await keeping.sandbox(keeps_memory=True, is_refilled=True)
    outputs = {name: keeping.output() for name in ("main", "other")}
    got = await sandbox.restore_processes(
        first.images,
        {name: Resumption(name, output, is_continued=False) for name, output in outputs.items()},
    )
    for number, (name, was) in enumerate((("main", first), ("other", other))):
        one = Typed(keeping, sandbox, got[name], outputs[name], at=was.at)
        await one.type(f"echo $((100+{number})); tty\n")
        await one.until(f"{100 + number}\r\n")
        await one.until(f"/dev/pts/{number}")
        assert f"{101 - number}\r\n" not in one.said


async def test_a_process_left_in_the_background_goes_on_writing(keeping):
    first = await Typed.begin(keeping, "/bin/bash", "-i", env=(("PS1", "at> "),))
    await first.type("(while :; do echo bg; sleep 0.05; done &)\n")
    await first.until("bg", times=5)
    await first.take()
    again = await first.restore()
    await again.until("bg\r\n", times=3)
    await again.type("echo fore''ground\n")
    await again.until("foreground")


async def test_a_terminal_that_a_program_made_itself_goes_with_it(keeping):
    script = """
import os, pty, time
pid, master = pty.fork()
if not pid: os.execv("/bin/cat", ["cat"])
os.write(master, b"before\\n"); got = b""
while got.count(b"before") < 2: got += os.read(master, 100)
print("ready", flush=True)
while not os.path.exists("/tmp/go"): time.sleep(0.01)
os.write(master, b"after\\n"); got = b""
while got.count(b"after") < 2: got += os.read(master, 100)
print("came back", flush=True)
"""
    first = await Typed.begin(keeping, "/usr/bin/python3", "-c", script)
    await first.until("ready")
    await first.take()
    again = await first.restore(files={"/tmp/go": b""})
    await again.until("came back")


async def test_dev_tty_of_an_inner_terminal_is_refused_and_all_run_on(keeping):
    script = "import pty; pty.spawn(['/bin/sh', '-i'])"
    first = await Typed.begin(keeping, "/usr/bin/python3", "-c", script)
    await first.until("$ ")
    await first.type("echo re''ady\n")
    await first.until("ready")
    with pytest.raises(UnsupportedError, match="terminal"):
        await first.take()
    await first.type("echo go''es on\n")
    await first.until("goes on")


async def test_too_much_typed_ahead_is_refused_until_it_is_read(keeping):
    script = "import os, time, tty\ntty.setraw(0)\nprint('ready', flush=True)\n"
    script += "while not os.path.exists('/tmp/go'): time.sleep(0.01)\n"
    script += "n = 0\nwhile n < 20000: n += len(os.read(0, 4096))\nprint('all', n, flush=True)\n"
    script += "time.sleep(1000)"
    first = await Typed.begin(keeping, "/usr/bin/python3", "-c", script)
    await first.until("ready")
    await first.type("x" * 20_000)
    with pytest.raises(WrongStateError, match="on its way"):
        await first.take()
    await first.sandbox.write_file("/tmp/go", b"")
    await first.until("all 20000")
    first.images.rename(f"{first.images}.old")
    await first.take()
    await first.restore()


async def test_what_a_command_leaves_behind_on_its_terminal_goes_along(keeping):
    script = "trap '' HUP; (while :; do date +%s%N > /workspace/beat; sleep 0.02; done) & exit 3"
    first = await Typed.begin(keeping, "/bin/sh", "-c", script, is_exclusive=False)
    assert (await first.process.wait()).code == 3
    first.images.mkdir(parents=True)
    async with first.sandbox.processes_taken(first.images):
        pass
    sandbox = await keeping.sandbox(keeps_memory=True, is_refilled=True)
    await sandbox.restore_processes(first.images, {})
    async with asyncio.timeout(SECONDS):
        seen = set()
        while len(seen) < 3:
            await asyncio.sleep(0.05)
            seen.add((await keeping.sh(sandbox, "cat /workspace/beat", is_exclusive=False)).text)


async def test_nothing_of_a_restored_shell_outlives_its_sandbox_or_its_command(keeping):
    first = await Typed.begin(keeping, "/bin/bash", "-i", env=(("PS1", "at> "),))
    await first.type('sh -c \'echo be""gun; trap "" HUP; exec sleep 1000\'\n')
    await first.until("begun")
    await first.take()
    again = await first.restore()
    alive = [one.pid for one in processes.below(again.sandbox._site.init)]
    assert len(alive) == 2
    await again.sandbox.destroy("tested")
    assert not any(Path(f"/proc/{pid}").exists() for pid in alive)
    other = await first.restore()
    assert await other.end() == 137
    alive = processes.below(other.sandbox._site.init)
    assert [one for one in alive if one.state != "Z"] == []
