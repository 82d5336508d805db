"""Ways out: mounts, namespaces, the agent, devices, control groups."""

import pytest

from faas.embedded.syscall_numbers import NUMBERS

pytestmark = pytest.mark.needs_root

NR = NUMBERS["x86_64"] if __import__("platform").machine() == "x86_64" else NUMBERS["aarch64"]


async def test_nothing_can_be_mounted(attack):
    ran = await attack(
        f"""
        for kind in (b"tmpfs", b"proc", b"sysfs", b"overlay", b"cgroup2", b"debugfs"):
            print(call({NR["mount"]}, kind, b"/tmp", kind, 0, None))
        print(call({NR["mount"]}, b"/usr", b"/tmp", None, 4096, None))
        print(call({NR["mount"]}, None, b"/usr", None, 32 | 4096, None))
        """
    )
    assert set(ran.text.split()) == {"EPERM"}, str(ran)


@pytest.mark.parametrize("target", ["/usr", "/etc", "/proc", "/dev", "/proc/sys", "/proc/kcore"])
async def test_nothing_can_be_unmounted(attack, target):
    ran = await attack(f"print(call({NR['umount2']}, {target.encode()!r}, 2))")
    assert ran.text == "EPERM\n"


@pytest.mark.parametrize("flag", ["NEWUSER", "NEWNS", "NEWPID", "NEWNET", "NEWIPC", "NEWCGROUP"])
async def test_no_new_namespace_by_unshare(attack, flag):
    bits = {
        "NEWUSER": 0x10000000,
        "NEWNS": 0x20000,
        "NEWPID": 0x20000000,
        "NEWNET": 0x40000000,
        "NEWIPC": 0x8000000,
        "NEWCGROUP": 0x2000000,
    }[flag]
    ran = await attack(f"print(call({NR['unshare']}, {bits}))")
    assert ran.text == "EPERM\n"


async def test_no_new_user_namespace_by_clone(attack):
    ran = await attack(f"print(call({NR['clone']}, 0x10000000 | 17, 0, 0, 0, 0))")
    assert ran.text == "EPERM\n"


async def test_clone3_is_not_there(attack):
    ran = await attack(f"print(call({NR['clone3']}, b'\\0' * 88, 88))")
    assert ran.text == "ENOSYS\n"


async def test_no_other_namespace_can_be_joined(attack):
    ran = await attack(
        f"""
        for name in ("mnt", "pid", "net", "user", "uts", "ipc", "cgroup"):
            for pid in ("1", "self"):
                try:
                    fd = os.open(f"/proc/{{pid}}/ns/{{name}}", os.O_RDONLY)
                except PermissionError:
                    print("EPERM")
                    continue
                print(call({NR["setns"]}, fd, 0))
        """
    )
    assert set(ran.text.split()) == {"EPERM"}, str(ran)


@pytest.mark.parametrize("name", ["pivot_root", "chroot"])
async def test_the_root_cannot_be_changed(attack, name):
    ran = await attack(f"print(call({NR[name]}, b'/tmp', b'/tmp'))")
    assert ran.text == "EPERM\n"


async def test_an_open_directory_leads_nowhere_else(attack):
    ran = await attack(
        """
        fd = os.open("/", os.O_RDONLY)
        for _ in range(50):
            fd = os.open("..", os.O_RDONLY, dir_fd=fd)
        print(sorted(os.listdir(fd)) == sorted(os.listdir("/")))
        """
    )
    assert ran.text == "True\n"


@pytest.mark.parametrize("name", ["root", "cwd", "exe", "fd", "mem", "environ", "maps", "ns/mnt"])
async def test_the_agents_insides_are_closed(attack, name):
    ran = await attack(
        f"""
        path = "/proc/1/{name}"
        print(tried(lambda: os.readlink(path) if os.path.islink(path) else
              os.listdir(path) if path.endswith("fd") else open(path, "rb").read(1)))
        """
    )
    assert ran.text.strip() in {"EACCES", "EPERM"}, str(ran)


async def test_the_agent_cannot_be_traced(attack):
    ran = await attack(
        f"""
        for pid in (1, os.getppid()):
            print(call({NR["ptrace"]}, 16, pid, 0, 0), call({NR["ptrace"]}, 0x4206, pid, 0, 0))
        """
    )
    assert "allowed" not in ran.text, str(ran)


async def test_the_agents_memory_cannot_be_read_or_written(attack):
    ran = await attack(
        f"""
        import struct
        buffer = ctypes.create_string_buffer(64)
        iov = struct.pack("QQ", ctypes.addressof(buffer), 64)
        print("self", call({NR["process_vm_readv"]}, os.getpid(), iov, 1, iov, 1, 0))
        for pid in (1, os.getppid()):
            print(call({NR["process_vm_readv"]}, pid, iov, 1, iov, 1, 0))
            print(call({NR["process_vm_writev"]}, pid, iov, 1, iov, 1, 0))
        """
    )
    assert ran.text.split() == ["self", "allowed"] + ["EPERM"] * 4, str(ran)


@pytest.mark.parametrize("number", [1, 2, 9, 11, 15, 19])
async def test_the_agent_does_not_hear_signals(embedded, sandbox, attack, number):
    await attack(f"print(tried(lambda: os.kill(1, {number})))")
    assert (await embedded.sh(sandbox, "echo alive")).text == "alive\n"


async def test_signalling_everybody_ends_only_the_command(embedded, sandbox, attack):
    await attack("os.kill(-1, 9)")
    assert (await embedded.sh(sandbox, "echo alive")).text == "alive\n"


async def test_the_agents_socket_is_nowhere_to_be_found(shell):
    ran = await shell("find / -xdev -type s 2>/dev/null; grep -c . /proc/net/unix")
    assert ran.text.split()[-1] == "1", f"only the header line is to be there: {ran}"
    assert "agent.sock" not in ran.text


async def test_a_command_inherits_no_descriptor(shell):
    ran = await shell("exec ls -l /proc/self/fd")
    names = [line.split()[8] for line in ran.text.splitlines()[1:]]
    assert [name for name in names if int(name) > 2] == ["3"], f"3 is ls's own: {ran}"


async def test_the_agents_program_cannot_be_written(attack):
    ran = await attack('print(tried(lambda: open("/proc/1/exe", "r+b")))')
    assert ran.text.strip() in {"EACCES", "EPERM"}


@pytest.mark.parametrize(("kind", "major", "minor"), [("c", 1, 1), ("b", 8, 0), ("c", 10, 229)])
async def test_no_device_can_be_made(attack, kind, major, minor):
    mode = {"c": 0o020666, "b": 0o060666}[kind]
    ran = await attack(
        f'print(tried(lambda: os.mknod("/tmp/d", {mode}, os.makedev({major}, {minor}))))'
    )
    assert ran.text == "EPERM\n"


async def test_dev_holds_only_harmless_devices(shell):
    ran = await shell("find /dev -type c -o -type b | sort | tr '\\n' ' '")
    found = set(ran.text.split()) - {"/dev/pts/ptmx", "/dev/ptmx"}
    assert found <= {f"/dev/{n}" for n in ("full", "null", "random", "tty", "urandom", "zero")}


async def test_dev_cannot_be_changed_for_others(embedded, sandbox, shell):
    await shell("rm -f /dev/null; echo evil > /dev/null; chmod 0 /dev/zero; rm -rf /dev/*")
    other = await embedded.sandbox()
    ran = await embedded.sh(
        other, "echo x > /dev/null; cat /dev/null | wc -c; head -c 3 /dev/zero | wc -c"
    )
    assert ran.text.split() == ["0", "3"], str(ran)
    await other.destroy("tested")


async def test_control_groups_are_out_of_sight(shell):
    ran = await shell("ls /sys/fs/cgroup 2>&1; find / -xdev -name 'cgroup.procs' 2>/dev/null")
    assert "cgroup.procs" not in ran.text
    ran = await shell("cut -d: -f3 /proc/self/cgroup | sort -u")
    assert "faas-" not in ran.text, "the path of its own group must not leak"


async def test_sysfs_shows_processors_and_nothing_else(shell):
    ran = await shell("ls /sys /sys/devices /sys/devices/system")
    words = {word for word in ran.text.split() if not word.endswith(":")}
    assert words == {"devices", "system", "cpu"}, str(ran)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
    ],
)
async def test_the_kernels_switches_cannot_be_turned(attack, path):
    ran = await attack(
        f"""
        print(tried(lambda: os.write(os.open("{path}", os.O_WRONLY), b"1")))
        """
    )
    assert ran.text.strip() in {"EROFS", "EACCES", "EPERM", "ENOENT"}, str(ran)


@pytest.mark.parametrize(
    "path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/proc/scsi"]
)
async def test_what_the_kernel_tells_is_masked(attack, path):
    ran = await attack(
        f"""
        path = "{path}"
        print(tried(lambda: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(9)))
        """
    )
    assert ran.text.strip() in {"('allowed', [])", "('allowed', b'')", "ENOENT", "EACCES", "EPERM"}


async def test_own_oom_score_cannot_be_lowered_below_the_agents(attack):
    ran = await attack(
        """
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        print(tried(lambda: os.write(fd, b"-1000")))
        """
    )
    assert ran.text.strip() in {"EACCES", "EPERM"}, str(ran)
