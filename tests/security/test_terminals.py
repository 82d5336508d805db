"""What a terminal that goes along with memory must not give away."""

import asyncio
import os
from pathlib import Path

import pytest

from faas.agent.moving import Terminal
from faas.criu import processes
from faas.criu.terminals import make, names
from faas.errors import ConflictError, SandboxBrokenError, UnsupportedError
from faas.sandbox.capabilities import Resumption
from faas.sandbox.protocols import Command

pytestmark = [pytest.mark.needs_criu, pytest.mark.needs_root]

TYPING = """
import errno, fcntl, os, time
print("ready", flush=True)
while not os.path.exists("/tmp/go"): time.sleep(0.01)
said = []
for name in ("/dev/tty", "/dev/pts/0", "/dev/pts/1"):
    terminal = os.open(name, os.O_RDWR | os.O_NOCTTY)
    for trick in (0x5412, 0x541C):
        try: fcntl.ioctl(terminal, trick, b"x"); said.append("typed")
        except OSError as error: said.append(errno.errorcode[error.errno])
print(said, sorted(os.listdir("/dev/pts")), flush=True)
time.sleep(1000)
"""


class Shelf:
    """Two commands on terminals, taken; and where they are restored."""

    def __init__(self, keeping):
        self.keeping = keeping
        self.images = keeping.data_dir / "memory" / "images"

    async def take(self, *, count: int = 2):
        sandbox = await self.keeping.sandbox(keeps_memory=True)
        outputs = [self.keeping.output() for _ in range(count)]
        command = Command(
            ("/usr/bin/python3", "-c", TYPING),
            timeout_ms=0, tty=True, stdin_open=True, is_exclusive=False,
        )  # fmt: skip
        for number, output in enumerate(outputs):
            await sandbox.start(f"c{number}", command, output)
            await until(output, "ready")
        self.images.mkdir(parents=True)
        async with sandbox.processes_taken(self.images):
            pass
        return sandbox

    async def restore(self):
        sandbox = await self.keeping.sandbox(keeps_memory=True, is_refilled=True)
        output = self.keeping.output()
        resumption = Resumption("c0", output, is_continued=False)
        got = await sandbox.restore_processes(self.images, {"c0": resumption})
        return sandbox, got["c0"], output


async def until(output, text: str) -> str:
    async with asyncio.timeout(60):
        while text not in (said := output.stdout.read_bytes().decode()):
            await asyncio.sleep(0.01)
    return said


def terminals_open(pid: int | str) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith(("/dev/pts", "/dev/ptmx", "/dev/tty")):
            found.append(target)
    return sorted(found)


@pytest.fixture
def shelf(keeping):
    return Shelf(keeping)


async def test_a_restored_command_types_on_no_terminal_not_even_its_own(shelf):
    await shelf.take()
    sandbox, _, output = await shelf.restore()
    await sandbox.write_file("/tmp/go", b"")
    said = await until(output, "ptmx']")
    assert "typed" not in said
    assert said.count("'EPERM'") == 6
    assert "['0', '1', 'ptmx']" in said


async def test_nothing_of_the_terminals_stays_open_with_the_gateway(shelf):
    await shelf.take()
    before = terminals_open("self")
    controlled = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[4]
    for _ in range(2):
        await shelf.restore()
    assert terminals_open("self") == before
    assert Path("/proc/self/stat").read_text().rpartition(")")[2].split()[4] == controlled


async def test_restored_processes_have_nothing_open_but_what_they_had(shelf):
    first = await shelf.take()
    sandbox, _, _ = await shelf.restore()
    seen = []
    for site in (first._site, sandbox._site):
        open_in = [
            sorted(number for number, _ in processes.descriptors(one.pid))
            for one in processes.below(site.init)
            if not processes.is_ours(one.pid, site.init)
        ]
        seen.append(sorted(open_in))
        for one in processes.below(site.init):
            assert "/dev/ptmx" not in terminals_open(one.pid) or processes.is_ours(
                one.pid, site.init
            )
    assert seen[0] == seen[1] == [[0, 1, 2], [0, 1, 2]]


async def test_a_restored_terminal_belongs_to_the_user_of_its_sandbox(shelf):
    first = await shelf.take()
    sandbox, _, _ = await shelf.restore()
    assert first._site.user != sandbox._site.user
    for number in (0, 1):
        inside = Path(f"/proc/{sandbox._site.init}/root/dev/pts/{number}").lstat()
        assert (inside.st_uid, inside.st_gid) == (sandbox._site.user, sandbox._site.user)


async def test_an_image_that_names_another_terminal_is_refused(shelf):
    await shelf.take(count=1)
    image = shelf.images / "0" / "tty-info.img"
    data = image.read_bytes()
    assert b"\x40\x80\x90\x02" in data  # field 8: 136 * 256, /dev/pts/0
    image.write_bytes(data.replace(b"\x40\x80\x90\x02", b"\x40\x81\x90\x02"))
    before = terminals_open("self")
    with pytest.raises(SandboxBrokenError, match="nobody gave it"):
        await shelf.restore()
    assert terminals_open("self") == before


async def test_a_number_that_is_taken_or_too_large_is_refused_and_nothing_stays_open(keeping):
    sandbox = await keeping.sandbox(keeps_memory=True)
    site, made = sandbox._site, []
    make(site.init, Terminal(3, 0, b""), site.user, made)
    before = terminals_open("self")
    with pytest.raises(ConflictError):
        make(site.init, Terminal(3, 0, b""), site.user, made)
    with pytest.raises(UnsupportedError):
        names(site.init, [Terminal(256, 0, b"")])
    assert terminals_open("self") == before
    for descriptor in made:
        os.close(descriptor)
