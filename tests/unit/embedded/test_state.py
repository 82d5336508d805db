"""What a gateway leaves on disk for the next one, and whose user ids are whose."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from faas.embedded import user_slots
from faas.embedded.cgroups import Cgroups
from faas.embedded.diagnosis import hint
from faas.embedded.freezer import Freezer
from faas.embedded.reclaim import reclaim
from faas.embedded.run_dir import Meta, RunDir, run_dirs
from faas.embedded.user_slots import UserSlots, first_uid
from faas.errors import ResourceExhaustedError
from faas.sandbox.protocols import ReclaimReport

META = Meta("host", "namespaces", 7, {"pids": "/cg/x"}, [("A", "1")], "/w")


@pytest.fixture
def run_dir(tmp_path):
    made = RunDir(tmp_path / "sbx-1")
    made.create(META)
    return made


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def start_time(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_the_intent_is_read_back_whole(run_dir):
    assert run_dir.meta() == META


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "x": 1}'])
def test_a_torn_intent_is_none(run_dir, text):
    (run_dir.path / "meta.json").write_text(text)
    assert run_dir.meta() is None


def test_the_directory_is_private(run_dir):
    assert run_dir.path.stat().st_mode & 0o077 == 0


def test_a_socket_in_a_deep_directory_can_be_reached(tmp_path):
    deep = RunDir(tmp_path / ("d" * 120) / "sbx-1")
    deep.path.parent.mkdir()
    deep.create(META)
    with deep.listen() as listener, deep.connect() as connection:
        accepted, _ = listener.accept()
        with accepted:
            connection.sendall(b"x")
            assert accepted.recv(1) == b"x"


def test_connecting_where_nobody_listens_fails(run_dir):
    with pytest.raises(OSError, match="No such file"):
        run_dir.connect()


def test_a_process_is_known_by_pid_and_start_time(run_dir, child):
    Path(run_dir.pid_file).write_text(f"{child.pid} {start_time(child.pid)}\n")
    pidfd = run_dir.open_process()
    assert pidfd is not None
    os.close(pidfd)


def test_another_process_of_the_same_number_is_not_touched(run_dir, child):
    Path(run_dir.pid_file).write_text(f"{child.pid} {int(start_time(child.pid)) - 1}\n")
    assert run_dir.open_process() is None
    assert not run_dir.kill()
    assert child.poll() is None


def test_killing_waits_until_it_is_gone(run_dir, child):
    Path(run_dir.pid_file).write_text(f"{child.pid} {start_time(child.pid)}\n")
    assert run_dir.kill()
    assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("text", [None, "", "x y", "1"])
def test_a_pid_file_that_says_nothing_is_no_process(run_dir, text):
    if text is not None:
        Path(run_dir.pid_file).write_text(text)
    assert run_dir.open_process() is None


def test_only_sandboxes_are_listed(run_dir, tmp_path):
    (tmp_path / "other").mkdir()
    assert run_dirs(tmp_path) == [run_dir]
    assert run_dirs(tmp_path / "missing") == []


def test_reclaim_takes_all_but_what_is_kept(tmp_path):
    groups = Cgroups(1, {"pids": tmp_path / "cg"})
    (tmp_path / "cg").mkdir()
    for name in ("sbx-1", "sbx-2"):
        (tmp_path / "cg" / name).mkdir()
        leaf = groups.leaf(name).directories
        RunDir(tmp_path / name).create(Meta("host", "n", None, leaf, [], "/"))
    report = reclaim(tmp_path, groups, Freezer(None), keep={"sbx-2"})
    assert report == ReclaimReport(sandboxes=1, processes=0, cgroups=1, files=1)
    assert [found.sandbox_id for found in run_dirs(tmp_path)] == ["sbx-2"]
    assert groups.names() == {"sbx-2"}


def test_reclaim_finds_groups_whose_directory_is_gone(tmp_path):
    groups = Cgroups(1, {"pids": tmp_path / "cg"})
    (tmp_path / "cg/sbx-9").mkdir(parents=True)
    assert reclaim(tmp_path, groups, Freezer(None), keep=set()).cgroups == 1
    assert groups.names() == set()


def test_no_two_live_sandboxes_share_a_user():
    slots = UserSlots("tag")
    ranges = [first_uid(slots.take()) for _ in range(100)]
    assert len(set(ranges)) == 100
    assert all(abs(a - b) >= 65536 for a in ranges for b in ranges if a != b)


def test_a_slot_that_a_survivor_holds_is_not_given_out(monkeypatch):
    monkeypatch.setattr(user_slots, "COUNT", 4)
    slots = UserSlots("tag")
    slots.reserve(1)
    assert {slots.take(), slots.take()} == {2, 3}
    with pytest.raises(ResourceExhaustedError):
        slots.take()
    slots.give_back(1)
    assert slots.take() == 1


def test_every_slot_fits_below_the_kernels_own_ids():
    assert first_uid(user_slots.COUNT - 1) + user_slots.WIDTH <= 0xFFFF0000


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
        ("user/max_user_namespaces", "5", None),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ],
)
def test_a_switch_that_forbids_is_named_with_its_remedy(tmp_path, name, value, expected):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(value + "\n")
    assert hint(tmp_path) == expected
