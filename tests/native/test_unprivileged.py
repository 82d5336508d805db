"""The launcher without root: one user, and everything else the same."""

import os
import pwd
import subprocess
from pathlib import Path

import pytest
from tests.native.conftest import Inside
from tests.native.plans import SINGLE, Failure, Launcher, users, usual

pytestmark = pytest.mark.needs_root
NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def ordinary(released, place, tmp_path):
    """A launcher that a user without any power started."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    place.chmod(0o777)
    program = place / "faas-native"
    program.write_bytes(released.read_bytes())
    program.chmod(0o755)
    made = Launcher(program, place, user=NOBODY, group=NOBODY, extra_groups=[])
    yield made
    made.close()
    for pid in made.launched:
        subprocess.run(["kill", "-KILL", str(pid)], check=False)


def test_a_user_without_power_makes_a_sandbox(ordinary):
    made = ordinary.try_launch(usual(userns=users(SINGLE)))
    if isinstance(made, Failure) and "clone" in made.step:
        pytest.skip("user namespaces are not allowed here")
    assert not isinstance(made, Failure), made
    inside = Inside(ordinary, made)
    assert made.label == "userns"
    assert inside.sh("id -u; cat /proc/self/setgroups; echo x > /tmp/f; cat /tmp/f").split() == [
        "0",
        "deny",
        "x",
    ]
    assert f"Uid:\t{NOBODY}" in Path(f"/proc/{made.pid}/status").read_text()
    assert {line.split()[1] for line in inside.sh("grep ^Cap /proc/self/status").splitlines()} == {
        "0" * 16
    }
    assert inside.run("sh", "-c", "cat /proc/1/environ").wait().code != 0
    assert inside.run("sh", "-c", "mount -t tmpfs none /tmp").wait().code != 0
    assert (
        inside.sh(
            "echo hi > /dev/null; head -c 2 /dev/zero | wc -c; sleep 0 & wait; tty < /dev/null"
        ).split()[0]
        == "2"
    )


def test_its_commands_end_as_those_of_root_do(ordinary):
    inside = Inside(ordinary, ordinary.launch(usual(userns=users(SINGLE))))
    assert inside.run("sh", "-c", "setsid sleep 100 & sleep 100", deadline_ms=50).wait().code == 124
    assert (
        inside.run("sh", "-c", "setsid sleep 100 & sleep 100", deadline_ms=50, flags=0).wait().code
        == 124
    )
    assert inside.run("test", "-t", "0", flags=1 | 2).wait().code == 0


def test_other_users_are_refused_with_words(ordinary):
    inside = Inside(ordinary, ordinary.launch(usual(userns=users(SINGLE))))
    command = inside.run("true", uid=1000, gid=1000)
    assert command.wait().code == 126
    assert command.errors == b"faas: true: Invalid argument\n"
