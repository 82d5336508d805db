"""What one sandbox wrote, as the ground of others: shared by reading, never by writing."""

import errno
import os
import signal
import struct
from pathlib import Path

import pytest
from tests.native.conftest import Inside
from tests.native.plans import NONE, Failure, directory, op, tmpfs_root, u8, u32, u64, users, usual

pytestmark = pytest.mark.needs_root
LAYERS, LAYER, LAYER_DONE = 23, 5, 7
TAKE, MAKE, DROP, LOOK = range(1, 5)
AS_IS = 1 << 31
OTHER_ID = 0x7200_0000


def ask(launcher, verb, number, *, size=0, inodes=0, pidfd=None):
    """Send one request about layers; return its errno and what it opened."""
    launcher._next_id += 1
    head = struct.pack("<BBHI", LAYER, 0, 0, launcher._next_id)
    fds = () if pidfd is None else (pidfd,)
    launcher.send(head + struct.pack("<BQQQ", verb, number, size, inodes), fds)
    answer = launcher.expect(launcher._next_id)
    assert answer.kind == LAYER_DONE
    for fd in answer.fds:
        launcher.closing.append(lambda fd=fd: os.close(fd))
    return struct.unpack("<I", answer.body)[0], answer.fds[0] if answer.fds else None


def end(sandbox):
    signal.pidfd_send_signal(sandbox.pidfd, signal.SIGKILL)


def child_plan(*numbers, first=OTHER_ID):
    """A sandbox with other owners that stands on layers."""
    who = op(2, u8(1), u32(first, first, 65536))
    return usual(op(LAYERS, u32(len(numbers)), u64(*numbers)), userns=who)


@pytest.fixture
def parent(launcher):
    inside = Inside(launcher, launcher.launch(usual(), "parent.sock"))
    inside.sh("echo one > /area/a; mkdir /area/d; echo deep > /area/d/b; chmod 700 /area/d")
    return inside


@pytest.fixture
def child(launcher, parent):
    assert ask(launcher, TAKE, 1, pidfd=parent.sandbox.pidfd)[0] == 0
    end(parent.sandbox)
    return Inside(launcher, launcher.launch(child_plan(1), "child.sock"))


def test_a_child_finds_what_its_parent_wrote(child):
    assert child.sh("cat /area/a /area/d/b").split() == ["one", "deep"]
    assert child.sh("stat -c %u:%g:%a /area/a /area/d").split() == ["0:0:644", "0:0:700"]


def test_what_a_child_writes_is_its_own(launcher, child):
    child.sh("echo two > /area/a; rm -r /area/d; mkdir /area/d; echo new > /area/c")
    other = Inside(launcher, launcher.launch(child_plan(1, first=0x7300_0000), "other.sock"))
    assert other.sh("cat /area/a; ls /area /area/d").split() == [
        "one",
        "/area:",
        "a",
        "d",
        "/area/d:",
        "b",
    ]


def test_a_grandchild_stands_on_both(launcher, child):
    child.sh("rm /area/a; rm -r /area/d; mkdir /area/d; echo new > /area/c")
    assert ask(launcher, TAKE, 2, pidfd=child.sandbox.pidfd)[0] == 0
    end(child.sandbox)
    below = Inside(launcher, launcher.launch(child_plan(2, 1, first=0x7300_0000), "below.sock"))
    assert below.sh("ls /area /area/d; cat /area/c").split() == [
        "/area:",
        "c",
        "d",
        "/area/d:",
        "new",
    ]


def test_a_layer_that_was_made_is_filled_by_the_host(launcher):
    error, top = ask(launcher, MAKE, 5, size=1 << 20, inodes=100)
    assert error == 0
    assert top is not None
    Path(f"/proc/self/fd/{top}/area").mkdir(mode=0o755)
    Path(f"/proc/self/fd/{top}/area/given").write_text("hello\n")
    child = Inside(launcher, launcher.launch(child_plan(5), "child.sock"))
    assert child.sh("cat /area/given; stat -c %u /area/given").split() == ["hello", "0"]


def test_a_dropped_layer_stays_with_who_stands_on_it(launcher, child):
    assert ask(launcher, DROP, 1)[0] == 0
    assert ask(launcher, DROP, 1)[0] == 0
    assert child.sh("cat /area/a").strip() == "one"
    refused = launcher.try_launch(child_plan(1), "late.sock")
    assert isinstance(refused, Failure)
    assert refused.errno == errno.ENOENT


def test_the_host_may_look_at_what_is_written_and_not_write(launcher, parent):
    error, top = ask(launcher, LOOK, 0, pidfd=parent.sandbox.pidfd)
    assert error == 0
    assert Path(f"/proc/self/fd/{top}/area/a").read_text() == "one\n"
    with pytest.raises(OSError, match="Read-only"):
        Path(f"/proc/self/fd/{top}/area/x").write_text("no")


def test_a_directory_as_it_is_keeps_its_mode(launcher, parent):
    parent.sh("chmod 700 /tmp")
    assert ask(launcher, TAKE, 1, pidfd=parent.sandbox.pidfd)[0] == 0
    plan = child_plan(1) + directory("/tmp", 0o1777 | AS_IS) + directory("/new", 0o1777 | AS_IS)
    plan = plan.replace(directory("/tmp", 0o1777), b"", 1)
    child = Inside(launcher, launcher.launch(plan, "child.sock"))
    assert child.sh("stat -c %a /tmp /new").split() == ["700", "1777"]


def test_bad_requests_are_refused(launcher, parent):
    assert ask(launcher, TAKE, 1)[0] == errno.EBADF
    assert ask(launcher, 9, 1)[0] == errno.EINVAL
    assert ask(launcher, MAKE, 1, size=4096, inodes=10)[0] == 0
    assert ask(launcher, MAKE, 1, size=4096, inodes=10)[0] == errno.EEXIST
    assert ask(launcher, TAKE, 1, pidfd=parent.sandbox.pidfd)[0] == errno.EEXIST
    stranger = os.pidfd_open(os.getpid())
    launcher.closing.append(lambda: os.close(stranger))
    assert ask(launcher, TAKE, 2, pidfd=stranger)[0] != 0


@pytest.mark.parametrize(
    "plan",
    [
        op(LAYERS, u32(0)),
        op(LAYERS, u32(2), u64(1)),
        op(LAYERS, u32(17), u64(*range(17))),
        op(LAYERS, u32(1), u64(1)) * 2,
    ],
    ids=["none", "short", "many", "twice"],
)
def test_a_plan_with_bad_layers_is_refused(launcher, plan):
    refused = launcher.try_launch(users() + tmpfs_root() + plan)
    assert isinstance(refused, Failure)
    assert refused.errno == errno.EINVAL


def test_layers_need_users_of_the_sandbox_s_own(launcher):
    plan = users(NONE) + tmpfs_root() + op(LAYERS, u32(1), u64(1))
    refused = launcher.try_launch(plan)
    assert refused == Failure(errno.EINVAL, "layers without users of its own")
