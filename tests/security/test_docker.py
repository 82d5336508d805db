"""Hostile programs in a real container: on an ordinary Engine, and on one that remaps user ids."""

import asyncio
import json
import platform
import subprocess
import textwrap
from pathlib import Path

import pytest
from tests.plugins.docker import REPOSITORY, Docker, docker_engine, remapping_engine, script
from tests.security.conftest import PRELUDE

from faas.embedded.syscall_numbers import NUMBERS
from faas.ids import new_sandbox_id
from faas.images import ImageStore
from faas.model import ExitReason, Limits
from faas.sandbox.conformance import Bench
from faas.sandbox.protocols import SandboxSpec

__all__ = ["docker_engine", "remapping_engine"]
pytestmark = [pytest.mark.needs_root, pytest.mark.needs_docker, pytest.mark.timeout(180)]
NR = NUMBERS[platform.machine().replace("arm64", "aarch64")]
ENGINES = {"ordinary": "docker_engine", "remapping": "remapping_engine"}


@pytest.fixture(scope="module")
def python_root(tmp_path_factory):
    store = ImageStore(tmp_path_factory.mktemp("images"))
    archive = REPOSITORY / script("test_images.sh", "python")
    asyncio.run(store.import_("python", archive))
    return store.resolve("python")


@pytest.fixture(params=ENGINES)
async def docker(request, tmp_path):
    made = Docker(tmp_path / "data", request.getfixturevalue(ENGINES[request.param]))
    made.is_remapping = request.param == "remapping"
    await made.runtime.start()
    yield made
    await made.runtime.aclose()
    assert made.containers(label="faas.data") == []


@pytest.fixture
def new_bench(docker, python_root, tmp_path):
    count = iter(range(9))

    async def make(**limits):
        spec = SandboxSpec(new_sandbox_id(), python_root, Limits(**limits))
        place = tmp_path / f"out-{next(count)}"
        place.mkdir()
        return Bench(await docker.runtime.create(spec), place)

    return make


@pytest.fixture
async def bench(new_bench):
    return await new_bench()


@pytest.fixture
def attack(bench):
    """Run a Python program of the attacker's as root; return what it printed."""

    async def run(program, **options):
        path = "/tmp/attack.py"
        await bench.sandbox.write_file(path, (PRELUDE + textwrap.dedent(program)).encode())
        await bench.run(f"exec python3 {path}", **options)
        assert b"Traceback" not in bench.stderr, bench.stderr
        return bench.stdout.decode()

    return run


async def inspected(docker):
    """What the Engine says of the one sandbox there is."""
    argv = ["docker", "-H", docker.engine, "inspect", *docker.containers()]
    done = await asyncio.to_thread(subprocess.run, argv, stdout=-1, check=True)
    return json.loads(done.stdout)


DANGEROUS = """
    io_uring_setup bpf userfaultfd perf_event_open keyctl add_key request_key kexec_load init_module
    unshare setns open_by_handle_at name_to_handle_at mount umount2 pivot_root fsopen open_tree
    mount_setattr reboot swapon sethostname settimeofday clock_settime acct syslog fanotify_init
    process_madvise pidfd_getfd quotactl move_pages lookup_dcookie
""".split()  # noqa: SIM905  a list of quoted names reads worse


async def test_a_dangerous_call_is_refused(attack):
    calls = {name: NR[name] for name in DANGEROUS}
    said = await attack(
        f"""
        for name, number in {calls}.items():
            print(name, call(number, 0, 0, 0, 0, 0, 0))
        """
    )
    assert said.split() == [word for name in DANGEROUS for word in (name, "EPERM")]


async def test_no_new_user_namespace_by_clone(attack):
    program = (
        f"print(call({NR['clone']}, 0x10000000 | 17, 0, 0, 0, 0), call({NR['clone3']}, 0, 88))"
    )
    assert await attack(program) == "EPERM ENOSYS\n"


async def test_no_socket_past_the_filter(attack):
    said = await attack(
        f"""
        for family, kind, proto in ((17, 3, 0x300), (38, 5, 0), (40, 1, 0), (16, 3, 9), (21, 5, 0)):
            print(call({NR["socket"]}, family, kind, proto))
        print(call({NR["socket"]}, 2, 3, 1), call({NR["socket"]}, 16, 3, 0))
        """
    )
    assert said.split()[:5] == ["EPERM"] * 5
    assert said.split()[5:] == ["EPERM", "allowed"]


async def test_nothing_is_typed_on_a_terminal(attack):
    """Also not with a bit set that the kernel does not look at."""
    said = await attack(
        f"""
        for request in (0x5412, 0x541C, 0x100005412, 0x8000_0000_5412, 0x20000541C):
            print(call({NR["ioctl"]}, 0, request, b"x"))
        print(call({NR["ioctl"]}, 0, 0x5413, b" " * 64), call({NR["ioctl"]}, 0, 0x5401, b" " * 64))
        """,
        tty=True,
    )
    assert said.split() == ["EPERM"] * 5 + ["allowed", "allowed"]


async def test_a_capability_is_neither_had_nor_gained(bench):
    await bench.run("grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status")
    lines = dict(line.split(":\t") for line in bench.stdout.decode().splitlines())
    assert {lines[name] for name in lines if name.startswith("Cap")} == {"0" * 16}
    assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")


async def test_no_device_of_the_host_is_there(attack):
    said = await attack(
        """
        wanted = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm",
                  "mqueue", "fd", "stdin", "stdout", "stderr", "core", "console"}
        print(sorted(set(os.listdir("/dev")) - wanted))
        print(tried(lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0))))
        print(tried(lambda: os.mknod("/tmp/mem", 0o20600, os.makedev(1, 1))))
        """
    )
    assert said.splitlines()[0] == "[]"
    assert "allowed" not in said


async def test_the_agent_cannot_be_touched(attack):
    said = await attack(
        f"""
        for path in ("/proc/1/root", "/proc/1/mem", "/proc/1/environ", "/.faas/run/agent.sock"):
            print(tried(lambda: os.open(path, os.O_RDONLY)))
        print(tried(lambda: os.listdir("/.faas/run")), call({NR["ptrace"]}, 16, 1, 0, 0))
        print(tried(lambda: os.kill(1, 9)))
        print(tried(lambda: open("/.faas/agent", "ab")))
        """
    )
    assert "allowed" not in said.replace("('allowed', None)", "ignored")
    assert set(said.split()[:6]) <= {"EPERM", "EACCES"}


async def test_kernel_settings_are_read_only(attack):
    said = await attack(
        """
        for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger",
                     "/sys/kernel/uevent_helper", "/proc/sys/net/ipv4/ip_forward",
                     "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches",
                     "/etc/hosts", "/etc/resolv.conf", "/bin/sh"):
            print(tried(lambda: open(path, "r+b").close()))
        """
    )
    assert "allowed" not in said, said


async def test_control_groups_are_not_its_own(attack):
    said = await attack(
        """
        import glob
        for path in glob.glob("/sys/fs/cgroup/**/*.max", recursive=True)[:9] + \\
                    glob.glob("/sys/fs/cgroup/*/*limit*")[:9]:
            print(tried(lambda: open(path, "w")))
        for controller in glob.glob("/sys/fs/cgroup/*/"):
            print(tried(lambda: os.mkdir(controller + "mine")))
        """
    )
    assert "allowed" not in said, said


async def test_nothing_of_the_engine_is_within(docker, attack):
    said = await attack(
        """
        for line in open("/proc/self/mountinfo"):
            print(line.split()[4])
        print(os.environ)
        """
    )
    assert "docker.sock" not in said
    assert "engine.sock" not in said
    (state,) = await inspected(docker)
    host = state["HostConfig"]
    assert {one["Target"] for one in host["Mounts"]} == {"/.faas/agent", "/.faas/run"}
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    assert host["PidMode"] == host["UTSMode"] == host["UsernsMode"] == ""
    assert host["MemorySwap"] == host["Memory"]


async def test_two_sandboxes_do_not_meet(new_bench):
    """Each has a network of its own: no loopback and no abstract socket is shared."""
    first, second = await new_bench(), await new_bench()
    server = await first.sh(
        'exec python3 -c \'import socket, time; s = socket.create_server(("", 7777));'
        'u = socket.socket(socket.AF_UNIX); u.bind("\\0here"); u.listen(); print("up", flush=True);'
        "time.sleep(60)'"
    )
    seen = server.progress()
    async with asyncio.timeout(30):
        while not seen.stdout_bytes:
            seen = await server.changed(seen)
    await second.run(
        'python3 -c \'import socket; s = socket.socket(); print(s.connect_ex(("127.0.0.1", 7777)));'
        'u = socket.socket(socket.AF_UNIX); print(u.connect_ex("\\0here"))\''
    )
    assert second.stdout == b"111\n111\n"
    await second.run("readlink /proc/self/ns/net")
    other = second.stdout
    assert await first.run("true")
    await first.run("readlink /proc/self/ns/net")
    assert first.stdout.splitlines()[-1:] != other.splitlines()
    await server.kill()


async def test_descriptors_and_shared_memory_are_bounded(attack):
    said = await attack(
        """
        import resource
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 16384)
        print(resource.getrlimit(resource.RLIMIT_CORE)[1])
        with open("/dev/shm/f", "wb") as file:
            some = b"x" * (1 << 20)
            print(tried(lambda: [os.write(file.fileno(), some) for _ in range(128)]))
        """
    )
    assert said.split()[:3] == ["True", "0", "ENOSPC"]


async def test_a_memory_bomb_ends_alone(new_bench):
    bench = await new_bench(memory_bytes=64 << 20)
    end = await bench.run("exec python3 -c 'b = b\"x\" * (256 << 20)'")
    assert end.reason is ExitReason.OUT_OF_MEMORY
    other = await new_bench()
    assert (await other.run("echo fine")).code == 0


async def test_root_inside_is_what_the_label_says(docker, bench):
    pid = bench.sandbox._groups.pid
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    is_nobody = status["Uid"].split()[0] != "0"
    assert is_nobody == docker.is_remapping
    assert ("userns" in bench.sandbox.isolation) == docker.is_remapping
