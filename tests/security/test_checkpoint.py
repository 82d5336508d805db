"""What a sandbox that keeps memory must not get from being kept."""

import pytest

from faas.criu.images import private_copy
from faas.errors import DataLossError, UnsupportedError
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


async def test_another_user_inside_is_refused(keeping, kept):
    sandbox, _ = kept
    with pytest.raises(UnsupportedError):
        await keeping.sh(sandbox, "id", uid=1000, is_exclusive=False)
