"""Imported images run in real sandboxes."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from faas.images import ImageStore
from faas.sandbox.protocols import RootFilesystem

pytestmark = pytest.mark.needs_root

REPOSITORY = Path(__file__).parents[3]


def made(name: str) -> Path:
    """Make a test image, once, and return its tar."""
    script = REPOSITORY / "scripts" / "test_images.sh"
    done = subprocess.run([script, name], stdout=-1, check=True, text=True, cwd=REPOSITORY)
    return REPOSITORY / done.stdout.strip()


async def imported(directory: Path, name: str, reference: str) -> RootFilesystem:
    store = ImageStore(directory / "images")
    await store.import_(reference, await asyncio.to_thread(made, name))
    return store.resolve(reference)


async def test_a_busybox_image_runs_its_own_programs_and_nothing_of_the_host(embedded) -> None:
    root = await imported(embedded.data_dir, "alpine", "alpine")
    sandbox = await embedded.sandbox(root=root)
    try:
        ran = await embedded.sh(sandbox, ". /etc/os-release; echo $ID; ls -l /proc/self/exe")
        assert ran.text.startswith("busybox\n"), ran
        assert ran.text.rstrip().endswith("/bin/busybox"), ran
        assert sandbox.image_digest == root.digest
    finally:
        await sandbox.destroy("tested")


async def test_root_in_the_sandbox_owns_the_image_and_writes_stay_in_the_sandbox(embedded) -> None:
    root = await imported(embedded.data_dir, "alpine", "alpine")
    first, second = await embedded.sandbox(root=root), await embedded.sandbox(root=root)
    try:
        ran = await embedded.sh(first, "stat -c %u:%g /bin/busybox; echo mine > /etc/passwd")
        assert (ran.code, ran.text) == (0, "0:0\n"), ran
        ran = await embedded.sh(second, "head -1 /etc/passwd")
        assert ran.text.startswith("root:"), ran
        assert root.path is not None
        assert (root.path / "etc/passwd").read_text().startswith("root:")
    finally:
        await first.destroy("tested")
        await second.destroy("tested")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "argv", "expected"),
    [
        ("python", ("python3", "-c", "import json, asyncio; print(json.dumps([1]))"), "[1]\n"),
        ("node", ("node", "-e", "console.log(1 + 1)"), "2\n"),
    ],
)
async def test_an_interpreter_image_runs_programs(embedded, name, argv, expected) -> None:
    root = await imported(embedded.data_dir, name, f"{name}:test")
    sandbox = await embedded.sandbox(root=root)
    try:
        ran = await embedded.run(sandbox, *argv)
        assert (ran.code, ran.text) == (0, expected), ran
    finally:
        await sandbox.destroy("tested")
