"""Sandboxes made by the launcher: what is inside, what is not, and what is refused."""

import contextlib
import errno
import os
import signal
import socket
import struct
import time
from pathlib import Path

import pytest
from tests.native.conftest import Inside
from tests.native.plans import (
    CGROUP,
    DEV,
    EXITED,
    FAILED,
    FILE,
    FIRST_ID,
    HOST_NET,
    HOSTNAME,
    MASK,
    NETNS,
    NEW_NET,
    NO_EXEC,
    NONE,
    OPTIONAL,
    PIDFILE,
    PONG,
    POOLED_NET,
    PROC,
    RANGE,
    REMOUNT_RO,
    RLIMIT,
    ROOT_OVERLAY,
    SECCOMP,
    SYMLINK,
    TMPFS,
    USERNS,
    Failure,
    Launcher,
    bind,
    directory,
    host_usr,
    op,
    tmpfs_root,
    u8,
    u32,
    u64,
    users,
    usual,
)
from tests.native.wire import EXCLUSIVE, Host, Run, blob, count_of

pytestmark = pytest.mark.needs_root
MKDIR, WRITE, UNLINK, RMDIR = range(1, 5)
CHORES_DONE = 5
SPARES = 4
CELL, CHORES = 19, 20


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ping_is_answered(launcher):
    launcher.send(struct.pack("<BBHI", 2, 0, 0, 42))
    answer = launcher.receive()
    assert (answer.kind, answer.id, answer.body) == (PONG, 42, b"")


def test_a_sandbox_runs_commands_as_its_own_root(inside):
    assert inside.sh("id -u; hostname; pwd").split() == ["0", "sandbox", "/"]
    assert inside.sandbox.label == "userns"
    assert struct.unpack_from("<I", inside.host.hello.payload, 20) == (1,)


def test_it_is_somebody_else_on_the_host(inside):
    status = Path(f"/proc/{inside.sandbox.pid}/status").read_text()
    assert f"Uid:\t{FIRST_ID}\t{FIRST_ID}" in status


def test_it_has_every_namespace_of_its_own(inside):
    for name in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup"):
        its, ours = (
            Path(f"/proc/{pid}/ns/{name}").readlink() for pid in (inside.sandbox.pid, "self")
        )
        assert its != ours, name


def test_a_command_has_no_power(inside):
    status = inside.sh("cat /proc/self/status")
    assert {line.split()[1] for line in status.splitlines() if line.startswith("Cap")} == {"0" * 16}
    assert "NoNewPrivs:\t1" in status


def test_the_agent_keeps_only_what_it_needs(inside):
    status = Path(f"/proc/{inside.sandbox.pid}/status").read_text()
    chown, dac_override, fowner, kill, setgid, setuid, setpcap = 0, 1, 3, 5, 6, 7, 8
    expected = sum(1 << bit for bit in (chown, dac_override, fowner, kill, setgid, setuid, setpcap))
    fields = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Cap"))
    assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {expected}
    assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0


def test_the_agent_holds_no_descriptor_of_the_host(inside):
    links = {
        descriptor.name: str(descriptor.readlink())
        for descriptor in Path(f"/proc/{inside.sandbox.pid}/fd").iterdir()
    }
    written = Path(f"/proc/{inside.sandbox.pid}/fd/{links.pop('3') and 3}")
    kinds = {link.split(":")[0].removeprefix("/dev") for link in links.values()}
    assert kinds == {"/null", "anon_inode", "socket"}
    # What its sandbox writes, for the launcher to keep: read-only, and mounted nowhere.
    assert {path.name for path in written.iterdir()} >= {"area", "tmp"}
    with pytest.raises(OSError, match="Read-only"):
        (written / "x").touch()


@pytest.mark.parametrize(
    "attack",
    [
        "cat /proc/1/environ",
        "cat /proc/1/maps",
        "ls /proc/1/fd/",
        "ls -l /proc/1/exe >&2",
        "ls /proc/1/root/",
        "ls /proc/1/cwd/",
        "dd if=/proc/1/mem bs=1 count=1",
        "cat /proc/1/stack",
        "echo 0 > /proc/1/oom_score_adj",
    ],
)
def test_the_agent_cannot_be_looked_into(inside, attack):
    command = inside.run("sh", "-c", attack)
    assert command.wait().code != 0
    assert b"ermission denied" in command.errors or b"Operation not permitted" in command.errors
    assert command.output == b""


def test_the_agent_cannot_be_killed_or_stopped(inside):
    inside.sh("for s in KILL STOP TERM HUP INT SEGV USR1 CHLD; do kill -$s 1; done")
    assert inside.sh("echo alive") == "alive\n"


@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs none /tmp",
        "umount /proc",
        "unshare -m true",
        "mknod /tmp/device b 8 0",
        "chroot / true",
        "hostname other",
        "echo 1 > /proc/sys/kernel/ostype",
        "echo b > /proc/sysrq-trigger",
        "touch /usr/evil",
        "touch /dev/evil",
        "rm /dev/null",
        "chmod 600 /dev/null",
        "mount -o remount,rw /usr",
        "ip link set lo down",
        "date -s 2000-01-01",
    ],
)
def test_what_takes_power_fails(inside, script):
    assert inside.run("sh", "-c", script).wait().code != 0


def test_secrets_of_proc_are_hidden(inside):
    assert inside.sh("cat /proc/keys /proc/timer_list /proc/interrupts; ls -A /proc/acpi") == ""


def test_devices_work(inside):
    assert inside.sh(
        "head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo x > /dev/null"
    ).split() == ["3", "3"]
    assert inside.sh("echo to > /dev/stdout; exec 3<>/dev/shm/x && ls /dev/shm") == "to\nx\n"


def test_its_network_is_a_loopback_and_nothing_else(inside):
    assert inside.sh("tail -n +3 /proc/net/dev").split(":")[0].strip() == "lo"
    assert inside.sh("grep -c : /proc/net/dev") == "1\n"


@pytest.mark.parametrize("net", [NEW_NET, POOLED_NET])
def test_loopback_is_up(launcher, net):
    listen = "import socket; s = socket.create_server(('127.0.0.1', 0))"
    script = f"{listen}; socket.create_connection(s.getsockname()); print('up')"
    inside = Inside(launcher, launcher.launch(usual(net=net)))
    assert inside.sh(f'/usr/bin/python3 -S -c "{script}"').strip() == "up"


def test_pooled_networks_are_never_shared(launcher):
    made = [launcher.launch(usual(net=POOLED_NET), f"n{i}.sock") for i in range(12)]
    names = {Path(f"/proc/{sandbox.pid}/ns/net").readlink() for sandbox in made}
    assert len(names) == 12
    assert Path("/proc/self/ns/net").readlink() not in names


def test_the_hosts_network_when_asked_for(launcher):
    sandbox = launcher.launch(usual(net=HOST_NET))
    assert Path(f"/proc/{sandbox.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()


def test_sandboxes_live_on_without_their_launcher(launcher, binary):
    sandbox = launcher.launch(usual())
    gone = Launcher(binary, launcher.directory)
    orphan = gone.launch(usual(), "orphan.sock")
    launcher.launched.append(orphan.pid)
    gone.close()
    assert gone.process.returncode == 0
    host = Host(orphan.path)
    launcher.closing.append(host.close)
    command = Run(host, launcher.directory, ["echo", "alive"], uid=0, gid=0)
    assert command.wait().code == 0
    assert is_alive(sandbox.pid)


def test_the_end_of_a_sandbox_is_told(launcher):
    sandbox = launcher.launch(usual())
    os.kill(sandbox.pid, signal.SIGKILL)
    answer = launcher.expect(sandbox.pid)
    assert (answer.kind, struct.unpack("<I", answer.body)) == (EXITED, (signal.SIGKILL,))


def test_everything_in_it_dies_with_it(launcher, inside):
    inside.run("sh", "-c", "setsid sleep 4242 & sleep 4243", flags=0).started()
    os.kill(inside.sandbox.pid, signal.SIGKILL)
    launcher.expect(inside.sandbox.pid)
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"4242" in p.read_bytes()]


def test_the_pid_file_is_written_before_the_sandbox_is_told_of(launcher, place):
    sandbox = launcher.launch(op(PIDFILE, blob(str(place / "pid"))) + usual())
    assert (place / "pid").read_text() == f"{sandbox.pid} {sandbox.started}\n"
    fields = Path(f"/proc/{sandbox.pid}/stat").read_text().rsplit(")", 1)[1].split()
    assert int(fields[19]) == sandbox.started


def test_its_mounts_stay_out_of_the_host(launcher, inside):
    mounts = Path("/proc/self/mountinfo").read_text()
    assert "faas-base" not in mounts
    assert "faas-base" in Path(f"/proc/{inside.sandbox.pid}/mountinfo").read_text()


def test_mounts_of_the_launcher_are_its_own(launcher):
    launcher.launch(usual())
    assert (
        Path(f"/proc/{launcher.process.pid}/ns/mnt").readlink()
        != Path("/proc/self/ns/mnt").readlink()
    )


def test_limits_on_resources_are_set_and_never_raised(launcher):
    import resource

    plan = op(RLIMIT, u32(resource.RLIMIT_NOFILE), u64(64, 128)) + op(
        RLIMIT, u32(resource.RLIMIT_CORE), u64(0, 0)
    )
    inside = Inside(launcher, launcher.launch(plan + usual()))
    assert inside.sh("ulimit -Sn; ulimit -Hn; ulimit -c").split() == ["64", "128", "0"]


def test_a_cgroup_is_joined_and_is_the_root_of_what_it_sees(launcher, place):
    mount = Path("/sys/fs/cgroup/pids")
    if not mount.is_dir():
        pytest.skip("no cgroup v1 pids controller here")
    group = mount / f"faas-native-{os.getpid()}"
    group.mkdir()
    try:
        sandbox = launcher.launch(op(CGROUP, blob(str(group / "cgroup.procs"))) + usual())
        assert str(sandbox.pid) in (group / "cgroup.procs").read_text().split()
        inside = Inside(launcher, sandbox)
        assert ":pids:/\n" in inside.sh("cat /proc/self/cgroup")
        os.kill(sandbox.pid, signal.SIGKILL)
        launcher.expect(sandbox.pid)
    finally:
        for _ in range(200):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.01)


def test_a_system_call_filter_is_installed(launcher):
    deny_mkdir = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, 83),
        (0x06, 0, 0, 0x0005_0000 | errno.EDOM),
        (0x06, 0, 0, 0x7FFF_0000),
    ]
    program = b"".join(struct.pack("<HBBI", *step) for step in deny_mkdir)
    inside = Inside(launcher, launcher.launch(op(SECCOMP, blob(program)) + usual()))
    assert "Numerical argument out of domain" in inside.sh("mkdir /tmp/x")
    assert "Seccomp:\t2" in inside.sh("cat /proc/self/status")


@pytest.mark.parametrize("program", [b"1234567", bytes(8), bytes(8 * 4097)])
def test_a_bad_system_call_filter_fails_the_launch(launcher, program):
    failure = launcher.try_launch(op(SECCOMP, blob(program)) + usual())
    assert isinstance(failure, Failure)
    assert "filter" in failure.step


def test_an_overlay_is_owned_by_its_root_and_writable_and_leaves_the_image_alone(launcher, place):
    image = place / "image"
    (image / "etc").mkdir(parents=True)
    (image / "etc/name").write_text("original")
    for name in ("usr", "tmp", "proc", "dev", "work"):
        (image / name).mkdir()
    root = op(ROOT_OVERLAY, blob(str(image)), u64(8 << 20, 1000), u8(1))
    plan = users() + root + host_usr() + op(PROC, blob("/proc")) + op(DEV, blob("/dev"))
    inside = Inside(launcher, launcher.launch(plan))
    script = (
        "stat -c %u /etc/name; cat /etc/name; echo changed > /etc/name; mv /etc/name /etc/moved"
    )
    script += "; rm -r /etc; ls / | tr '\\n' ' '"
    assert inside.sh(script) == "0\noriginalbin dev lib lib64 proc sbin tmp usr work "
    assert (image / "etc/name").read_text() == "original"


def test_the_size_of_a_root_is_a_limit(launcher):
    plan = (
        users() + tmpfs_root(1 << 20) + host_usr() + op(PROC, blob("/proc")) + op(DEV, blob("/dev"))
    )
    inside = Inside(launcher, launcher.launch(plan))
    assert "No space left" in inside.sh("head -c 5000000 /dev/zero > /big")


def test_steps_on_the_root_do_what_they_say(launcher, place):
    (place / "shown").mkdir()
    (place / "shown/file").write_text("from the host")
    more = (
        op(FILE, blob("/etc/deep/conf"), u32(0o640), blob(b"\0binary\n")),
        op(SYMLINK, blob("/etc/deep/conf"), blob("/etc/link")),
        directory("/sticky", 0o1777),
        op(TMPFS, blob("/small"), u64(65536), u32(0o700), u8(NO_EXEC)),
        bind(str(place / "shown"), "/shown"),
        bind(str(place / "shown/file"), "/etc/one-file"),
        bind("/no/such/thing", "/absent", OPTIONAL),
        bind("/etc", "/hidden"),
        op(MASK, blob("/hidden")),
        op(MASK, blob("/etc/one-file-not-there")),
        op(REMOUNT_RO, blob("/")),
    )
    inside = Inside(launcher, launcher.launch(usual(*more)))
    assert inside.sh("od -c /etc/deep/conf | head -1").split()[1:3] == ["\\0", "b"]
    assert (
        inside.sh("readlink /etc/link; stat -c %a /sticky /etc/deep/conf /small")
        == "/etc/deep/conf\n1777\n640\n700\n"
    )
    assert (
        inside.sh("cat /shown/file /etc/one-file; ls /hidden; ls -d /absent 2>&1 | wc -l")
        == "from the hostfrom the host1\n"
    )
    assert inside.sh("touch /x /shown/x 2>&1 | grep -c Read-only") == "2\n"
    assert (
        inside.sh("touch /small/x && cp /usr/bin/true /small/ && /small/true 2>&1 | grep -c denied")
        == "1\n"
    )


def test_symlinks_of_an_image_do_not_lead_the_launcher_to_the_host(launcher, place):
    image, outside = place / "image", place / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    for name in ("usr", "dev"):
        (image / name).mkdir(parents=True)
    (image / "etc").symlink_to(outside)
    (image / "proc").symlink_to(f"..{'/..' * 10}{outside}")
    root = op(ROOT_OVERLAY, blob(str(image)), u64(8 << 20, 1000), u8(1))
    made = launcher.try_launch(
        users()
        + root
        + op(FILE, blob("/etc/evil"), u32(0o644), blob(b"x"))
        + directory("/etc/evil-dir")
    )
    assert not list(outside.iterdir())
    if not isinstance(made, Failure):
        assert is_alive(made.pid)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (bind("/no/such/thing", "/x"), "bind /x"),
        (op(SYMLINK, blob("x"), blob("/usr")), "make link /usr"),
        (op(FILE, blob("/tmp/../.."), u32(0o644), blob(b"")), "make file /tmp/../.."),
        (op(CGROUP, blob("/no/such/cgroup.procs")), "join the cgroup"),
        (op(PIDFILE, blob("/no/such/directory/pid")), "write the pid file"),
        (op(HOSTNAME, blob("x" * 65)), "set the host name"),
        (op(RLIMIT, u32(99), u64(1, 1)), "set limits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_step_that_fails_is_named_and_nothing_is_left(launcher, steps, said):
    head = b"" if said == "set the host name" else op(HOSTNAME, blob("sandbox"))
    plan = head + users() + op(NETNS, u8(0)) + tmpfs_root() + host_usr() + directory("/tmp") + steps
    failure = launcher.try_launch(plan)
    assert isinstance(failure, Failure)
    assert failure.step == said
    assert failure.errno
    time.sleep(0)
    children = Path(f"/proc/{launcher.process.pid}/task/{launcher.process.pid}/children")
    while children.exists() and len(children.read_text().split()) > 1:
        time.sleep(0.005)


@pytest.mark.parametrize(
    "plan",
    [
        b"",
        b"\x01",
        users(),
        op(99) + usual(),
        op(0) + usual(),
        usual()[:-1],
        usual() + b"\0",
        usual() + tmpfs_root(),
        op(HOSTNAME, blob("a")) + usual(),
        op(USERNS, u8(3), u32(0, 0, 1)) + usual(),
        op(USERNS, u8(RANGE), u32(FIRST_ID, FIRST_ID, 0)) + tmpfs_root(),
        op(USERNS, u8(RANGE), u32(0xFFFFFFF0, FIRST_ID, 65536)) + tmpfs_root(),
        op(NETNS, u8(3)) + tmpfs_root(),
        usual(directory("relative")),
        usual(bind("relative", "/x")),
        usual(op(MASK, blob("/nul\0inside"))),
        usual(op(MASK, blob("/x"), b"more")),
        usual(op(MASK, struct.pack("<I", 0xFFFFFFFF))),
        struct.pack("<BI", MASK, 0xFFFFFFFF),
        tmpfs_root() + directory("/x") * 1025,
        tmpfs_root() + op(CGROUP, blob("/x")) * 17,
        tmpfs_root() + op(RLIMIT, u32(1), u64(1, 1)) * 17,
    ],
    ids=range(22),
)
def test_a_malformed_plan_is_refused_and_the_launcher_goes_on(launcher, plan):
    failure = launcher.try_launch(plan)
    assert isinstance(failure, Failure)
    assert failure.errno == errno.EINVAL
    launcher.send(struct.pack("<BBHI", 2, 0, 0, 7))
    assert launcher.expect(7).kind == PONG


@pytest.mark.parametrize(
    "packet",
    [
        b"\0",
        bytes(8),
        struct.pack("<BBHI", 99, 0, 0, 1),
        struct.pack("<BBHI", 1, 1, 0, 1),
        bytes(200_000),
    ],
)
def test_a_malformed_packet_is_refused(launcher, packet):
    launcher.send(packet)
    assert launcher.receive().kind == FAILED


def chores(launcher: Launcher, *fields: bytes) -> tuple[int, int]:
    launcher.send(struct.pack("<BBHI", 3, 0, 0, 8) + b"".join(fields))
    answer = launcher.expect(8)
    assert answer.kind == CHORES_DONE
    return struct.unpack("<II", answer.body)


def test_chores_are_done_in_order(launcher, place):
    made, file = str(place / "made"), place / "file"
    file.write_text("old")
    done = chores(
        launcher,
        op(MKDIR, blob(made), u32(0o700)),
        op(WRITE, blob(str(file)), u8(0), blob(b"new")),
        op(WRITE, blob("/no/such/file"), u8(1), blob(b"x")),
        op(UNLINK, blob("/no/such/file")),
        op(RMDIR, blob(made)),
    )
    assert done == (0, 5)
    assert file.read_text() == "new"
    assert not (place / "made").exists()


@pytest.mark.parametrize(
    ("chore", "error"),
    [
        (op(WRITE, blob("/no/such/file"), u8(0), blob(b"x")), errno.ENOENT),
        (op(MKDIR, blob("relative"), u32(0o700)), errno.EINVAL),
        (op(MKDIR, blob("/proc/x"), u32(0o700)), errno.ENOENT),
        (op(MKDIR, blob("/nul\0"), u32(0o700)), errno.EINVAL),
        (op(RMDIR, blob("/proc"), b"more"), errno.EINVAL),
        (op(9, blob("/x")), errno.EINVAL),
        (b"\1", errno.EINVAL),
        (struct.pack("<BI", MKDIR, 0xFFFFFFFF), errno.EINVAL),
    ],
    ids=range(8),
)
def test_the_first_chore_that_fails_is_the_last(launcher, place, chore, error):
    first, last = (op(MKDIR, blob(str(place / name)), u32(0o700)) for name in ("first", "last"))
    assert chores(launcher, first, chore, last) == (error, 1)
    assert (place / "first").is_dir()
    assert not (place / "last").exists()


@pytest.mark.parametrize("count", [0, 2, 8, 20])
def test_a_launch_takes_exactly_one_descriptor(launcher, count):
    launcher.send(struct.pack("<BBHI", 1, 0, 0, 5) + usual(), (0,) * count)
    assert launcher.receive().kind == FAILED


def test_what_is_no_listening_socket_makes_a_sandbox_nobody_reaches_but_no_harm(launcher):
    with Path("/dev/null").open() as null:
        launcher.send(struct.pack("<BBHI", 1, 0, 0, 5) + usual(), (null.fileno(),))
    answer = launcher.receive()
    if answer.kind != FAILED:
        launcher.launched.append(struct.unpack_from("<I", answer.body)[0])


def test_many_launches_may_be_asked_for_at_once(launcher):
    paths = [launcher.directory / f"m{i}.sock" for i in range(20)]
    ids = [launcher.request(usual(net=POOLED_NET), path) for path in paths]
    made = [launcher.result(number, path) for number, path in zip(ids, paths, strict=True)]
    assert not [one for one in made if isinstance(one, Failure)]
    assert len({one.pid for one in made}) == 20


def test_a_launcher_that_is_killed_leaves_no_half_made_sandbox(launcher, binary, place):
    dying = Launcher(binary, place)
    for index in range(10):
        dying.request(
            op(PIDFILE, blob(str(place / f"pid{index}"))) + usual(), place / f"k{index}.sock"
        )
    dying.process.kill()
    dying.process.wait()
    dying.close()
    deadline = 400
    known = {
        int(p.read_text().split()[0]) for p in place.glob("pid*") if not p.name.endswith(".tmp")
    }
    launcher.launched += known
    while deadline:
        strangers = [p for p in Path("/proc").glob("[0-9]*") if _is_stranger(p, place, known)]
        if not strangers:
            break
        deadline -= 1
        time.sleep(0.01)
    assert not strangers


def _is_stranger(process: Path, place: Path, known: set[int]) -> bool:
    try:
        command = (process / "cmdline").read_bytes()
        uid = process.stat().st_uid
    except (FileNotFoundError, ProcessLookupError):
        return False
    return (
        b"launch\0--control" in command
        and uid == FIRST_ID
        and int(process.name) not in known
        and not _has_mounted(process)
    )


def _has_mounted(process: Path) -> bool:
    """A sandbox of another test, running beside this one."""
    try:
        return (
            "pivot" in (process / "wchan").read_text()
            or "faas-base" in (process / "mountinfo").read_text()
        )
    except OSError:
        return False


def test_the_launcher_runs_from_a_sealed_copy(launcher):
    launcher.send(struct.pack("<BBHI", 2, 0, 0, 1))
    launcher.receive()
    assert "memfd:" in str(Path(f"/proc/{launcher.process.pid}/exe").readlink())


def test_an_agent_without_a_user_namespace_is_still_locked_down(launcher):
    sandbox = launcher.launch(usual(userns=users(NONE)))
    inside = Inside(launcher, sandbox)
    assert sandbox.label == "none"
    assert inside.sh("grep -c 'Cap.*0000000000000000' /proc/self/status") == "5\n"
    assert inside.run("sh", "-c", "mount -t tmpfs none /tmp").wait().code != 0


BOMB = """
import os
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
"""


def test_a_fork_bomb_ends_with_its_command(launcher, place):
    mount = Path("/sys/fs/cgroup/pids")
    if not mount.is_dir():
        pytest.skip("no cgroup v1 pids controller here")
    group = mount / f"faas-native-bomb-{os.getpid()}"
    group.mkdir()
    (group / "pids.max").write_text("64")
    try:
        inside = Inside(
            launcher, launcher.launch(op(CGROUP, blob(str(group / "cgroup.procs"))) + usual())
        )
        for flags in (EXCLUSIVE, 0):
            bomb = inside.run("/usr/bin/python3", "-S", "-c", BOMB, flags=flags, deadline_ms=300)
            assert bomb.wait().code == 124
            assert inside.sh("echo still here") == "still here\n"
    finally:
        for pid in launcher.launched:
            os.kill(pid, signal.SIGKILL)
        for _ in range(300):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.01)


def test_the_hosts_abstract_sockets_are_out_of_reach(launcher):
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0faas-native-abstract")
    server.listen()
    inside = Inside(launcher, launcher.launch(usual()))
    script = "import socket; socket.socket(socket.AF_UNIX).connect('\\0faas-native-abstract')"
    assert "refused" in inside.sh(f'/usr/bin/python3 -S -c "{script}"')
    server.close()


def test_a_shared_command_cannot_reach_its_supervisor(inside):
    inside.run("sleep", "1000", flags=0).started()  # one that is alone has none
    others = "for p in /proc/[0-9]*; do n=${p#/proc/}; [ $n != 1 ] && [ $n != $$ ] && echo $n; done"
    script = f"kill -KILL $({others}); sleep 0.05; echo survived"
    command = inside.run("sh", "-c", script, flags=0)
    assert command.wait().code == 0
    assert command.output == b"survived\n"
    assert b"not permitted" in command.errors
    count_of(command.release())


def _spares(launcher, parents, count=2):
    texts = b"".join(blob(str(parent)) for parent in parents)
    launcher.send(
        struct.pack("<BBHI", SPARES, 0, 0, 9)
        + u32(count)
        + blob("spare-")
        + u32(len(parents))
        + texts
    )
    return launcher.expect(9)


def _sitting(group):
    """Spare groups with a process in them."""
    return [path for path in group.glob("spare-*") if (path / "cgroup.procs").read_text().split()]


def _sitters(group):
    return {path.joinpath("cgroup.procs").read_text().strip() for path in _sitting(group)}


@pytest.fixture
def pids_group():
    """A control group of the test's, removed with all below it once the launcher has gone."""
    mount = Path("/sys/fs/cgroup/pids")
    if not mount.is_dir():
        pytest.skip("no cgroup v1 pids controller here")
    group = mount / f"faas-native-spares-{os.getpid()}"
    group.mkdir()
    yield group
    until = time.monotonic() + 20
    while group.is_dir() and time.monotonic() < until:
        for path in (*group.glob("*/"), group):
            with contextlib.suppress(OSError):
                path.rmdir()
        time.sleep(0.02)
    assert not group.is_dir()


def test_a_sandbox_is_born_in_a_spare_group_that_bears_its_name_then(pids_group, launcher):
    assert _spares(launcher, [pids_group]).kind == CHORES_DONE
    until = time.monotonic() + 20
    while len(_sitting(pids_group)) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    before = _sitters(pids_group)
    assert len(before) == 2
    cell = pids_group / "box"
    limit = u8(WRITE) + blob(blob(str(cell / "pids.max")) + u8(0) + blob("33"))
    plan = op(CELL, blob(str(cell))) + op(CHORES, blob(limit)) + usual()
    sandbox = launcher.launch(plan)
    assert str(sandbox.pid) in (cell / "cgroup.procs").read_text().split()
    assert (cell / "pids.max").read_text() == "33\n"
    assert len(before & _sitters(pids_group)) == 1
    assert ":pids:/\n" in Inside(launcher, sandbox).sh("cat /proc/self/cgroup")
    os.kill(sandbox.pid, signal.SIGKILL)
    assert launcher.expect(sandbox.pid).kind == EXITED


def test_without_a_spare_a_sandbox_makes_its_group_and_joins_it(pids_group, launcher):
    cell = pids_group / "box"
    sandbox = launcher.launch(op(CELL, blob(str(cell))) + usual())
    assert str(sandbox.pid) in (cell / "cgroup.procs").read_text().split()
    os.kill(sandbox.pid, signal.SIGKILL)
    assert launcher.expect(sandbox.pid).kind == EXITED


def test_a_limit_that_cannot_be_set_is_told_and_no_sandbox_is_made(pids_group, launcher):
    assert _spares(launcher, [pids_group], count=1).kind == CHORES_DONE
    cell = pids_group / "box"
    limit = u8(WRITE) + blob(blob(str(cell / "no.such.file")) + u8(0) + blob("1"))
    failure = launcher.try_launch(op(CELL, blob(str(cell))) + op(CHORES, blob(limit)) + usual())
    assert (failure.step, failure.errno) == ("set limits", errno.ENOENT)


@pytest.mark.parametrize(
    "body",
    [b"", u32(17) + blob("s") + u32(1) + blob("/x"), u32(1) + blob("a/b") + u32(1) + blob("/x")],
)
def test_a_malformed_wish_for_spares_is_refused(launcher, body):
    launcher.send(struct.pack("<BBHI", SPARES, 0, 0, 9) + body)
    answer = launcher.expect(9)
    assert (answer.kind, answer.body[:4]) == (CHORES_DONE, u32(errno.EINVAL))
