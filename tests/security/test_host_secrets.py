"""What is the host's, or another sandbox's: files, processes, sockets, memory."""

import asyncio
import socket
from pathlib import Path

import pytest

from faas.sandbox.protocols import Command

pytestmark = pytest.mark.needs_root


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/ssh",
        "/etc/machine-id",
        "/etc/ssl/private",
        "/etc/sudoers",
        "/etc/cron.d",
        "/etc/apt",
        "/etc/environment",
        "/var/lib/dpkg",
        "/var/log/dpkg.log",
        "/root/.ssh",
        "/boot",
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/systemd",
    ],
)
async def test_the_hosts_private_places_are_not_there(attack, path):
    ran = await attack(f'print(os.path.lexists("{path}"))')
    assert ran.text == "False\n"


async def test_home_directories_are_empty(shell):
    ran = await shell("find /root /home /srv /mnt /opt /tmp /var /run -mindepth 1 -type f")
    assert ran.text == ""


async def test_the_hosts_users_are_not_told(shell):
    ran = await shell("cut -d: -f1 /etc/passwd | tr '\\n' ' '")
    assert ran.text.split() == ["root", "user", "nobody"]


async def test_the_hosts_temporary_files_are_not_there(shell):
    own = Path("/tmp/faas-secret-of-the-host")
    own.write_text("secret")
    try:
        ran = await shell("ls -a /tmp; cat /tmp/faas-secret-of-the-host")
    finally:
        own.unlink()
    assert ran.text.split() == [".", ".."]


async def test_the_gateways_data_is_not_there(embedded, shell):
    (embedded.data_dir / "ledger.sqlite").write_text("secret")
    ran = await shell(f"ls {embedded.data_dir}; find / -xdev -name 'ledger*' -o -name 'sbx-*'")
    assert ran.text == ""


async def test_mounts_tell_nothing_of_other_sandboxes(shell):
    """Where the synthetic /etc lies on the host is to be seen; what lives there is not."""
    ran = await shell("cat /proc/self/mountinfo /proc/self/mounts")
    assert "sbx-" not in ran.text
    assert "agent.sock" not in ran.text


async def test_no_process_of_the_host_is_seen(shell):
    ran = await shell("ls /proc | grep -c '^[0-9]'; cat /proc/[0-9]*/comm | sort -u")
    count, *names = ran.text.split()
    assert int(count) <= 6
    assert not {"systemd", "python3", "dockerd", "sshd"} & set(names)


async def test_the_environment_of_the_gateway_does_not_leak(embedded, sandbox):
    ran = await embedded.sh(sandbox, "cat /proc/*/environ | tr '\\0' '\\n' | cut -d= -f1 | sort -u")
    assert set(ran.text.split()) <= {"PATH", "HOME", "LANG", "PWD", "OLDPWD", "_", "SHLVL"}


async def test_another_sandboxs_files_are_not_there(embedded, sandbox, shell):
    other = await embedded.sandbox()
    await other.write_file("/tmp/theirs", b"secret")
    ran = await shell("find / -xdev -name theirs 2>/dev/null; cat /tmp/theirs")
    assert ran.text == ""
    await other.destroy("tested")


async def test_another_sandboxs_processes_are_not_seen(embedded, sandbox, shell):
    other = await embedded.sandbox()
    await other.start("long", Command(("sleep", "4242")), embedded.output())
    ran = await shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "4242" not in ran.text
    await other.destroy("tested")


async def test_another_sandboxs_users_are_other_users(embedded, sandbox):
    other = await embedded.sandbox()
    maps = [(await embedded.sh(box, "cat /proc/self/uid_map")).text for box in (sandbox, other)]
    firsts = {int(line.split()[1]) for line in maps}
    assert len(firsts) == 2
    assert 0 not in firsts
    await other.destroy("tested")


async def test_root_inside_is_nobody_on_the_host(embedded, sandbox):
    output = embedded.output()
    await sandbox.start("main", Command(("sleep", "77.25")), output)
    await asyncio.sleep(0.05)
    owners = {
        path.stat().st_uid
        for path in Path("/proc").glob("[0-9]*")
        if "77.25" in _text(path / "cmdline")
    }
    assert owners
    assert min(owners) >= 0x70000000


def _text(path):
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


async def test_the_hosts_abstract_sockets_are_not_there(attack):
    name = "\0faas-test-abstract"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        ran = await attack(
            f"""
            import socket
            print(tried(lambda: socket.socket(socket.AF_UNIX).connect({name!r})))
            """
        )
    assert ran.text == "ECONNREFUSED\n"


async def test_system_v_memory_of_the_host_is_not_there(shell):
    ran = await shell("cat /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg | wc -l")
    assert ran.text.strip() == "3"


async def test_the_spool_cannot_be_tampered_with(embedded, sandbox):
    """The command has pipes; the files are out of its reach under any name."""
    script = (
        "echo honest; ls -l /proc/self/fd/1 /proc/1/fd 2>&1;"
        "truncate -s 0 /proc/self/fd/1; : > /dev/stdout; echo after"
    )
    ran = await embedded.sh(sandbox, script)
    assert ran.text.startswith("honest\n")
    assert ran.text.endswith("after\n")
    assert "pipe:" in ran.text
    assert str(embedded.data_dir.name) not in ran.text


async def test_finished_output_is_beyond_reach_of_later_commands(embedded, sandbox):
    first = await embedded.sh(sandbox, "echo first")
    await embedded.sh(sandbox, "for f in /proc/*/fd/*; do : > $f; done 2>/dev/null; kill -9 -1")
    assert (embedded.data_dir / "spool/1.out").read_bytes() == first.stdout == b"first\n"


async def test_setuid_programs_give_nothing(attack, shell):
    ran = await shell("grep -E 'NoNewPrivs|CapEff|CapBnd|CapPrm' /proc/self/status | cut -f2")
    assert ran.text.split() == ["0000000000000000"] * 3 + ["1"], str(ran)
    await shell("cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id")
    ran = await shell("/tmp/id -u", uid=1000, gid=1000)
    assert ran.text.split()[-1] == "1000", str(ran)


async def test_another_user_inside_cannot_become_root(attack):
    ran = await attack("print(tried(lambda: os.setuid(0)))", uid=1000, gid=1000)
    assert ran.text == "EPERM\n"


async def test_host_files_cannot_be_changed_through_usr(attack):
    ran = await attack(
        """
        print(tried(lambda: os.chmod("/usr/bin/env", 0o777)))
        print(tried(lambda: os.utime("/usr/bin/env")))
        print(tried(lambda: open("/usr/bin/env", "r+b")))
        print(tried(lambda: os.unlink("/usr/bin/env")))
        print(tried(lambda: os.link("/usr/bin/env", "/tmp/env")))
        """
    )
    assert set(ran.text.split()) <= {"EROFS", "EPERM", "EACCES", "EXDEV"}, str(ran)


async def test_file_handles_lead_nowhere(attack):
    ran = await attack("print(call(304, 3, b'\\0' * 64, 0))")
    assert ran.text.strip() in {"EPERM", "EBADF"} - {"EBADF"}


async def test_the_hosts_kernel_log_is_not_told(attack):
    ran = await attack(
        "import ctypes\nprint(libc.klogctl(3, ctypes.create_string_buffer(100), 100))"
    )
    assert ran.text == "-1\n"
