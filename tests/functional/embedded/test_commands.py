"""What a command finds in an embedded sandbox, and what is said of it afterwards."""

import pytest

from faas.model import ExitReason, Limits

pytestmark = pytest.mark.needs_root


async def test_a_command_has_a_usable_environment(embedded, sandbox):
    ran = await embedded.run(sandbox, "/usr/bin/env")
    assert set(ran.text.split()) == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "LANG=C.UTF-8",
    }


async def test_what_the_caller_says_of_the_environment_wins(embedded, sandbox):
    ran = await embedded.sh(sandbox, "echo $HOME $X", env=(("HOME", "/h"), ("X", "1")))
    assert ran.text == "/h 1\n"


async def test_python_runs(embedded, sandbox):
    ran = await embedded.python(sandbox, "import ssl, json, sqlite3; print(2 ** 10)")
    assert (ran.code, ran.text) == (0, "1024\n"), str(ran)


async def test_it_is_root_of_its_own_small_world(embedded, sandbox):
    ran = await embedded.sh(sandbox, "id -u; id -g; hostname; ps -e -o pid= | wc -l")
    uid, gid, name, processes = ran.text.split()
    assert (uid, gid, name) == ("0", "0", "sandbox")
    assert int(processes) <= 6


async def test_a_command_may_be_another_user(embedded, sandbox):
    ran = await embedded.sh(sandbox, "id -u; id -g; touch /tmp/mine", uid=1000, gid=1000)
    assert (ran.code, ran.text) == (0, "1000\n1000\n"), str(ran)


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/workspace", "/root", "/home/user", "/"])
async def test_it_may_write_where_programs_write(embedded, sandbox, place):
    ran = await embedded.sh(sandbox, f"echo ok > {place}/x && cat {place}/x")
    assert ran.text == "ok\n", str(ran)


@pytest.mark.parametrize("place", ["/usr/bin", "/etc", "/sys/devices/system/cpu", "/usr"])
async def test_it_may_not_write_what_is_the_hosts(embedded, sandbox, place):
    ran = await embedded.sh(sandbox, f"touch {place}/x")
    assert ran.code != 0
    assert b"Read-only" in ran.stderr


async def test_loopback_works_inside(embedded, sandbox):
    script = (
        "import socket; s = socket.create_server(('127.0.0.1', 0));"
        "c = socket.create_connection(s.getsockname()); a, _ = s.accept();"
        "c.sendall(b'hi'); print(a.recv(2))"
    )
    ran = await embedded.python(sandbox, script)
    assert ran.text == "b'hi'\n", str(ran)


async def test_devices_and_shared_memory_work(embedded, sandbox):
    script = "head -c 4 /dev/urandom | wc -c; echo x > /dev/null; echo y > /dev/shm/y"
    ran = await embedded.sh(sandbox, f"{script}; cat /dev/shm/y")
    assert ran.text.split() == ["4", "y"], str(ran)


async def test_usage_is_the_groups(embedded, sandbox):
    ran = await embedded.python(sandbox, "x = bytearray(50 << 20); sum(range(2_000_000))")
    assert ran.exit.cpu_us > 1_000
    assert ran.exit.memory_peak_bytes > 50 << 20
    assert ran.exit.wall_us > 0


async def test_too_much_memory_is_told_from_a_crash(embedded):
    box = await embedded.sandbox(limits=Limits(memory_bytes=32 << 20))
    ran = await embedded.python(box, "x = bytearray(200 << 20); print('survived')")
    assert ran.exit.reason is ExitReason.OUT_OF_MEMORY
    assert (ran.code, ran.exit.signal, ran.stdout) == (137, 9, b"")
    await box.destroy("tested")


async def test_a_shell_whose_child_ran_out_of_memory_ran_out_of_memory(embedded):
    box = await embedded.sandbox(limits=Limits(memory_bytes=32 << 20))
    ran = await embedded.sh(box, "/usr/bin/python3 -c 'bytearray(200 << 20)'; exit $?")
    assert ran.exit.reason is ExitReason.OUT_OF_MEMORY
    await box.destroy("tested")


async def test_a_command_that_copes_with_a_killed_child_exits_as_it_likes(embedded):
    box = await embedded.sandbox(limits=Limits(memory_bytes=32 << 20))
    ran = await embedded.sh(box, "/usr/bin/python3 -c 'bytearray(200 << 20)'; echo coped; exit 0")
    assert (ran.exit.reason, ran.text) == (ExitReason.EXITED, "coped\n")
    await box.destroy("tested")


async def test_a_killed_command_is_no_memory_matter(embedded, sandbox):
    ran = await embedded.sh(sandbox, "kill -9 $$")
    assert (ran.exit.reason, ran.code, ran.exit.signal) == (ExitReason.SIGNALLED, 137, 9)


async def test_limits_can_be_raised_before_a_command(embedded):
    box = await embedded.sandbox(limits=Limits(memory_bytes=32 << 20))
    await box.apply_limits(Limits(memory_bytes=256 << 20))
    ran = await embedded.python(box, "x = bytearray(100 << 20); print('fits')")
    assert ran.text == "fits\n", str(ran)
    await box.destroy("tested")


async def test_given_input_is_read_to_its_end(embedded, sandbox):
    data = bytes(range(256)) * 10_000
    ran = await embedded.run(sandbox, "sha256sum", stdin=data)
    expected = await embedded.python(
        sandbox,
        "import hashlib; print(hashlib.sha256(bytes(range(256)) * 10_000).hexdigest(), ' -')",
    )
    assert ran.text == expected.text


async def test_without_input_a_reader_sees_the_end_at_once(embedded, sandbox):
    assert (await embedded.run(sandbox, "cat")).code == 0


async def test_bytes_come_out_as_they_went_in(embedded, sandbox):
    script = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4096)"
    ran = await embedded.python(sandbox, script)
    assert ran.stdout == bytes(range(256)) * 4096


async def test_arguments_may_hold_anything_but_nul(embedded, sandbox):
    odd = "a b'\"$(x)\n\\\t\x7f" + b"\xff\xfe".decode("utf-8", "surrogateescape")
    ran = await embedded.run(sandbox, "/usr/bin/printf", "%s", odd)
    assert ran.stdout == odd.encode("utf-8", "surrogateescape")


async def test_many_commands_in_one_sandbox_are_forgotten_in_time(embedded, sandbox):
    for _ in range(300):
        ran = await embedded.run(sandbox, "/bin/true")
        assert ran.code == 0
