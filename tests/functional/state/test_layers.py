"""Children on layers: as fast whatever the state holds, and the same as if it had been unpacked."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.plugins.criu import criu_prefix

from faas.assembly import Platform, open_platform
from faas.config import Settings
from faas.errors import StoreUnavailableError, TooLargeError
from faas.executor.keeping import Keeping
from faas.executor.layers import ReadyLayers
from faas.model import ExecutionRecord, ExecutionSpec, ExecutionState, FileInput, Limits, Mode
from faas.sandbox.capabilities import Capability
from faas.sandbox.layers import STACK_MAX
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL

pytestmark = pytest.mark.needs_root

MB = 1 << 20


@asynccontextmanager
async def opened(directory: str, **fields: object) -> AsyncIterator[Platform]:
    settings = Settings(data_dir=Path(directory), runtimes=("embedded",), pool_size=0, **fields)  # type: ignore[arg-type]
    async with open_platform(settings) as platform:
        yield platform


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as directory:
        async with opened(directory) as platform:
            yield platform


async def run(platform: Platform, script: str, image: str = "host", **fields: object):
    image = "" if "branch_from" in fields or "snapshot_id" in fields else image
    spec = ExecutionSpec(argv=("sh", "-c", script), image=image, **fields)  # type: ignore[arg-type]
    return await platform.executor.execute(spec, LOCAL)


async def keep(platform: Platform, script: str, **fields: object) -> ExecutionRecord:
    return await run(platform, script, mode=Mode.CHECKPOINTED, **fields)


def said(record: ExecutionRecord) -> str:
    assert record.result is not None
    assert record.result.exit_code == 0, record.result.stderr
    return record.result.stdout.decode()


def layers_of(platform: Platform) -> ReadyLayers:
    return keeping_of(platform).layers


def keeping_of(platform: Platform) -> Keeping:
    return platform.executor.origins._keeping


async def forget_layers(platform: Platform) -> None:
    """As memory pressure or a restart does."""
    layers = layers_of(platform)
    for key in list(layers._stacks):
        layers.forget(key[1])
    while layers.count:
        await asyncio.sleep(0)


WORK = """
mkdir -p /workspace/d/e /opt/new; echo a > /workspace/d/a; echo b > /workspace/d/e/b
ln -s d/a /workspace/link; chmod 640 /workspace/d/a; chmod 700 /opt/new; echo x > /opt/new/x
printf 'a\\0b' > /workspace/bin; truncate -s 3M /workspace/holes; echo end >> /workspace/holes
"""
CHANGE = """
echo A >> /workspace/d/a; rm -r /workspace/d/e; mkdir /workspace/d/e; echo c > /workspace/d/e/c
rm /workspace/link; mkdir /workspace/link; mv /opt/new /opt/newer 2>/dev/null || (
cp -a /opt/new /opt/newer && rm -r /opt/new); rm /workspace/holes
"""
SEE = "cd /; find workspace opt -type f -exec sha256sum {} + | sort; find workspace opt | sort"
SEE += " | xargs stat -c '%n %F %a %u' | grep -v directory.empty; ls -R workspace opt"


async def test_a_rebuilt_state_is_the_one_that_was_kept(platform: Platform) -> None:
    base = await keep(platform, WORK)
    child = await keep(platform, CHANGE, snapshot_id=base.id)
    at_once = said(await run(platform, SEE, snapshot_id=child.id))
    await forget_layers(platform)

    rebuilt = said(await run(platform, SEE, snapshot_id=child.id))

    assert rebuilt == at_once
    assert "workspace/d/e/c" in rebuilt
    assert "link regular" not in rebuilt


async def test_a_snapshot_is_the_same_by_layer_and_by_tar(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = platform.executor.origins.snapshots
    by_layer = await keep(platform, CHANGE, snapshot_id=(await keep(platform, WORK)).id)
    runtime = platform.registry.get("embedded")
    able = runtime.capabilities - {Capability.FILE_LAYERS}
    monkeypatch.setattr(type(runtime), "capabilities", able)
    monkeypatch.setattr("faas.embedded.sandbox.EmbeddedSandbox.look", no_layer)
    by_tar = await keep(platform, CHANGE, snapshot_id=(await keep(platform, WORK)).id)

    changes = await store.diff(by_layer.id, by_tar.id)

    assert changes == []


def no_layer(self: object) -> object:
    from faas.errors import UnsupportedError

    raise UnsupportedError("for this test")


async def test_a_checkpoint_of_a_child_stores_what_it_changed(platform: Platform) -> None:
    base = await keep(platform, "head -c 40000000 /dev/urandom > /workspace/big")
    store = platform.executor.origins.snapshots
    stored = 0
    for number in range(4):
        child = await keep(
            platform,
            f"dd if=/dev/urandom of=/workspace/big bs=1M seek={number * 7} count=1 conv=notrunc",
            snapshot_id=base.id,
        )
        stored += (await store.get(child.id)).stored_bytes
        assert (await store.get(child.id)).size_bytes == 40_000_000
    assert stored <= 4 * 1.2 * MB


async def test_a_long_line_of_children_stays_shallow(platform: Platform) -> None:
    record = await keep(platform, "echo 0 > /workspace/n")
    for number in range(STACK_MAX + 3):
        record = await keep(
            platform, f"echo {number} > /workspace/f{number}; ls /workspace | wc -l",
            snapshot_id=record.id,
        )  # fmt: skip
        assert said(record).strip() == str(number + 2)
        stacks = layers_of(platform)._stacks.values()
        assert max(len(stack.layers) for stack in stacks) <= STACK_MAX
    manifest = await platform.executor.origins.snapshots.manifest(record.id)
    assert len(manifest.packs) == len(set(manifest.packs))


async def test_layers_are_bounded_in_memory_and_made_anew() -> None:
    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as directory:
        async with opened(directory, layers_bytes_max=8 * MB) as platform:
            kept = [
                await keep(platform, f"head -c 3000000 /dev/urandom > /workspace/{i}")
                for i in range(5)
            ]
            while layers_of(platform).size_bytes > 8 * MB:
                await asyncio.sleep(0)
            for number, record in enumerate(kept):
                seen = await run(platform, f"stat -c %s /workspace/{number}", snapshot_id=record.id)
                assert said(seen).strip() == "3000000"


async def test_a_fork_of_what_just_ended_does_not_wait_for_the_store(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = platform.executor.origins.snapshots
    commit, gate = store.commit, asyncio.Event()

    async def slow(*args: object, **kwargs: object):
        await gate.wait()
        return await commit(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "commit", slow)
    base = await run(platform, "echo here > /workspace/s")
    children = await asyncio.gather(
        *(run(platform, "cat /workspace/s", branch_from=base.id, mode=Mode.BRANCHED) for _ in "ab")
    )
    assert [said(child) for child in children] == ["here\n"] * 2
    assert len({child.spec.snapshot_id for child in children}) == 1

    gate.set()
    taken = await platform.executor.origins.snapshot_of(base.id, LOCAL)
    assert taken.id == children[0].spec.snapshot_id
    deeper = await keep(platform, "cat /workspace/s", snapshot_id=taken.id)
    assert (await store.get(deeper.id)).parent == taken.id


async def test_a_state_that_does_not_fit_is_refused(platform: Platform) -> None:
    base = await keep(platform, "head -c 6000000 /dev/urandom > /workspace/big")
    await forget_layers(platform)
    small = replace(Limits(), disk_bytes=2 * MB)
    with pytest.raises(TooLargeError):
        await run(platform, "true", snapshot_id=base.id, limits=small)


async def test_a_restart_finds_every_state_again() -> None:
    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as directory:
        async with opened(directory) as platform:
            base = await keep(platform, WORK)
            before = said(await run(platform, SEE, snapshot_id=base.id))
        async with opened(directory) as platform:
            assert said(await run(platform, SEE, snapshot_id=base.id)) == before


async def test_a_dead_launcher_costs_only_the_time_to_make_layers_anew(platform: Platform) -> None:
    import os
    import signal

    base = await keep(platform, "echo on > /workspace/s")
    runtime = platform.registry.get("embedded")
    before = runtime._launcher.generation
    os.kill(runtime._launcher.pid, signal.SIGKILL)
    while runtime._launcher.generation == before:
        await asyncio.sleep(0.01)
    assert said(await run(platform, "cat /workspace/s", snapshot_id=base.id)) == "on\n"


async def test_an_instance_starts_on_a_layer_and_is_kept_by_it(platform: Platform) -> None:
    from faas.executor.instance_records import InstanceSpec

    base = await keep(platform, "echo one > /workspace/s")
    instances = platform.executor.instances
    made = await instances.create(
        InstanceSpec(image="", snapshot_id=base.result.snapshot_id, limits=Limits()), LOCAL
    )
    ran = await run(
        platform, "cat /workspace/s; echo two >> /workspace/s",
        mode=Mode.PERSISTENT, instance_id=made.id,
    )  # fmt: skip
    assert said(ran) == "one\n"
    taken = await instances.snapshot(made.id, LOCAL)
    assert said(await run(platform, "cat /workspace/s", snapshot_id=taken.id)) == "one\ntwo\n"
    await instances.delete(made.id, LOCAL)
    assert ran.state is ExecutionState.FINISHED


async def test_a_full_disk_keeps_nothing_half_and_goes_on_when_there_is_room() -> None:
    import subprocess

    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as directory:
        snapshots = Path(directory, "snapshots")
        snapshots.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", snapshots], check=True)
        try:
            async with opened(directory) as platform:
                store = platform.executor.origins.snapshots
                kept = await keep(platform, "echo small > /workspace/s")
                with pytest.raises(StoreUnavailableError):
                    await keep(platform, "head -c 12000000 /dev/urandom > /workspace/big")
                assert [record.source for record in await store.page()] == [kept.id]
                await store.verify(kept.id)
                await store.collect_garbage(grace=timedelta(0))
                more = await keep(platform, "echo more >> /workspace/s", snapshot_id=kept.id)
                seen = await run(platform, "cat /workspace/s", snapshot_id=more.id)
                assert said(seen) == "small\nmore\n"
        finally:
            subprocess.run(["umount", "-l", snapshots], check=True)


IN_STEPS = """
echo mine > /etc/own; rm /etc/passwd; mkdir /srv; echo 1 > /srv/a
until [ -e /one ]; do :; done
rm -r /srv; mkdir /srv; echo 2 > /srv/b; rm /etc/own
until [ -e /two ]; do :; done
ls /etc /srv; stat -c %u /bin/busybox /srv/b / | sort -u | wc -l
"""


@pytest.mark.needs_criu
async def test_memory_over_an_imported_image_goes_on_over_layers_and_from_the_store() -> None:
    prefix, busybox = criu_prefix(), Path("/bin/busybox")
    if prefix is None or not busybox.exists():
        pytest.skip("needs CRIU (scripts/criu.sh .faas/criu) and busybox-static")

    async def go_on(platform: Platform, snapshot_id: str, step: str, slice_ms: int | None = 300):
        spec = ExecutionSpec(
            argv=(), image="", mode=Mode.CHECKPOINTED, memory=True, snapshot_id=snapshot_id,
            checkpoint_after_ms=slice_ms, files=(FileInput(step, b""),),
        )  # fmt: skip
        return (await platform.executor.execute(spec, LOCAL)).result

    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as directory:
        tree = Path(directory, "tree")
        for name in ("bin", "etc"):
            (tree / name).mkdir(parents=True)
        (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
        (tree / "bin/busybox").write_bytes(busybox.read_bytes())
        (tree / "bin/busybox").chmod(0o755)
        for word in ("sh", "rm", "mkdir", "ls", "stat", "sort", "wc"):
            (tree / "bin" / word).symlink_to("busybox")
        async with opened(f"{directory}/data", criu_prefix=str(prefix)) as platform:
            await platform.images.import_("small:1", tree)
            first = await keep(
                platform, IN_STEPS, image="small:1", memory=True, checkpoint_after_ms=300
            )
            assert first.result is not None
            second = await go_on(platform, first.result.snapshot_id, "/one")
            over = second.snapshot_id
            ended = await go_on(platform, over, "/two", None)
            assert ended.stdout.split() == [b"/etc:", b"/srv:", b"b", b"1"], ended
            await platform.executor.origins.snapshots.verify(over)
        shutil.rmtree(f"{directory}/data/memory")  # what is left is in the store
        async with opened(f"{directory}/data", criu_prefix=str(prefix)) as platform:
            again = await go_on(platform, over, "/two", None)
            assert again.stdout == ended.stdout
