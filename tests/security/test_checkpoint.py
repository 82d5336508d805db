"""What a sandbox that keeps memory must not get from being kept."""

import asyncio
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from tests.plugins.docker import script

from faas.criu.images import private_copy
from faas.errors import DataLossError, UnsupportedError
from faas.images import ImageStore
from faas.model import FileInput
from faas.sandbox.protocols import Command

pytestmark = [pytest.mark.needs_criu, pytest.mark.needs_root]

LOOK = """
import os
seen = set()
while not os.path.exists("/tmp/stop"):
    for place in ("", "/tree", "/images", "/plugins", "/preload.so"):
        try: seen.add(place + " " + ",".join(os.listdir("/proc/fs" + place)))
        except OSError as error: seen.add(type(error).__name__)
        try: open("/proc/fs/images/core-1.img", "w"); seen.add("written")
        except OSError as error: seen.add(type(error).__name__)
print(sorted(seen))
"""


@pytest.fixture
async def kept(keeping):
    sandbox = await keeping.sandbox(keeps_memory=True)
    output = keeping.output()
    command = Command(("/bin/sh", "-c", "while :; do :; done"), timeout_ms=0, is_exclusive=False)
    await sandbox.start("main", command, output)
    images = keeping.data_dir / "memory" / "images"
    images.mkdir(parents=True)
    yield sandbox, images
    await sandbox.destroy("tested")


async def test_its_root_is_no_root_and_has_no_power(keeping, kept):
    sandbox, _ = kept
    ran = await keeping.sh(
        sandbox, "id -u; grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status", is_exclusive=False
    )
    words = ran.text.split()
    assert int(words[0]) >= 0x7000_0000
    values = dict(zip(words[1::2], words[2::2], strict=True))
    assert {v for k, v in values.items() if k.startswith("Cap")} == {"0" * 16}
    assert (values["NoNewPrivs:"], values["Seccomp:"]) == ("1", "2")


async def test_what_criu_believes_can_neither_be_changed_nor_replaced(keeping, kept):
    sandbox, _ = kept
    tries = (
        "echo x > /run/criu.kdat",
        "rm -f /run/criu.kdat",
        "mv /run/criu.kdat /run/other",
        "mv /run /gone",
        "ln -sf /tmp/x /run/criu.kdat",
        "umount /run/criu.kdat",
    )
    for attempt in tries:
        ran = await keeping.sh(sandbox, attempt, is_exclusive=False)
        assert ran.code != 0, attempt


async def test_nobody_inside_sees_the_images_or_the_tools_while_it_is_kept(keeping, kept):
    """The onlooker runs beside what is taken until it is stopped itself."""
    sandbox, images = kept
    output = keeping.output()
    command = Command(("/usr/bin/python3", "-c", LOOK), timeout_ms=0, is_exclusive=False)
    looking = await sandbox.start("look", command, output)
    for turn in range(3):
        target = images / str(turn)
        target.mkdir()
        async with sandbox.processes_taken(target):
            pass
    await sandbox.write_file("/tmp/stop", b"")
    await looking.wait()
    seen = eval(output.stdout.read_text())
    assert not [what for what in seen if "tree" in what or "core" in what or what == "written"]
    assert "PermissionError" in seen


async def test_images_whose_processes_have_another_user_are_refused(kept, keeping):
    sandbox, images = kept
    async with sandbox.processes_taken(images):
        pass
    with pytest.raises(DataLossError):
        private_copy(images / "0", images / "own", old=0, new=sandbox._site.user)
    core = next((images / "0").glob("core-*.img"))
    core.write_bytes(core.read_bytes()[:-40])
    with pytest.raises(DataLossError):
        private_copy(
            images / "0", images / "cut", old=sandbox._site.user, new=sandbox._site.user + 65_536
        )


EVIL = """
#include <fcntl.h>
__attribute__((constructor)) static void strike(void) {
    open("/tmp/owned", O_CREAT | O_WRONLY, 0644);
}
"""


NAME_IT = """
echo /tmp/evil.so > /etc/ld.so.preload; echo nonsense > /etc/ld.so.cache; echo named
while :; do sleep 0.05; done
"""


async def test_the_loader_of_criu_loads_nothing_that_a_sandbox_names(keeping, tmp_path):
    """As `/etc/ld.so.preload` of an imported image, which is the sandbox's to write."""
    (tmp_path / "evil.c").write_text(EVIL)
    machine = platform.machine().replace("arm64", "aarch64")
    build = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu"]
    flags = ["-shared", "-fPIC", "-o", tmp_path / "evil.so", tmp_path / "evil.c"]
    subprocess.run([*build, *flags], check=True)
    store = ImageStore(tmp_path / "images")
    await store.import_("alpine", Path(script("test_images.sh", "alpine")))
    sandbox = await keeping.sandbox(keeps_memory=True, root=store.resolve("alpine"))
    await sandbox.put_files((FileInput("/tmp/evil.so", (tmp_path / "evil.so").read_bytes()),))
    output = keeping.output()
    await sandbox.start("main", Command(("/bin/sh", "-c", NAME_IT), timeout_ms=0), output)
    async with asyncio.timeout(20):
        while not output.stdout.exists() or b"named" not in output.stdout.read_bytes():
            await asyncio.sleep(0.01)
    images = keeping.data_dir / "memory" / "images"
    images.mkdir(parents=True)
    async with sandbox.processes_taken(images):
        pass
    assert [one.name for one in await sandbox.list_dir("/tmp")] == ["evil.so"]
    await sandbox.destroy("tested")


async def test_another_user_inside_is_refused(keeping, kept):
    sandbox, _ = kept
    with pytest.raises(UnsupportedError):
        await keeping.sh(sandbox, "id", uid=1000, is_exclusive=False)
