"""Imported trees: their own files, their own root, and nothing written through to them."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from faas.model import Limits
from faas.sandbox.protocols import RootFilesystem

pytestmark = pytest.mark.needs_root

PROGRAMS = ("sh", "cat", "ls", "touch", "id", "stat", "rm", "mkdir", "head", "chown", "mount")


@pytest.fixture
def tree(embedded):
    """A small image of the host's own programs and their libraries."""
    root = embedded.data_dir / "image"
    for name in ("bin", "etc", "home/app", "opt"):
        (root / name).mkdir(parents=True)
    for program in PROGRAMS:
        source = Path(shutil.which(program))
        shutil.copy(source.resolve(), root / "bin" / program)
        for library in libraries(source):
            target = root / library.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copy(library, target)
    (root / "etc/motd").write_text("of the image\n")
    (root / "etc/private").write_text("for root\n")
    (root / "etc/private").chmod(0o600)
    (root / "opt/evil").symlink_to("/../../../../etc/shadow")
    os.chown(root / "home/app", 1000, 1000)
    return root


def libraries(program):
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    return [Path(word) for word in done.stdout.split() if word.startswith("/")]


def digest(root):
    """What a tree holds, by name, mode, owner and content."""
    state = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        state.update(f"{path} {info.st_mode} {info.st_uid} {info.st_size}".encode())
        if path.is_file() and not path.is_symlink():
            state.update(path.read_bytes())
    return state.hexdigest()


@pytest.fixture
async def box(embedded, tree):
    image = RootFilesystem("sha256:1", tree, env=(("FROM", "image"), ("LANG", "C")))
    made = await embedded.sandbox(root=image, limits=Limits(disk_bytes=4 << 20))
    yield made
    await made.destroy("tested")


async def test_an_image_brings_its_own_files(embedded, box):
    ran = await embedded.run(box, "cat", "/etc/motd")
    assert ran.text == "of the image\n", str(ran)
    assert box.image_digest == "sha256:1"


async def test_root_of_the_sandbox_owns_the_images_files(embedded, box):
    ran = await embedded.run(box, "stat", "-c", "%u %g", "/etc/motd", "/home/app")
    assert ran.text == "0 0\n1000 1000\n"
    assert (await embedded.run(box, "cat", "/etc/private")).text == "for root\n"


async def test_what_is_written_is_seen_inside_and_never_outside(embedded, box, tree):
    before = digest(tree)
    ran = await embedded.sh(
        box, "echo new > /etc/motd; rm /etc/private; mkdir /opt/x; cat /etc/motd; ls /opt"
    )
    assert ran.text == "new\nevil\nx\n", str(ran)
    assert digest(tree) == before


async def test_two_sandboxes_of_one_image_do_not_see_each_other(embedded, box, tree):
    other = await embedded.sandbox(root=RootFilesystem("sha256:1", tree))
    await embedded.sh(box, "echo mine > /etc/mine")
    ran = await embedded.run(other, "cat", "/etc/mine")
    assert ran.code == 1
    await other.destroy("tested")


async def test_another_user_may_write_where_the_image_lets_it(embedded, box):
    ran = await embedded.sh(box, "echo x > /home/app/x; cat /etc/private", uid=1000, gid=1000)
    assert b"Permission denied" in ran.stderr
    assert (await embedded.run(box, "cat", "/home/app/x")).text == "x\n"


async def test_the_images_environment_comes_before_the_callers(embedded, box):
    ran = await embedded.sh(box, "echo $FROM $LANG $PATH", env=(("LANG", "X"),))
    assert ran.text == "image X /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"


async def test_the_disk_limit_holds_over_an_image(embedded, box):
    ran = await embedded.sh(box, "head -c 8M /dev/zero > /opt/big")
    assert b"No space left" in ran.stderr


async def test_workspace_and_tmp_are_there_for_all(embedded, box):
    ran = await embedded.sh(box, "touch /tmp/a /workspace/b && ls /tmp /workspace", uid=7, gid=7)
    assert (ran.code, ran.text.split()) == (0, ["/tmp:", "a", "/workspace:", "b"]), str(ran)


async def test_links_in_an_image_lead_nowhere_outside(embedded, box):
    ran = await embedded.run(box, "cat", "/opt/evil")
    assert b"No such file" in ran.stderr


async def test_an_image_with_a_link_in_place_of_proc_cannot_be_mounted_elsewhere(embedded, tree):
    (tree / "proc").symlink_to("/etc")
    (tree / "dev").symlink_to("../../../../tmp")
    before = digest(tree)
    try:
        made = await embedded.sandbox(root=RootFilesystem("sha256:2", tree))
    except Exception:
        assert digest(tree) == before
        return
    ran = await embedded.run(made, "cat", "/etc/motd")
    assert digest(tree) == before
    assert "root:" not in ran.text
    await made.destroy("tested")
