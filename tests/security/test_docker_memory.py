"""What a container that keeps memory must not get from being kept, or from going on."""

import asyncio
import json
import os
import platform
import subprocess
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from tests.plugins.criu import criu_prefix
from tests.plugins.docker import REPOSITORY, Docker, docker_engine, script
from tests.security.conftest import PRELUDE

from faas.criu import processes
from faas.criu.site import FirstProcess
from faas.docker.work_dir import WorkDir
from faas.embedded.syscall_numbers import NUMBERS
from faas.embedded.user_slots import FIRST_SLOT, first_uid
from faas.errors import UnsupportedError
from faas.ids import new_sandbox_id
from faas.images import ImageStore
from faas.sandbox.capabilities import Capability, Resumption
from faas.sandbox.protocols import Command, OutputFiles, RootFilesystem, SandboxSpec

__all__ = ["docker_engine"]
pytestmark = [
    pytest.mark.needs_criu,
    pytest.mark.needs_root,
    pytest.mark.needs_docker,
    pytest.mark.timeout(180),
]
NR = NUMBERS[platform.machine().replace("arm64", "aarch64")]
SECONDS = 60


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    store = ImageStore(tmp_path_factory.mktemp("images"))
    asyncio.run(store.import_("python", REPOSITORY / script("test_images.sh", "python")))
    return store.resolve("python")


@pytest.fixture
async def docker(docker_engine, tmp_path):
    prefix = criu_prefix()
    if prefix is None or os.geteuid() != 0:
        pytest.skip("needs root and CRIU: scripts/criu.sh .faas/criu")
    made = Docker(tmp_path / "data", docker_engine, criu_prefix=prefix)
    await made.runtime.start()
    yield made
    await made.runtime.aclose()
    assert made.containers(label="faas.data") == []


class Kept:
    """One container, and what is run in it."""

    def __init__(self, sandbox, place: Path):
        self.sandbox, self.place, self.count = sandbox, place, 0

    def output(self) -> OutputFiles:
        self.count += 1
        name = f"{self.sandbox.id}-{self.count}"
        return OutputFiles(self.place / f"{name}.out", self.place / f"{name}.err")

    async def begin(self, program: str, *argv: str, **options):
        output = self.output()
        argv = argv or ("python3", "-c", PRELUDE + textwrap.dedent(program))
        command = Command(argv, timeout_ms=60_000, is_exclusive=False, **options)
        return await self.sandbox.start(f"c{self.count}", command, output), output

    async def says(self, program: str, *argv: str, **options) -> str:
        process, output = await self.begin(program, *argv, **options)
        await process.wait()
        assert b"Traceback" not in output.stderr.read_bytes(), output.stderr.read_text()
        return output.stdout.read_text()


@pytest.fixture
def new(docker, root, tmp_path):
    async def make(**more) -> Kept:
        spec = SandboxSpec(new_sandbox_id(), root, keeps_memory=True, **more)
        return Kept(await docker.runtime.create(spec), tmp_path)

    return make


async def until(is_so) -> None:
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.sleep(0.01)


WAITS = """
print("ready", flush=True)
while not os.path.exists("/tmp/go"):
    time.sleep(0.01)
"""


async def moved(new, tmp_path, program: str):
    """Begin a program, take it once it waits, and have it go on elsewhere; what it says there."""
    first = await new()
    process, output = await first.begin("import time\n" + WAITS + textwrap.dedent(program))
    await until(lambda: b"ready" in output.stdout.read_bytes())
    images = tmp_path / "memory" / "images"
    images.mkdir(parents=True)
    async with first.sandbox.processes_taken(images):
        pass
    await process.kill()
    second = await new(is_refilled=True)
    after = second.output()
    resumption = Resumption("c1", after, is_continued=False)
    [again] = (await second.sandbox.restore_processes(images, {"": resumption})).values()
    return first, second, again, after


def status(kept: Kept) -> list[dict[str, str]]:
    site = kept.sandbox.site
    pids = [site.init, *(one.pid for one in processes.below(site.init))]
    return [processes.privileges(pid) for pid in pids]


async def test_what_goes_on_has_no_more_power_than_it_had(new, tmp_path):
    first, second, *_ = await moved(new, tmp_path, "")
    for kept in (first, second):
        for has in status(kept):
            user = str(kept.sandbox.site.user)
            assert set(has["Uid"].split()) | set(has["Gid"].split()) == {user}
            assert has["Groups"] == ""
            powers = {value for name, value in has.items() if name.startswith("Cap")}
            assert powers == {"0" * 16}
            assert (has["NoNewPrivs"], has["Seccomp"]) == ("1", "2")
    assert first.sandbox.site.user != second.sandbox.site.user


async def test_the_filter_holds_what_goes_on(new, tmp_path):
    calls = {name: NR[name] for name in ("mount", "unshare", "bpf", "keyctl", "io_uring_setup")}
    _, second, again, after = await moved(
        new,
        tmp_path,
        f"""
        for name, number in {calls}.items():
            print(name, call(number, 0, 0, 0, 0, 0, 0))
        """,
    )
    await second.sandbox.write_file("/tmp/go", b"")
    await again.wait()
    words = after.stdout.read_text().split()
    assert words == [word for name in calls for word in (name, "EPERM")]


async def test_what_goes_on_sees_its_container_and_nothing_of_the_host(new, tmp_path):
    _, second, again, after = await moved(
        new,
        tmp_path,
        """
        for space in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
            print(space, os.readlink(f"/proc/self/ns/{space}"))
        print("pids", *sorted(int(p) for p in os.listdir("/proc") if p.isdigit()))
        print("fds", *[os.readlink(f"/proc/self/fd/{f}") for f in os.listdir("/proc/self/fd")
                       if os.path.lexists(f"/proc/self/fd/{f}")])
        print("root", *os.listdir("/"))
        print("place", tried(lambda: os.listdir("/proc/fs/tree")))
        print("init", tried(lambda: os.open("/proc/1/root", os.O_RDONLY)))
        print("socket", tried(lambda: os.open("/.faas/run/agent.sock", os.O_RDONLY)))
        print("kdat", tried(lambda: os.unlink("/run/criu.kdat")))
        """,
    )
    await second.sandbox.write_file("/tmp/go", b"")
    await again.wait()
    lines = after.stdout.read_text().splitlines()
    said = {line.split()[0]: line.split()[1:] for line in lines}
    init = second.sandbox.site.init
    for space in ("cgroup", "ipc", "mnt", "net", "pid", "uts"):
        theirs = str(Path(f"/proc/{init}/ns/{space}").readlink())
        assert said[space] == [theirs]
        assert theirs != str(Path(f"/proc/self/ns/{space}").readlink())
    assert len(said["pids"]) <= 3  # the agent, itself, perhaps a worker of the agent
    kinds = {what.split("[")[0] for what in said["fds"]}
    assert kinds <= {"/dev/null", "pipe:", "/proc/"} | {w for w in kinds if w.startswith("/proc/")}
    for what in ("place", "init", "socket", "kdat"):
        assert "allowed" not in said[what], what


async def test_what_goes_on_is_held_by_the_limits_of_its_container(new, tmp_path):
    _, second, *_ = await moved(new, tmp_path, "")
    site = second.sandbox.site
    groups = {processes.groups(one.pid) for one in processes.below(site.init)}
    assert groups == {processes.groups(site.init)}
    assert groups != {processes.groups(os.getpid())}


LOOK = """
seen = set()
print("ready", flush=True)
while not os.path.exists("/tmp/stop"):
    for place in ("", "/tree", "/images", "/plugins", "/preload.so", "/loader"):
        try: seen.add(place + " " + ",".join(os.listdir("/proc/fs" + place)))
        except OSError as error: seen.add(type(error).__name__)
        try: open("/proc/fs/images/core-1.img", "w"); seen.add("written")
        except OSError as error: seen.add(type(error).__name__)
print(json.dumps(sorted(seen)))
"""


async def test_nobody_inside_sees_the_images_or_the_tools_while_it_is_kept(new, tmp_path):
    kept = await new()
    process, output = await kept.begin("import json\n" + LOOK)
    await until(lambda: b"ready" in output.stdout.read_bytes())
    for turn in range(3):
        images = tmp_path / "memory" / str(turn) / "images"
        images.mkdir(parents=True)
        async with kept.sandbox.processes_taken(images):
            pass
    await kept.sandbox.write_file("/tmp/stop", b"")
    await process.wait()
    seen = json.loads(output.stdout.read_text().splitlines()[-1])
    assert not [what for what in seen if "tree" in what or "core" in what or what == "written"]
    assert "PermissionError" in seen


async def test_what_criu_believes_can_neither_be_changed_nor_replaced(new):
    kept = await new()
    said = await kept.says(
        """
        for act in (lambda: open("/run/criu.kdat", "ab"), lambda: os.unlink("/run/criu.kdat"),
                    lambda: os.rename("/run/criu.kdat", "/run/other"),
                    lambda: os.rename("/run", "/gone"),
                    lambda: os.symlink("/tmp/x", "/run/criu.kdat"),
                    lambda: open("/etc/ld.so.preload", "w")):
            print(tried(act))
        """
    )
    assert "allowed" not in said
    assert len(said.splitlines()) == 6


async def test_the_agent_can_neither_be_reached_nor_ended_by_its_own_user(new):
    kept = await new()
    said = await kept.says(
        f"""
        import signal, socket
        for path in ("/proc/1/root", "/proc/1/mem", "/proc/1/environ", "/proc/1/fd"):
            print(tried(lambda: os.open(path, os.O_RDONLY)))
        print(tried(lambda: os.listdir("/.faas/run")), call({NR["ptrace"]}, 16, 1, 0, 0))
        agent = socket.socket(socket.AF_UNIX)
        print(tried(lambda: agent.connect("/.faas/run/agent.sock")))
        for number in (9, 15, 19, 11):
            try: os.kill(1, number)
            except OSError: pass
        """
    )
    assert "allowed" not in said.replace("('allowed', None)", "allowed")
    assert (await kept.says("print('lives')")) == "lives\n"


async def test_another_user_inside_is_refused(new):
    kept = await new()
    with pytest.raises(UnsupportedError):
        await kept.says("", "id", uid=1000, gid=1000)


async def test_no_two_containers_share_a_user_nor_one_with_an_embedded_sandbox(new):
    users = [(await new()).sandbox.site.user for _ in range(3)]
    assert len(set(users)) == 3
    assert max(users) < first_uid(FIRST_SLOT)


async def test_whose_agent_is_not_the_process_the_engine_names_is_refused_from_then_on(docker, new):
    """As on an Engine in a virtual machine: its numbers are those of strangers here."""
    kept = await new()
    stranger = replace(kept.sandbox.site, first=FirstProcess.find(os.getpid()))
    work_dir = WorkDir(kept.sandbox.site.directory)
    spec = SandboxSpec(new_sandbox_id(), RootFilesystem("sha256:1", None), keeps_memory=True)
    with pytest.raises(UnsupportedError, match="not on this machine"):
        await docker.runtime._memory.make_ready(work_dir, stranger, spec)
    assert Capability.MEMORY_SNAPSHOT not in docker.runtime.capabilities
    with pytest.raises(UnsupportedError, match="not on this machine"):
        await new()


async def test_the_container_itself_is_given_nothing_it_could_keep(docker, new):
    await new()
    argv = ["docker", "-H", docker.engine, "inspect", *docker.containers()]
    done = await asyncio.to_thread(subprocess.run, argv, stdout=-1, check=True)
    [told] = json.loads(done.stdout)
    allowed = {"CAP_DAC_OVERRIDE", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"}
    assert {f"CAP_{n.removeprefix('CAP_')}" for n in told["HostConfig"]["CapAdd"]} == allowed
    assert told["HostConfig"]["Privileged"] is False
    writable = [m["Destination"] for m in told["Mounts"] if m["Type"] == "bind" and m["RW"]]
    assert writable == ["/.faas/run"]
