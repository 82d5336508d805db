"""Archives and paths that try to lead elsewhere, from outside in and from inside out."""

import io
import tarfile

import pytest

from faas.errors import FaasError, InvalidArgumentError
from faas.model import FileInput
from faas.sandbox.protocols import FileKind

pytestmark = pytest.mark.needs_root


def tar_of(*members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def member(name, **fields):
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "name", ["/etc/evil", "../evil", "a/../../evil", "..", "a/b/../../../evil"]
)
async def test_names_that_lead_outside_are_refused(embedded, sandbox, name):
    with pytest.raises(InvalidArgumentError):
        await sandbox.put_archive(tar_of((member(name), b"evil")), path="/workspace")
    assert (await embedded.sh(sandbox, "find / -xdev -name evil")).text == ""


async def test_a_symlink_on_the_way_is_not_followed(embedded, sandbox):
    archive = tar_of(
        (member("out", type=tarfile.SYMTYPE, linkname="/tmp"), b""), (member("out/evil"), b"evil")
    )
    with pytest.raises(FaasError):
        await sandbox.put_archive(archive, path="/workspace")
    assert (await embedded.sh(sandbox, "ls /tmp")).text == ""


async def test_a_symlink_planted_by_the_command_is_not_followed(embedded, sandbox):
    await embedded.sh(sandbox, "ln -s /tmp /workspace/out")
    with pytest.raises(FaasError):
        await sandbox.put_archive(tar_of((member("out/evil"), b"evil")), path="/workspace")
    assert (await embedded.sh(sandbox, "ls /tmp")).text == ""


async def test_a_hard_link_to_outside_is_refused(embedded, sandbox):
    for target in ("/etc/passwd", "../etc/passwd"):
        link = member("h", type=tarfile.LNKTYPE, linkname=target)
        with pytest.raises(FaasError):
            await sandbox.put_archive(tar_of((link, b"")), path="/workspace")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
async def test_special_files_are_refused(embedded, sandbox, kind):
    node = member("node", type=kind, devmajor=1, devminor=1)
    with pytest.raises(InvalidArgumentError):
        await sandbox.put_archive(tar_of((node, b"")), path="/workspace")
    assert (await embedded.sh(sandbox, "ls /workspace")).text == ""


async def test_noise_is_refused(sandbox):
    with pytest.raises(FaasError):
        await sandbox.put_archive(b"\x01" * 10_000, path="/workspace")


async def test_a_cut_off_archive_is_refused(sandbox):
    whole = tar_of((member("big"), bytes(100_000)))
    with pytest.raises(FaasError):
        await sandbox.put_archive(whole[:50_000], path="/workspace")


async def test_an_archive_larger_than_the_disk_is_refused(embedded):
    from faas.model import Limits

    box = await embedded.sandbox(limits=Limits(disk_bytes=1 << 20))
    with pytest.raises(FaasError):
        await box.put_archive(tar_of((member("big"), bytes(4 << 20))), path="/workspace")
    await box.destroy("tested")


async def test_reading_a_pipe_does_not_hang(embedded, sandbox):
    await embedded.sh(sandbox, "mkfifo /tmp/pipe")
    with pytest.raises(InvalidArgumentError):
        await sandbox.read_file("/tmp/pipe")


async def test_reading_a_device_is_refused(sandbox):
    with pytest.raises(InvalidArgumentError):
        await sandbox.read_file("/dev/zero")


async def test_a_link_of_the_commands_does_not_lead_the_agent_out(embedded, sandbox):
    """It may be followed inside; there is nothing outside to be reached."""
    await embedded.sh(sandbox, "ln -s /../../../../etc/shadow /tmp/link; ln -s /proc/1/root /tmp/r")
    for path in ("/tmp/link", "/tmp/r/etc/shadow", "/proc/1/environ", "/proc/1/mem"):
        with pytest.raises(FaasError):
            await sandbox.read_file(path)


async def test_names_of_hostile_files_come_out_as_they_are(embedded, sandbox):
    await embedded.python(sandbox, r"open(b'/tmp/\xff\n\x1b[2J', 'w').close()")
    (entry,) = await sandbox.list_dir("/tmp")
    assert entry.name == "\udcff\n\x1b[2J"
    assert entry.kind is FileKind.FILE


async def test_a_tar_out_of_hostile_links_holds_links_not_targets(embedded, sandbox):
    await embedded.sh(sandbox, "cd /workspace; ln -s /etc/passwd p; ln -s / root; echo x > f")
    data = b"".join([chunk async for chunk in sandbox.get_archive("/workspace")])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        kinds = {info.name.rpartition("/")[2]: info.type for info in archive}
    assert kinds["p"] == kinds["root"] == tarfile.SYMTYPE
    assert kinds["f"] == tarfile.REGTYPE


@pytest.mark.parametrize("path", ["relative", "", "/a\0b", "/" + "x" * 5000])
async def test_nonsense_paths_are_the_callers_mistake(sandbox, path):
    with pytest.raises(InvalidArgumentError):
        await sandbox.put_files((FileInput(path, b"x"),))
    with pytest.raises(InvalidArgumentError):
        await sandbox.stat(path)
