"""Doors into the kernel that are shut: calls, sockets, keyrings, privileges."""

import platform

import pytest

from faas.embedded.syscall_numbers import NUMBERS

pytestmark = pytest.mark.needs_root

NR = NUMBERS["aarch64" if platform.machine() in {"aarch64", "arm64"} else "x86_64"]


@pytest.mark.parametrize(
    "name",
    [
        "io_uring_setup",
        "bpf",
        "userfaultfd",
        "perf_event_open",
        "keyctl",
        "add_key",
        "request_key",
        "kexec_load",
        "init_module",
        "finit_module",
        "open_by_handle_at",
        "name_to_handle_at",
        "pidfd_getfd",
        "process_madvise",
        "fsopen",
        "open_tree",
        "mount_setattr",
        "quotactl",
        "reboot",
        "swapon",
        "sethostname",
        "settimeofday",
        "clock_settime",
        "acct",
        "syslog",
        "lookup_dcookie",
        "fanotify_init",
        "move_pages",
    ],
)
async def test_a_dangerous_call_is_refused(attack, name):
    ran = await attack(f"print(call({NR[name]}, 0, 0, 0, 0, 0, 0))")
    assert ran.text == "EPERM\n", str(ran)


async def test_a_call_of_the_future_is_not_there(attack):
    ran = await attack("print(call(900, 0, 0, 0))")
    assert ran.text == "ENOSYS\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is a thing of x86-64")
async def test_x32_calls_kill(attack):
    ran = await attack("call(0x40000000 | 39)\nprint('survived')")
    assert (ran.stdout, ran.exit.signal) == (b"", 31)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is a thing of x86-64")
async def test_thirty_two_bit_calls_kill(attack):
    ran = await attack(
        """
        import mmap
        code = b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3"  # mov eax, getpid; int 0x80; ret
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(code)
        at = ctypes.addressof(ctypes.c_char.from_buffer(page))
        print("survived", ctypes.CFUNCTYPE(ctypes.c_int)(at)())
        """
    )
    assert (ran.stdout, ran.exit.signal) == (b"", 31), str(ran)


@pytest.mark.parametrize(
    ("family", "kind", "proto"),
    [
        (17, 3, 0x300),
        (38, 5, 0),
        (40, 1, 0),
        (44, 3, 0),
        (16, 3, 9),
        (16, 3, 15),
        (21, 5, 0),
        (29, 3, 1),
        (2, 3, 1),
        (10, 3, 58),
    ],
    ids="packet alg vsock xdp audit uevent rds can raw raw6".split(),  # noqa: SIM905
)
async def test_a_socket_of_that_family_is_refused(attack, family, kind, proto):
    ran = await attack(f"print(call({NR['socket']}, {family}, {kind}, {proto}))")
    assert ran.text.strip() in {"EPERM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT"}, str(ran)


async def test_there_is_no_network_but_loopback(attack):
    ran = await attack(
        """
        import socket
        print(socket.if_nameindex())
        print(len(open("/proc/net/route").readlines()))
        for address in ("192.0.2.1", "169.254.169.254", "10.0.0.1", "8.8.8.8"):
            s = socket.socket(); s.settimeout(2)
            print(tried(lambda: s.connect((address, 80))))
        """
    )
    assert ran.text.split() == ["[(1,", "'lo')]", "1"] + ["ENETUNREACH"] * 4, str(ran)


async def test_the_hosts_loopback_is_not_its_own(attack):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ran = await attack(
            f"""
            import socket
            print(tried(lambda: socket.create_connection(("127.0.0.1", {port}), 2)))
            """
        )
    assert ran.text == "ECONNREFUSED\n"


async def test_the_network_cannot_be_configured(attack):
    ran = await attack(
        """
        import fcntl, socket, struct
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        request = struct.pack("16sH14x", b"lo", 0)
        print(tried(lambda: fcntl.ioctl(s, 0x8914, request)))  # SIOCSIFFLAGS: lo down
        """
    )
    assert ran.text == "EPERM\n"


async def test_it_has_no_privilege_and_can_gain_none(attack):
    ran = await attack(
        """
        status = dict(line.split(":\\t") for line in open("/proc/self/status") if ":\\t" in line)
        print({status[k].strip() for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")})
        print(status["NoNewPrivs"].strip(), status["Seccomp"].strip(), status["Groups"].strip())
        """
    )
    assert ran.text == "{'0000000000000000'}\n1 2 \n", str(ran)


async def test_nobody_can_give_files_away(attack):
    ran = await attack('open("/tmp/x", "w"); print(tried(lambda: os.chown("/tmp/x", 1000, 1000)))')
    assert ran.text == "EPERM\n"


async def test_clock_and_priority_are_the_hosts(attack):
    ran = await attack(
        """
        import time
        print(tried(lambda: time.clock_settime(time.CLOCK_REALTIME, 0)))
        print(tried(lambda: os.nice(-5)))
        print(tried(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))))
        """
    )
    assert ran.text.split() == ["EPERM"] * 3, str(ran)


async def test_nobody_types_on_the_terminal(attack):
    ran = await attack(
        """
        import fcntl, termios
        print(tried(lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x")))
        """,
        tty=True,
    )
    assert ran.text.strip() == "EPERM"


async def test_personality_stays_plain(attack):
    ran = await attack(f"print(call({NR['personality']}, 0x0040000))")
    assert ran.text == "EPERM\n"


async def test_limits_cannot_be_raised(attack):
    ran = await attack(
        """
        import resource
        for kind in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK):
            hard = resource.getrlimit(kind)[1]
            try:
                resource.setrlimit(kind, (hard + 1, hard + 1)); print("raised")
            except (ValueError, PermissionError):
                print("refused")
        """
    )
    assert ran.text.split() == ["refused"] * 3


async def test_no_core_is_dumped(embedded, sandbox, shell):
    ran = await shell("cd /tmp; kill -SEGV $$")
    assert ran.exit.signal == 11
    left = await shell("ls -a /tmp; ulimit -H -c")
    assert left.text.split() == [".", "..", "0"]
