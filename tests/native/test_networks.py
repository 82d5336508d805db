"""Networks of ended sandboxes: given out again untouched, never when anything was done on them."""

import os
import re
import signal
from pathlib import Path

import pytest
from tests.native.conftest import Inside
from tests.native.plans import POOLED_NET, PROC, op, usual
from tests.native.wire import blob

pytestmark = pytest.mark.needs_root

ROUNDS = 20
"""More than the launcher keeps ready: what came back is met again."""

LOOK = "cd /proc/net; for f in *; do test -f $f && echo == $f && cat $f; done 2>/dev/null"
OF_THE_MACHINE = ("== protocols", "== ptype", "== softnet_stat", "== netlink", "== psched")

IMPORTS = "import socket as s, array, os, struct, ctypes; "
DEEDS = {
    "a connection that left a TIME_WAIT": (
        "l = s.create_server(('127.0.0.1', 0)); c = s.create_connection(l.getsockname());"
        "a = l.accept()[0]; a.close(); c.recv(1); c.close()"
    ),
    "a connection that was refused": "s.socket().connect_ex(('127.0.0.1', 9))",
    "an IPv6 connection that was refused": "s.socket(s.AF_INET6).connect_ex(('::1', 9))",
    "a datagram": "s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "no route": "s.socket(s.AF_INET, s.SOCK_DGRAM).connect_ex(('192.0.2.1', 9))",
    "a flow label": (
        "u = s.socket(s.AF_INET6, s.SOCK_DGRAM);"
        "u.setsockopt(41, 32, s.inet_pton(s.AF_INET6, '::1')"
        " + struct.pack('>I', 0x12345) + struct.pack('=BBHHHI', 0, 255, 1, 6, 0, 0))"
    ),
    "listeners that went on in a queue of their own": (
        "p = s.socketpair(s.AF_UNIX); l = s.create_server(('127.0.0.1', 7777));"
        "f = array.array('i', [l.fileno(), p[0].fileno(), p[1].fileno()]);"
        "p[0].sendmsg([b'x'], [(s.SOL_SOCKET, s.SCM_RIGHTS, f)])"
    ),
}


def look(inside: Inside) -> str:
    """Everything `/proc/net` says of this network, without what it says of the machine."""
    parts = re.split(r"(?m)^(?=== )", inside.sh(LOOK))
    kept = [part for part in parts if not part.startswith(OF_THE_MACHINE)]
    return re.sub(r" (orphan|alloc|mem) \d+", r" \1 -", "".join(kept))


def end(launcher, inside: Inside) -> None:
    os.kill(inside.sandbox.pid, signal.SIGKILL)
    launcher.expect(inside.sandbox.pid)


def network(inside: Inside) -> str:
    return os.fspath(Path(f"/proc/{inside.sandbox.pid}/ns/net").readlink())


def make(launcher, turn: int) -> Inside:
    plan = usual(net=POOLED_NET)
    return Inside(launcher, launcher.launch(plan, f"n{turn}.sock"))


def test_a_network_on_which_nothing_was_done_is_given_out_again(launcher):
    seen = []
    for turn in range(3 * ROUNDS):
        inside = make(launcher, turn)
        inside.sh("echo nothing")
        seen.append(network(inside))
        end(launcher, inside)
    assert len(set(seen)) <= ROUNDS, "networks are made anew for each"
    assert Path("/proc/self/ns/net").readlink().as_posix() not in seen


@pytest.mark.parametrize("deed", DEEDS)
def test_what_was_done_on_a_network_is_seen_by_nobody_after(launcher, deed):
    # The very first may find none ready: its network is its own, and dies with it.
    fresh = look(before := make(launcher, 98))
    assert "== tcp\n" in fresh
    end(launcher, before)
    first = make(launcher, 0)
    ran = first.sh(f'/usr/bin/python3 -S -c "{IMPORTS}{DEEDS[deed]}" && echo done')
    assert ran == "done\n"
    end(launcher, first)
    for turn in range(1, ROUNDS + 1):
        inside = make(launcher, turn)
        assert look(inside) == fresh
        end(launcher, inside)


def test_a_network_in_use_is_nobody_elses_however_often_its_sandbox_runs(launcher):
    long = make(launcher, 0)
    for turn in range(1, ROUNDS + 1):
        inside = make(launcher, turn)
        assert network(inside) != network(long)
        end(launcher, inside)
    assert long.sh("echo here") == "here\n"


def test_a_network_of_a_launch_that_failed_comes_back_clean(launcher):
    for turn in range(ROUNDS):
        bad = usual(op(PROC, blob("/proc/x")), net=POOLED_NET)
        launcher.try_launch(bad, f"f{turn}.sock")
    inside = make(launcher, 99)
    assert "lo:       0       0" in inside.sh("cat /proc/net/dev")
