"""Commands that began alone in their sandbox, without a supervisor: what is theirs, what is not."""

import errno
import signal
import time

import pytest
from tests.native.wire import CANCELLED, EXITED, OK, TIMED_OUT, count_of, error_of

pytestmark = pytest.mark.needs_root

DAEMON = """
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.execvp("sleep", ["sleep", sys.argv[1]])
"""


def daemonize(seconds: int) -> str:
    """Shell text that leaves a sleep behind, in no session or group of its maker."""
    return f"/usr/bin/python3 -S -c '{DAEMON}' {seconds}"


def living(inside) -> set[str]:
    """What sleeps in there, by its argument, seen by a command of its own."""
    script = "for p in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$p 2>/dev/null; echo; done"
    command = inside.run("sh", "-c", script, flags=0)
    assert command.wait().code == 0
    count_of(command.release())
    words = [line.split() for line in command.output.decode().splitlines()]
    return {line[1] for line in words if line[:1] == ["sleep"]}


def until_living(inside, wanted: set[str]) -> None:
    """Processes that were killed may be seen for a moment."""
    until = time.monotonic() + 10
    while (seen := living(inside)) != wanted:
        assert time.monotonic() < until, f"{seen} live, not {wanted}"
        time.sleep(0.02)


def parents(inside, *, beside: bool) -> str:
    """The parent of a command, as it sees it."""
    other = inside.run("sleep", "1000", flags=0) if beside else None
    if other is not None:
        other.started()
    command = inside.run("sh", "-c", "echo $PPID", flags=0)
    assert command.wait().code == 0
    if other is not None:
        count_of(other.signal(signal.SIGKILL, tree=True))
        other.wait()
    return command.output.decode().strip()


def test_alone_its_parent_is_the_agent_and_beside_others_a_supervisor(inside):
    assert parents(inside, beside=False) == "1"
    assert parents(inside, beside=True) != "1"
    until_living(inside, set())
    assert parents(inside, beside=False) == "1"


def test_killing_its_tree_takes_what_has_left_its_session(inside):
    command = inside.run("sh", "-c", f"{daemonize(1001)}; sleep 1002", flags=0)
    until_living(inside, {"1001", "1002"})
    count_of(command.signal(signal.SIGKILL, tree=True))
    assert command.wait().reason == CANCELLED
    until_living(inside, set())


def test_its_deadline_takes_what_has_left_its_session(inside):
    command = inside.run("sh", "-c", f"{daemonize(1001)}; sleep 1002", flags=0, deadline_ms=1500)
    until_living(inside, {"1001", "1002"})
    assert command.wait().reason == TIMED_OUT
    until_living(inside, set())


def test_what_begins_beside_it_outlives_it(inside):
    lone = inside.run("sh", "-c", f"{daemonize(1001)}; sleep 1002", flags=0)
    until_living(inside, {"1001", "1002"})
    other = inside.run("sh", "-c", f"{daemonize(1003)}; sleep 1004", flags=0)
    until_living(inside, {"1001", "1002", "1003", "1004"})
    count_of(lone.signal(signal.SIGKILL, tree=True))
    assert lone.wait().reason == CANCELLED
    until_living(inside, {"1003", "1004"})
    count_of(other.signal(signal.SIGKILL, tree=True))
    assert other.wait().reason == CANCELLED
    until_living(inside, set())


def test_it_outlives_what_begins_beside_it(inside):
    lone = inside.run("sh", "-c", f"{daemonize(1001)}; sleep 1002", flags=0)
    until_living(inside, {"1001", "1002"})
    other = inside.run("sh", "-c", f"{daemonize(1003)}; sleep 1004", flags=0, deadline_ms=1500)
    until_living(inside, {"1001", "1002", "1003", "1004"})
    assert other.wait().reason == TIMED_OUT
    until_living(inside, {"1001", "1002"})
    count_of(lone.signal(signal.SIGKILL, tree=True))
    assert lone.wait().reason == CANCELLED


def test_what_it_left_behind_is_reached_by_its_name(inside):
    lone = inside.run("sh", "-c", daemonize(1001), flags=0)
    assert lone.wait().reason == EXITED
    until_living(inside, {"1001"})
    other = inside.run("sleep", "1002", flags=0)
    until_living(inside, {"1001", "1002"})
    count_of(lone.signal(signal.SIGKILL, tree=True))
    until_living(inside, {"1002"})
    count_of(other.signal(signal.SIGKILL, tree=True))
    other.wait()


def test_once_nothing_of_it_lives_there_is_nothing_to_signal(inside):
    lone = inside.run("sh", "-c", daemonize(1001), flags=0)
    assert lone.wait().reason == EXITED
    until_living(inside, {"1001"})
    count_of(lone.signal(signal.SIGKILL, tree=True))
    until_living(inside, set())
    until = time.monotonic() + 10
    # Known once the agent has no child at all; the supervisor of a look may just be ending.
    while (answer := lone.signal(signal.SIGTERM, tree=True)).type == OK:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert error_of(answer)[0] == errno.ESRCH
    assert parents(inside, beside=False) == "1"


def test_a_signal_to_its_tree_leaves_the_others_alone(inside):
    script = "trap 'echo heard; exit 3' TERM; sleep 1001 & wait"
    lone = inside.run("sh", "-c", script, flags=0)
    other = inside.run("sh", "-c", script, flags=0)
    until_living(inside, {"1001"})
    count_of(lone.signal(signal.SIGTERM, tree=True))
    assert lone.wait().code == 3
    assert lone.output == b"heard\n"
    assert other.output == b""
    count_of(other.signal(signal.SIGTERM, tree=True))
    assert other.wait().code == 3


def test_released_it_is_forgotten_once_what_it_left_has_ended(inside):
    lone = inside.run("sh", "-c", daemonize(1001), flags=0, name="lone")
    lone.wait()
    until_living(inside, {"1001"})
    count_of(lone.release())
    killer = inside.run("sh", "-c", "kill -KILL $(pidof sleep || pgrep sleep)", flags=0)
    killer.wait()
    until_living(inside, set())
    again = inside.run("true", flags=0, name="lone")
    assert again.wait().code == 0
