"""Attacks through layers: on the parent, on siblings, on the host that reads them."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faas.assembly import Platform, open_platform
from faas.config import Settings
from faas.errors import FaasError, InvalidArgumentError, NotFoundError, TooLargeError
from faas.ids import TenantId
from faas.model import ExecutionRecord, ExecutionSpec, Mode
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL
from faas.tenancy import Principal, Scope, Tenant

pytestmark = pytest.mark.needs_root
OTHER = Principal(Tenant(TenantId("other")), frozenset({Scope.EXECUTE}))


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as directory:
        settings = Settings(data_dir=Path(directory), runtimes=("embedded",), pool_size=0)
        async with open_platform(settings) as platform:
            yield platform


async def run(
    platform: Platform, script: str, who: Principal = LOCAL, **fields: object
) -> ExecutionRecord:
    image = "" if "snapshot_id" in fields or "branch_from" in fields else "host"
    spec = ExecutionSpec(argv=("sh", "-c", script), image=image, **fields)  # type: ignore[arg-type]
    return await platform.executor.execute(spec, who)


async def keep(platform: Platform, script: str, **fields: object) -> ExecutionRecord:
    return await run(platform, script, mode=Mode.CHECKPOINTED, **fields)


def said(record: ExecutionRecord) -> str:
    assert record.result is not None
    assert record.result.exit_code == 0, record.result.stderr
    return record.result.stdout.decode()


ATTACKS = {
    "write": "echo bad > /workspace/s",
    "append": "echo bad >> /workspace/s",
    "truncate": "truncate -s 0 /workspace/s",
    "mode": "chmod 777 /workspace/s /workspace",
    "attribute": "setfattr -n user.x -v y /workspace/s; true",
    "link": "ln /workspace/s /workspace/l && echo bad > /workspace/l",
    "rename": "mv /workspace/s /workspace/x",
    "remove": "rm -rf /workspace/s /workspace/d",
    "map": (
        "python3 -c \"import mmap; f = open('/workspace/s', 'r+b');"
        " m = mmap.mmap(f.fileno(), 0); m[:4] = b'evil'; m.flush()\""
    ),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_a_child_cannot_change_what_its_siblings_start_from(
    platform: Platform, attack: str
) -> None:
    base = await keep(
        platform, "echo good > /workspace/s; mkdir /workspace/d; touch /workspace/d/f"
    )
    look = "cat /workspace/s; stat -c %a /workspace/s /workspace; ls /workspace /workspace/d"
    before = said(await run(platform, look, snapshot_id=base.id))

    said(await run(platform, attack, snapshot_id=base.id))

    assert said(await run(platform, look, snapshot_id=base.id)) == before


async def test_a_pipe_and_a_lock_in_a_layer_are_each_childs_own(platform: Platform) -> None:
    base = await keep(platform, "mkfifo /workspace/p; touch /workspace/lock")
    hold = "flock /workspace/lock -c 'exec 3<>/workspace/p; echo up; sleep 20'"
    spec = ExecutionSpec(argv=("sh", "-c", hold), image="", snapshot_id=base.id)
    holder = await platform.executor.submit(spec, LOCAL)
    logs = platform.executor.logs(holder.id, LOCAL)
    while logs.progress().stdout_bytes == 0:
        await logs.changed(logs.progress())
    try:
        other = await run(
            platform,
            "flock -n /workspace/lock true || exit 3;"
            " timeout 1 sh -c 'echo x > /workspace/p'; echo $?",
            snapshot_id=base.id,
        )
        assert said(other).strip() == "124"
    finally:
        await platform.executor.cancel(holder.id, LOCAL)


async def test_another_tenant_finds_neither_snapshot_nor_layer(platform: Platform) -> None:
    kept = await keep(platform, "echo secret > /workspace/s")
    ended = await run(platform, "echo secret > /workspace/s")
    assert kept.result is not None
    for reference in (kept.id, kept.result.snapshot_id, ended.id):
        with pytest.raises(NotFoundError):
            await run(
                platform, "cat /workspace/s", OTHER, branch_from=reference, mode=Mode.BRANCHED
            )
    child = await run(platform, "true", branch_from=ended.id, mode=Mode.BRANCHED)
    with pytest.raises(NotFoundError):
        await run(platform, "true", OTHER, branch_from=child.spec.snapshot_id, mode=Mode.BRANCHED)


async def test_mounts_tell_nothing_of_other_layers(platform: Platform) -> None:
    base = await keep(platform, "echo x > /workspace/s")
    seen = said(await run(platform, "cat /proc/self/mountinfo", snapshot_id=base.id))
    assert "snap-" not in seen
    assert "faas-layers" not in seen
    [root] = [line for line in seen.splitlines() if " / / " in line]
    assert str(platform.data_dir.path) not in root


async def test_a_file_that_says_it_is_endless_is_refused(platform: Platform) -> None:
    with pytest.raises(TooLargeError):
        await keep(platform, "truncate -s 4T /workspace/endless")
    ran = await run(platform, "truncate -s 4T /workspace/endless; echo x > /workspace/s")
    with pytest.raises(FaasError):
        await platform.executor.origins.snapshot_of(ran.id, LOCAL)


async def test_folders_without_end_are_refused(platform: Platform) -> None:
    deep = "import os\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')"
    with pytest.raises(InvalidArgumentError):
        await keep(platform, f'cd /workspace && python3 -c "{deep}"')


async def test_marks_of_overlays_made_by_hand_hide_only_the_makers_own(platform: Platform) -> None:
    """In `host` the writable layer is no overlay, so whatever a command marks there is bare."""
    marks = (
        "import os\nos.makedirs('/workspace/d')\nopen('/workspace/d/f', 'w').write('x')\n"
        "for name in ('opaque', 'redirect', 'metacopy', 'whiteout', 'origin'):\n"
        "    for path in ('/workspace/d', '/workspace/d/f'):\n"
        "        try: os.setxattr(path, 'user.overlay.' + name, b'/../../../etc')\n"
        "        except OSError: pass\n"
        "os.setxattr('/workspace/d', 'user.overlay.opaque', b'y')\n"
        "try: os.mknod('/usr-x', 0o020000, 0)\nexcept OSError: pass\n"
    )
    base = await keep(platform, f"cat > /tmp/m.py <<'E'\n{marks}\nE\npython3 /tmp/m.py")
    seen = said(await run(platform, "cat /workspace/d/f; ls /workspace/d", snapshot_id=base.id))
    assert seen.removeprefix("x") == "f\n"  # the kernel may refuse to read a file so marked


async def test_a_place_of_the_machine_that_was_moved_away_leads_nowhere(platform: Platform) -> None:
    base = await keep(platform, "mv /sys /moved; ln -s /workspace /sys; ls -d /moved")
    look = "ls /workspace; cat /proc/self/status | head -1; ls /dev/null"
    assert "/dev/null" in said(await run(platform, look, snapshot_id=base.id))
