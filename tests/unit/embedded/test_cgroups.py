"""Groups over trees that look like the kernel's: which version, which limits, what is read back."""

import errno
import os
from pathlib import Path

import pytest

from faas.embedded import cgroups as subject
from faas.embedded.cgroups import Cgroups, Leaf, Meter, open_cgroups
from faas.model import Limits

LIMITS = Limits(memory_bytes=64 << 20, cpu_millis=500, pids_max=10)


@pytest.fixture
def host(tmp_path):
    """A host whose /proc says what a test wrote."""
    (tmp_path / "proc/self").mkdir(parents=True)

    class Host:
        root = tmp_path

        def says(self, groups, mounts):
            (tmp_path / "proc/self/cgroup").write_text(groups)
            (tmp_path / "proc/self/mountinfo").write_text(mounts)

        def group(self, path, **files):
            (tmp_path / path).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (tmp_path / path / name.replace("__", ".")).write_text(text)
            return tmp_path / path

    return Host()


V1_GROUPS = "3:cpu,cpuacct:/own\n2:pids:/own\n1:memory:/own\n0::/\n"
V1_MOUNTS = (
    "30 20 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "31 20 0:2 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    "32 20 0:3 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def v1_host(host):
    host.says(V1_GROUPS, V1_MOUNTS)
    for name in ("memory", "pids", "cpu,cpuacct"):
        host.group(f"sys/fs/cgroup/{name}/own")
    return open_cgroups("0123abcd", root=host.root)


def test_v1_makes_our_group_below_our_own_in_each_hierarchy(host):
    groups = v1_host(host)
    assert groups.label == "cgroup-v1 cpu,memory,pids"
    assert (host.root / "sys/fs/cgroup/memory/own/faas-0123abcd").is_dir()
    assert (host.root / "sys/fs/cgroup/cpu,cpuacct/own/faas-0123abcd").is_dir()


def test_controllers_that_share_a_hierarchy_share_a_leaf(host):
    assert set(v1_host(host).leaf("x").directories) == {"memory", "pids", "cpu"}


def test_v1_seen_through_a_part_of_the_hierarchy(host):
    host.says(
        "1:memory:/docker/abc\n",
        "30 20 0:1 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
    )
    host.group("sys/fs/cgroup/memory")
    assert open_cgroups("t", root=host.root).label == "cgroup-v1 memory"
    assert (host.root / "sys/fs/cgroup/memory/faas-t").is_dir()


def test_without_any_hierarchy_only_rlimits_hold(host):
    host.says("0::/\n", "")
    groups = open_cgroups("t", root=host.root)
    assert groups.label == "rlimits only"
    leaf = groups.create("x", LIMITS)
    assert leaf.procs_files == []
    assert groups.remove(leaf)


def test_a_policy_of_none_makes_nothing(host):
    v1_host(host)
    assert open_cgroups("other", policy="none", root=host.root).label == "rlimits only"
    assert not (host.root / "sys/fs/cgroup/memory/own/faas-other").exists()


def v2_host(host, *, controllers="cpu memory pids io"):
    host.says("0::/own\n", "30 20 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    return host.group(
        "sys/fs/cgroup/own", cgroup__controllers=controllers, cgroup__subtree_control=""
    )


@pytest.fixture
def kernel_v2(monkeypatch):
    """Do what the kernel does on writes to subtree_control."""
    real = subject._write

    def write(path, text):
        if not path.endswith("cgroup.subtree_control"):
            real(path, text)
            return
        path = Path(path)
        now = set(path.read_text().split()) if path.exists() else set()
        path.write_text(" ".join(sorted(now | set(text.replace("+", "").split()))))

    monkeypatch.setattr(subject, "_write", write)
    return write


def test_v2_enables_what_is_offered_and_needed(host, kernel_v2):
    own = v2_host(host)
    groups = open_cgroups("t", root=host.root)
    assert groups.label == "cgroup-v2 cpu,memory,pids"
    assert (own / "cgroup.subtree_control").read_text() == "cpu memory pids"


def test_v2_without_controllers_of_use_is_no_control(host, kernel_v2):
    v2_host(host, controllers="hugetlb")
    assert open_cgroups("t", root=host.root).label == "rlimits only"


def test_v2_moves_us_out_of_the_way(host, kernel_v2, monkeypatch):
    own = v2_host(host)
    moved = host.group("sys/fs/cgroup/own/faas-gateway", cgroup__procs="") / "cgroup.procs"

    def write(path, text):
        busy = path == str(own / "cgroup.subtree_control") and not moved.read_text()
        if busy:
            raise OSError(errno.EBUSY, "busy")
        kernel_v2(path, text)

    monkeypatch.setattr(subject, "_write", write)
    assert open_cgroups("t", root=host.root).label.startswith("cgroup-v2")
    assert moved.read_text() == str(os.getpid())


def leaf_with(path, *names):
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text("")
    return path


def test_v1_limits_are_written_with_room_for_the_agent(tmp_path):
    leaf = Leaf(
        {
            "memory": leaf_with(tmp_path / "m", "memory.limit_in_bytes", "memory.swappiness"),
            "pids": leaf_with(tmp_path / "p", "pids.max"),
            "cpu": leaf_with(tmp_path / "c", "cpu.cfs_quota_us"),
        }
    )
    Cgroups(1, {}).limit(leaf, LIMITS)
    assert int((tmp_path / "m/memory.limit_in_bytes").read_text()) == LIMITS.memory_bytes + (
        8 << 20
    )
    assert (tmp_path / "m/memory.swappiness").read_text() == "0"
    assert (tmp_path / "p/pids.max").read_text() == "14"
    assert (tmp_path / "c/cpu.cfs_quota_us").read_text() == "50000"


def test_v2_limits_are_written(tmp_path):
    leaf_with(tmp_path, "cgroup.subtree_control")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids")
    names = ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
    leaf = Leaf({"unified": leaf_with(tmp_path / "leaf", *names)})
    Cgroups(2, {"unified": tmp_path}).limit(leaf, LIMITS)
    assert [(tmp_path / "leaf" / name).read_text() for name in names] == [
        str(LIMITS.memory_bytes + (8 << 20)),
        "0",
        "14",
        "50000 100000",
    ]


def test_a_limit_that_cannot_be_set_leaves_no_group(tmp_path):
    parents = {"pids": leaf_with(tmp_path / "p")}
    with pytest.raises(Exception, match="control group"):
        Cgroups(1, parents).create("x", LIMITS)
    assert list((tmp_path / "p").iterdir()) == []


def test_v1_counters_are_read(tmp_path):
    memory, cpu = leaf_with(tmp_path / "m"), leaf_with(tmp_path / "c")
    (memory / "memory.max_usage_in_bytes").write_text("4096\n")
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (cpu / "cpuacct.usage").write_text("5000000\n")
    meter = Meter(Leaf({"memory": memory, "cpuacct": cpu}))
    assert (meter.cpu_us(), meter.memory_peak_bytes(), meter.oom_kills()) == (5000, 4096, 2)
    meter.close()
    assert (meter.cpu_us(), meter.memory_peak_bytes(), meter.oom_kills()) == (None, None, None)


def test_v2_counters_are_read(tmp_path):
    (tmp_path / "memory.peak").write_text("4096\n")
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 3\noom_group_kill 9\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 77\nuser_usec 1\n")
    meter = Meter(Leaf({"unified": tmp_path}))
    assert (meter.cpu_us(), meter.memory_peak_bytes(), meter.oom_kills()) == (77, 4096, 3)
    meter.close()


def test_counters_nobody_keeps_are_none(tmp_path):
    meter = Meter(Leaf({}))
    assert (meter.cpu_us(), meter.memory_peak_bytes(), meter.oom_kills()) == (None, None, None)


def test_removing_what_is_gone_is_success(tmp_path):
    assert Cgroups(1, {}).remove(Leaf({"pids": tmp_path / "gone"}))


def test_a_busy_group_is_killed_and_tried_again(tmp_path, monkeypatch):
    leaf, tries = Leaf({"pids": leaf_with(tmp_path / "p")}), []

    def rmdir(path):
        tries.append(path)
        if len(tries) < 3:
            raise OSError(errno.EBUSY, "busy")

    killed = []
    monkeypatch.setattr(subject.os, "rmdir", rmdir)
    monkeypatch.setattr(Cgroups, "kill", lambda _, leaf: killed.append(leaf))
    assert Cgroups(1, {}).remove(leaf)
    assert (len(tries), len(killed)) == (3, 2)


def test_a_group_that_never_empties_is_given_up(tmp_path, monkeypatch):
    def rmdir(path):
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(subject.os, "rmdir", rmdir)
    monkeypatch.setattr(subject.time, "sleep", lambda _: None)
    assert not Cgroups(1, {}).remove(Leaf({"pids": leaf_with(tmp_path / "p")}))
