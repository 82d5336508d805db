"""Containers on a real Engine: what they may not do, and what happens when things go wrong."""

import asyncio
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.plugins.docker import Docker, docker, docker_engine, docker_root, script

from faas.assembly import open_platform
from faas.config import Settings
from faas.docker.container import reserved_uids
from faas.docker.runtime import DockerRuntime
from faas.errors import (
    InvalidArgumentError,
    RuntimeUnavailableError,
    SandboxBrokenError,
    UnsupportedError,
)
from faas.ids import new_sandbox_id
from faas.images import ImageStore
from faas.model import ExecutionSpec, ExitReason, Limits, NetworkMode, RuntimeChoice
from faas.sandbox.capabilities import Capability
from faas.sandbox.conformance import Bench
from faas.sandbox.protocols import Command, RootFilesystem, SandboxSpec
from faas.tenancy import LOCAL_PRINCIPAL

__all__ = ["docker", "docker_engine", "docker_root"]
pytestmark = [pytest.mark.needs_docker, pytest.mark.timeout(180)]


def cli(docker: Docker, *arguments: str) -> str:
    argv = ["docker", "-H", docker.engine, *arguments]
    return subprocess.run(argv, stdout=-1, text=True, check=True).stdout.strip()


@pytest.fixture
async def bench(docker, docker_root, tmp_path):
    limits = Limits(memory_bytes=64 << 20, disk_bytes=8 << 20, pids_max=32)
    spec = SandboxSpec(new_sandbox_id(), docker_root, limits)
    sandbox = await docker.runtime.create(spec)
    yield Bench(sandbox, tmp_path)
    await sandbox.destroy("tested")


async def test_a_command_has_no_power_over_its_container(bench: Bench) -> None:
    await bench.run("grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status")
    lines = dict(line.split(":\t") for line in bench.stdout.decode().splitlines())
    assert {lines[name] for name in lines if name.startswith("Cap")} == {"0" * 16}
    assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")
    for script_ in ("touch /x", "mount -t tmpfs x /tmp", "mknod /tmp/n c 1 3", "chown 7 /bin/sh",
                    "ls /.faas/run", "touch /.faas/agent",
                    "echo 1 > /proc/sys/kernel/panic"):  # fmt: skip
        assert (await bench.run(script_)).code != 0, script_


async def test_nothing_of_the_host_is_in_a_container_but_the_agent(
    bench: Bench, docker: Docker
) -> None:
    await bench.run(
        "find / -name '*.sock' -not -path '/proc/*' 2>/dev/null; cut -d' ' -f5 /proc/self/mountinfo"
    )
    mounts = set(bench.stdout.decode().split())
    bound = {"/.faas/agent", "/.faas/run", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
    own = ("/proc", "/dev", "/sys", "/tmp", "/var/tmp", "/run", "/root", "/workspace")
    assert {m for m in mounts - bound if m != "/" and not m.startswith(own)} == set()
    assert "docker" not in bench.stdout.decode()


async def test_the_user_that_owns_the_agents_socket_cannot_be_taken(bench: Bench) -> None:
    for owner in ({name: uid} for name in ("uid", "gid") for uid in reserved_uids()):
        with pytest.raises(InvalidArgumentError):
            await bench.run("true", **owner)


async def test_a_memory_bomb_is_told_from_a_crash(bench: Bench) -> None:
    end = await bench.run("tail /dev/zero")
    assert (end.reason, end.code, end.signal) == (ExitReason.OUT_OF_MEMORY, 137, 9)
    assert end.memory_peak_bytes is not None
    assert end.memory_peak_bytes <= 64 << 20


async def test_a_fork_bomb_stays_within_its_processes(bench: Bench) -> None:
    end = await bench.run("for i in $(seq 200); do sleep 30 & done; wait", timeout_ms=4000)
    assert end.code != 0
    assert (await bench.run("echo alive")).code == 0


async def test_what_may_be_written_is_bounded(bench: Bench) -> None:
    for place in ("/tmp", "/workspace", "/root", "/var/tmp", "/run"):
        end = await bench.run(f"dd if=/dev/zero of={place}/f bs=1M count=16; rm {place}/f; exit 0")
        assert end.code == 0
        assert b"No space" in bench.stderr, place


@pytest.mark.parametrize("way", ["by the groups", "by the Engine"])
async def test_limits_may_be_lowered_and_raised_in_a_running_container(
    bench: Bench, way: str, monkeypatch
) -> None:
    if way == "by the Engine":
        monkeypatch.setattr(bench.sandbox._groups, "limit", lambda _: False)
    else:
        assert bench.sandbox._groups.limit(Limits(memory_bytes=80 << 20))
    await bench.sandbox.apply_limits(Limits(memory_bytes=96 << 20))
    await bench.sandbox.apply_limits(Limits(memory_bytes=16 << 20, pids_max=16))
    end = await bench.run("head -c 40000000 /dev/zero | tail")
    assert end.reason is ExitReason.OUT_OF_MEMORY


async def test_a_container_killed_from_outside_is_a_broken_sandbox(
    bench: Bench, docker: Docker
) -> None:
    process = await bench.sh("sleep 60")
    await asyncio.to_thread(cli, docker, "kill", *docker.containers())
    with pytest.raises(SandboxBrokenError):
        async with asyncio.timeout(20):
            await process.wait()
    assert not bench.sandbox.is_alive
    await bench.sandbox.destroy("it is dead")
    assert docker.containers() == []


async def test_a_destroyed_container_is_measured_no_more_and_leaves_no_descriptor(
    bench: Bench,
) -> None:
    def held() -> list[str]:
        links = [os.path.realpath(one) for one in Path("/proc/self/fd").iterdir()]
        return [link for link in links if link.startswith("/sys/fs/cgroup/")]

    before = bench.sandbox.cpu_us()
    end = await bench.run("n=0; while [ $n -lt 20000 ]; do n=$((n + 1)); done")
    assert before is not None
    assert 0 < end.cpu_us <= bench.sandbox.cpu_us() - before
    assert len(held()) == 3
    await bench.sandbox.destroy("tested")
    assert held() == []
    assert bench.sandbox.cpu_us() is None


async def test_a_container_removed_from_outside_can_still_be_destroyed(
    bench: Bench, docker: Docker
) -> None:
    await asyncio.to_thread(cli, docker, "rm", "-f", *docker.containers())
    await bench.sandbox.destroy("it is gone")


async def test_an_image_removed_from_the_engine_is_given_to_it_again(
    docker: Docker, docker_root: RootFilesystem, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    await asyncio.to_thread(subprocess.run, ["cp", "-a", docker_root.path, tree], check=True)
    (tree / "mark").write_text(docker.tag)
    root = replace(docker_root, digest=f"sha256:{docker.tag}{'0' * 56}", path=tree)
    for _ in range(2):
        sandbox = await docker.runtime.create(SandboxSpec(new_sandbox_id(), root))
        await sandbox.destroy("tested")
        await asyncio.to_thread(cli, docker, "rmi", f"faas-image:{root.digest[7:]}")


async def test_many_sandboxes_of_a_new_image_load_it_once(
    docker: Docker, docker_root: RootFilesystem, tmp_path: Path, monkeypatch
) -> None:
    root = replace(docker_root, digest=f"sha256:{docker.tag}{'1' * 56}")
    engine = docker.runtime._engine
    loads, load = [], engine.load_image

    async def counted(archive: Path) -> None:
        loads.append(archive)
        await load(archive)

    monkeypatch.setattr(engine, "load_image", counted)
    made = await asyncio.gather(
        *(docker.runtime.create(SandboxSpec(new_sandbox_id(), root)) for _ in range(4))
    )
    await asyncio.gather(*(sandbox.destroy("tested") for sandbox in made))
    assert len(loads) == 1
    await asyncio.to_thread(cli, docker, "rmi", f"faas-image:{root.digest[7:]}")


async def test_reclaim_touches_nothing_without_our_own_label(
    docker: Docker, docker_root: RootFilesystem
) -> None:
    other = Docker(docker.data_dir / "other", docker.engine)
    await other.runtime.start()
    theirs = await other.runtime.create(SandboxSpec(new_sandbox_id(), docker_root))
    image = f"faas-image:{docker_root.digest[7:]}"
    plain = await asyncio.to_thread(cli, docker, "create", "--network=none", image, "/bin/true")
    try:
        report = await docker.runtime.reclaim(keep=frozenset())
        assert report.sandboxes == 0
        assert theirs.is_alive
        assert await docker.runtime.adopt(theirs.id) is None
        assert await asyncio.to_thread(cli, docker, "inspect", "-f", "{{.Id}}", plain) == plain
    finally:
        await asyncio.to_thread(cli, docker, "rm", plain)
        await other.runtime.aclose()


async def test_a_creation_that_is_cancelled_leaves_nothing(
    docker: Docker, docker_root: RootFilesystem
) -> None:
    for pause in (0, 0.02, 0.08, 0.15):
        creating = asyncio.create_task(
            docker.runtime.create(SandboxSpec(new_sandbox_id(), docker_root))
        )
        await asyncio.sleep(pause)
        creating.cancel()
        done, _ = await asyncio.wait([creating])
        for task in done:
            if not task.cancelled():
                await task.result().destroy("it was quicker")
        assert docker.containers() == []


@pytest.mark.parametrize("host", [None, "unix:///nowhere/engine.sock", "tcp://127.0.0.1:1"])
async def test_without_an_engine_the_probe_says_how_to_get_one(
    docker: Docker, host: str | None, monkeypatch
) -> None:
    monkeypatch.setattr("faas.docker.connecting.SOCKETS", ())
    runtime = DockerRuntime(replace(docker.runtime._settings, host=host))
    report = await runtime.probe()
    assert not report.is_available
    assert report.hint
    with pytest.raises(RuntimeUnavailableError):
        await runtime.create(SandboxSpec(new_sandbox_id(), RootFilesystem("sha256:0", None)))
    await runtime.aclose()


async def test_an_oci_runtime_the_engine_lacks_is_refused_by_name(docker: Docker) -> None:
    runtime = DockerRuntime(replace(docker.runtime._settings, oci_runtime="kata"))
    with pytest.raises(RuntimeUnavailableError, match="kata"):
        await runtime.start()


async def test_what_docker_cannot_do_is_refused_by_name(
    docker: Docker, docker_root: RootFilesystem, monkeypatch
) -> None:
    with pytest.raises(UnsupportedError, match="host"):
        await docker.runtime.create(
            SandboxSpec(new_sandbox_id(), RootFilesystem(digest="host", path=None))
        )
    monkeypatch.setattr("faas.egress.firewall.shutil.which", lambda _: None)
    assert Capability.EGRESS not in docker.runtime.capabilities
    with pytest.raises(UnsupportedError, match="egress"):
        await docker.runtime.create(
            SandboxSpec(new_sandbox_id(), docker_root, network=NetworkMode.EGRESS)
        )


async def test_the_platform_runs_executions_in_warm_containers(
    docker_engine: str, tmp_path: Path
) -> None:
    settings = Settings(
        data_dir=tmp_path / "data", runtimes=("docker",), docker_host=docker_engine,
        default_image="alpine", pool_size=2,
    )  # fmt: skip
    archive = Path(__file__).parents[3] / await asyncio.to_thread(
        script, "test_images.sh", "alpine"
    )
    await ImageStore(tmp_path / "data" / "images").import_("alpine", archive)
    async with open_platform(settings) as platform:
        spec = ExecutionSpec(
            ("/bin/sh", "-c", "cat; . /etc/os-release; echo $ID"), "alpine",
            runtime=RuntimeChoice.DOCKER, stdin=b"in\n",
        )  # fmt: skip
        records = await asyncio.gather(
            *(platform.executor.execute(spec, LOCAL_PRINCIPAL) for _ in range(6))
        )
        results = [record.result for record in records]
        tag = platform.data_dir.tag
    assert {r.stdout for r in results if r} == {b"in\nbusybox\n"}
    assert {(r.runtime_used, r.isolation) for r in results if r} == {("docker", "docker+seccomp")}
    assert len({r.sandbox_id for r in results if r}) == 6
    argv = ["docker", "-H", docker_engine, "ps", "-aq", "--filter", f"label=faas.data={tag}"]
    left = await asyncio.to_thread(subprocess.run, argv, stdout=-1, check=True)
    assert left.stdout == b""


async def test_gvisor_is_taken_when_demanded_and_only_then(
    docker: Docker, docker_root: RootFilesystem, tmp_path: Path
) -> None:
    report = await docker.runtime.probe()
    assert report.isolations == ("docker+gvisor",)
    limits = Limits(memory_bytes=64 << 20)
    for demanded, is_gvisor in ((None, False), ("container", False), ("gvisor", True)):
        spec = SandboxSpec(new_sandbox_id(), docker_root, limits, isolation_min=demanded)
        bench = Bench(await docker.runtime.create(spec), tmp_path)
        await bench.run("dmesg 2>/dev/null | head -1; true")
        assert (b"gVisor" in bench.stdout) == ("gvisor" in bench.sandbox.isolation) == is_gvisor
        await bench.sandbox.destroy("tested")
    for demanded, network in (("microvm", NetworkMode.NONE), ("gvisor", NetworkMode.EGRESS)):
        spec = SandboxSpec(new_sandbox_id(), docker_root, isolation_min=demanded, network=network)
        with pytest.raises(UnsupportedError):
            await docker.runtime.create(spec)


async def test_memory_is_held_around_gvisor(
    docker: Docker, docker_root: RootFilesystem, tmp_path: Path
) -> None:
    limits = Limits(memory_bytes=96 << 20)
    spec = SandboxSpec(new_sandbox_id(), docker_root, limits, isolation_min="gvisor")
    bench = Bench(await docker.runtime.create(spec), tmp_path)
    end = await bench.run("tail /dev/zero", timeout_ms=60_000)
    assert end.reason is ExitReason.OUT_OF_MEMORY
    await bench.sandbox.destroy("tested")


async def test_a_command_without_a_shell_runs_by_argv(docker: Docker, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "tmp").mkdir(parents=True)
    root = RootFilesystem(digest=f"sha256:{docker.tag}{'2' * 56}", path=tree)
    sandbox = await docker.runtime.create(SandboxSpec(new_sandbox_id(), root))
    bench = Bench(sandbox, tmp_path)
    process = await sandbox.start("main", Command(("/.faas/agent",)), bench.output)
    assert (await process.wait()).stderr_total_bytes > 0
    await sandbox.destroy("tested")
    await asyncio.to_thread(cli, docker, "rmi", f"faas-image:{root.digest[7:]}")


async def test_what_a_dead_sandbox_left_on_the_engine_goes_and_nothing_else(
    docker: Docker, docker_root: RootFilesystem
) -> None:
    alive = await docker.runtime.create(SandboxSpec(new_sandbox_id(), docker_root))
    marks = {
        "dead": [f"faas.data={docker.tag}", "faas.sandbox=sbx-dead"],
        "alive": [f"faas.data={docker.tag}", f"faas.sandbox={alive.id}"],
        "shared": [f"faas.data={docker.tag}"],
        "theirs": ["faas.data=somebody", "faas.sandbox=sbx-dead"],
        "strange": [],
    }
    made = {
        (kind, name): await asyncio.to_thread(
            cli, docker, kind, "create", *(f"--label={mark}" for mark in labels),
            *(["--internal"] if kind == "network" else []), f"{docker.tag}-{name}",
        )
        for kind in ("network", "volume")
        for name, labels in marks.items()
    }  # fmt: skip
    try:
        await docker.runtime.reclaim(keep=frozenset())
        for kind in ("network", "volume"):
            listed = await asyncio.to_thread(cli, docker, kind, "ls", "--format={{.Name}}")
            ours = {name for name in listed.split() if name.startswith(docker.tag)}
            assert ours == {f"{docker.tag}-{name}" for name in marks if name != "dead"}
    finally:
        for (kind, name), _ in made.items():
            if name != "dead":
                await asyncio.to_thread(cli, docker, kind, "rm", f"{docker.tag}-{name}")
        await alive.destroy("tested")
