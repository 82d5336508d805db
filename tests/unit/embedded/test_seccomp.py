"""The filter, run by an interpreter of our own, says what the policy says."""

import errno
import struct

import pytest

from faas.embedded.seccomp import assemble, build_filter
from faas.embedded.syscall_numbers import NUMBERS
from faas.errors import UnsupportedError
from faas.sandbox.seccomp_policy import ALLOWED

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000
MACHINES = sorted(ARCH)


def run(machine, number, *args, arch=None):
    """Interpret the program over one `struct seccomp_data`."""
    args = [*args, *[0] * (6 - len(args))]
    data = struct.pack("<IIQ6Q", number, arch or ARCH[machine], 0, *args)
    program, at, acc = assemble(machine), 0, 0
    for _ in range(len(program) + 1):
        code, jump_true, jump_false, k = program[at]
        at += 1
        if code == 0x20:
            acc = struct.unpack_from("<I", data, k)[0]
        elif code == 0x54:
            acc &= k
        elif code == 0x05:
            at += k
        elif code == 0x15:
            at += jump_true if acc == k else jump_false
        elif code == 0x35:
            at += jump_true if acc >= k else jump_false
        elif code == 0x06:
            return k
        else:
            raise AssertionError(f"unknown instruction {code:#x}")
    raise AssertionError("the program does not end")


def refused(number):
    return 0x50000 | number


def call(machine, name, *args):
    return run(machine, NUMBERS[machine][name], *args)


CHECKED = {"clone", "clone3", "socket", "personality", "ioctl"}


@pytest.mark.parametrize("machine", MACHINES)
def test_every_known_call_is_allowed_or_refused_as_listed(machine):
    for name, number in NUMBERS[machine].items():
        if name not in CHECKED:
            expected = ALLOW if name in ALLOWED else refused(errno.EPERM)
            assert run(machine, number) == expected, name


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_newer_than_the_list_do_not_exist(machine):
    last = max(NUMBERS[machine].values())
    for number in (last + 1, last + 1000, 0x3FFFFFFF):
        assert run(machine, number) == refused(errno.ENOSYS)


@pytest.mark.parametrize("machine", MACHINES)
def test_gaps_in_the_table_do_not_exist(machine):
    known = set(NUMBERS[machine].values())
    gaps = [number for number in range(max(known)) if number not in known]
    assert gaps
    assert {run(machine, number) for number in gaps} == {refused(errno.ENOSYS)}


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_is_killed(machine):
    for arch in {0x40000003, 0x40000028, *ARCH.values()} - {ARCH[machine]}:
        assert run(machine, 0, arch=arch) == KILL


def test_x32_is_killed():
    assert run("x86_64", 0x40000000) == KILL
    assert run("x86_64", 0x40000000 | 59) == KILL
    assert run("x86_64", 0xFFFFFFFF) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
)
def test_clone_makes_no_namespace(machine, flag):
    assert call(machine, "clone", 0x11 | flag) == refused(errno.EPERM)


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_makes_processes_and_threads(machine):
    assert call(machine, "clone", 0x11) == ALLOW
    assert call(machine, "clone", 0x3D0F00) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_clone3_does_not_exist(machine):
    assert call(machine, "clone3") == refused(errno.ENOSYS)


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_of_plain_families_only(machine):
    allowed = {family for family in range(64) if call(machine, "socket", family, 1, 0) == ALLOW}
    assert allowed == {1, 2, 10, 16}
    assert call(machine, "socket", 38, 5, 0) == refused(errno.EAFNOSUPPORT)


@pytest.mark.parametrize("machine", MACHINES)
def test_netlink_is_for_routes(machine):
    allowed = {proto for proto in range(32) if call(machine, "socket", 16, 3, proto) == ALLOW}
    assert allowed == {0}


@pytest.mark.parametrize("machine", MACHINES)
def test_personality_stays_harmless(machine):
    assert call(machine, "personality", 0xFFFFFFFF) == ALLOW
    assert call(machine, "personality", 0) == ALLOW
    assert call(machine, "personality", 0x0040000) == refused(errno.EPERM)


@pytest.mark.parametrize("machine", MACHINES)
def test_nobody_types_on_a_terminal(machine):
    assert call(machine, "ioctl", 0, 0x5412) == refused(errno.EPERM)
    assert call(machine, "ioctl", 0, 0x541C) == refused(errno.EPERM)
    assert call(machine, "ioctl", 0, 0x5413) == ALLOW


DANGEROUS = {
    *("bpf", "userfaultfd", "io_uring_setup", "perf_event_open", "keyctl", "add_key"),
    *("request_key", "mount", "umount2", "pivot_root", "unshare", "setns", "open_tree"),
    *("move_mount", "fsopen", "kexec_load", "init_module", "reboot", "swapon", "acct"),
    *("open_by_handle_at", "pidfd_getfd", "kcmp", "process_madvise", "sethostname"),
    *("settimeofday", "fanotify_init", "quotactl", "syslog", "vhangup", "name_to_handle_at"),
}


@pytest.mark.parametrize("name", sorted(DANGEROUS))
@pytest.mark.parametrize("machine", MACHINES)
def test_dangerous_calls_are_refused(machine, name):
    assert call(machine, name) == refused(errno.EPERM)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_kernel_takes_programs_of_that_length(machine):
    assert 0 < len(build_filter(machine)) // 8 <= 4096


def test_an_unknown_machine_is_refused():
    with pytest.raises(UnsupportedError, match="sparc"):
        build_filter("sparc")
