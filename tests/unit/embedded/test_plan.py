"""A plan is a value: sorted, described, encoded byte for byte."""

import struct
from pathlib import Path

import pytest

from faas.embedded.host_root import build_etc, host_ops, inodes_for
from faas.embedded.image_root import image_ops
from faas.embedded.plan import (
    Bind,
    Directory,
    Hostname,
    Op,
    Plan,
    Proc,
    ResourceLimit,
    RootOverlay,
    RootTmpfs,
    Seccomp,
    Symlink,
    UserRange,
)
from faas.embedded.run_dir import Meta, RunDir
from faas.embedded.sandbox_plan import Ingredients, encoded, sandbox_plan
from faas.ids import SandboxId
from faas.model import Limits
from faas.sandbox.protocols import RootFilesystem, SandboxSpec


def decode(packed):
    ops = []
    while packed:
        opcode, length = struct.unpack_from("<BI", packed)
        ops.append((opcode, packed[5 : 5 + length]))
        packed = packed[5 + length :]
    return ops


def test_steps_are_sorted_and_keep_their_order_within_a_kind():
    plan = Plan.of([Proc(), Directory("/b"), Directory("/a")], [Hostname("h")])
    assert plan.ops == (Hostname("h"), Directory("/b"), Directory("/a"), Proc())


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Hostname("ab"), b"\2\0\0\0ab"),
        (UserRange(7, 8, 9), b"\1\7\0\0\0\x08\0\0\0\x09\0\0\0"),
        (ResourceLimit(4, 0, 1), b"\4\0\0\0" + bytes(8) + b"\1" + bytes(7)),
        (Seccomp(b"12345678"), b"\x08\0\0\0" + b"12345678"),
        (RootTmpfs(1, 2), b"\1" + bytes(7) + b"\2" + bytes(7)),
        (RootOverlay(Path("/l"), 1, 2, is_idmapped=True),
         b"\2\0\0\0/l\1" + bytes(7) + b"\2" + bytes(7) + b"\1"),
        (Directory("/d", 0o700), b"\2\0\0\0/d\xc0\1\0\0"),
        (Symlink("t", "/s"), b"\1\0\0\0t\2\0\0\0/s"),
        (Bind(Path("/h"), "/b", 1), b"\2\0\0\0/h\2\0\0\0/b\1"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, bytes) else "",
)  # fmt: skip
def test_each_step_is_encoded_as_the_protocol_says(op, expected):
    assert op.payload() == expected


def test_encoding_names_every_step_once():
    plan = Plan.of([Directory("/a"), Proc()])
    assert decode(plan.encoded) == [(10, b"\2\0\0\0/a\xed\1\0\0"), (15, b"\5\0\0\0/proc")]


def test_a_name_with_nul_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        Hostname("a\0b").payload()


def test_a_description_is_one_readable_line_a_step():
    lines = Plan.of([Seccomp(b"12345678"), Directory("/a", 0o755)]).describe()
    assert lines == ["Seccomp program=8 bytes", "Directory path=/a mode=493"]


@pytest.fixture
def etc(tmp_path):
    source = tmp_path / "etc"
    (source / "ssl/private").mkdir(parents=True)
    (source / "ssl/certs").mkdir()
    (source / "ssl/certs/ca.pem").write_text("public")
    (source / "ssl/private/key.pem").write_text("secret")
    (source / "shadow").write_text("root:secret")
    (source / "passwd").write_text("boss:x:1000:")
    (source / "machine-id").write_text("secret")
    (source / "ssh").mkdir()
    (source / "ssh/ssh_host_key").write_text("secret")
    (source / "python3.11").mkdir()
    (source / "python3.11/ok").write_text("public")
    (source / "java-17").mkdir()
    (source / "java-17/jmxremote.password").write_text("secret")
    (source / "java-17/jmxremote.password").chmod(0o600)
    (source / "localtime").symlink_to("/usr/share/zoneinfo/UTC")
    (source / "services").write_text("public")
    return source


def test_etc_holds_nothing_secret(etc, tmp_path):
    built = build_etc(tmp_path / "built", source=etc)
    texts = [path.read_text() for path in built.rglob("*") if path.is_file()]
    assert texts
    assert not [text for text in texts if "secret" in text or "boss" in text]


def test_etc_holds_what_programs_need(etc, tmp_path):
    built = build_etc(tmp_path / "built", source=etc)
    assert (built / "ssl/certs/ca.pem").read_text() == "public"
    assert (built / "localtime").readlink() == Path("/usr/share/zoneinfo/UTC")
    assert (built / "passwd").read_text().startswith("root:x:0:0:")
    assert (built / "resolv.conf").read_text() == ""
    assert all(path.stat().st_mode & 0o005 == 0o005 for path in built.rglob("*") if path.is_dir())


def test_etc_is_built_anew_each_time(etc, tmp_path):
    built = build_etc(tmp_path / "built", source=etc)
    (etc / "services").unlink()
    assert not (build_etc(tmp_path / "built", source=etc) / "services").exists()
    assert not built.with_name("built.new").exists()


def test_the_host_image_shows_usr_and_etc_alone_and_read_only(tmp_path):
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    ops = host_ops(tmp_path / "etc", disk_bytes=1 << 20, host=tmp_path)
    binds = {op.path: op.flags & 1 for op in ops if isinstance(op, Bind)}
    assert binds == {"/usr": 1, "/etc": 1, "/sys/devices/system/cpu": 1}
    assert Symlink("usr/bin", "/bin") in ops


def test_a_host_with_real_bin_directories_shows_them(tmp_path):
    (tmp_path / "lib64").mkdir()
    ops = host_ops(tmp_path / "etc", disk_bytes=1 << 20, host=tmp_path)
    assert Bind(tmp_path / "lib64", "/lib64") in ops


def test_every_mount_has_its_directory():
    for ops in (
        host_ops(Path("/e"), disk_bytes=1 << 20),
        image_ops(Path("/i"), disk_bytes=1 << 20, is_idmapped=True),
    ):
        made = {op.path for op in ops if isinstance(op, Directory)}
        for op in ops:
            if isinstance(op, Bind) and op.path not in {"/usr", "/etc"}:
                assert op.path in made


def test_a_small_disk_still_holds_some_files():
    assert inodes_for(1) == 4096
    assert inodes_for(1 << 40) == 1 << 20


def ops_of(plan: Plan, kind: type[Op]) -> list[Op]:
    return [op for op in plan.ops if isinstance(op, kind)]


def make_plan(tmp_path, *, slot=3, held=True, path=None):
    meta = Meta("host", "x", slot, {"memory": "/cg/m"}, [], "/")
    root = RootFilesystem("host" if path is None else "sha256:1", path)
    spec = SandboxSpec(SandboxId("sbx-1"), root, Limits(memory_bytes=99, pids_max=5))
    own, root = sandbox_plan(
        spec, RunDir(tmp_path), meta, Ingredients(tmp_path, b"", held, held), chores=[]
    )
    assert decode(encoded((own, root))) == decode(own.encoded) + decode(root.encoded)
    return Plan.of(own.ops, root.ops)


def test_who_it_is_comes_before_what_it_sees(tmp_path):
    plan = make_plan(tmp_path)
    assert [op.opcode for op in plan.ops] == sorted(op.opcode for op in plan.ops)


def test_each_sandbox_has_users_of_its_own(tmp_path):
    first = ops_of(make_plan(tmp_path, slot=3), UserRange)
    second = ops_of(make_plan(tmp_path, slot=4), UserRange)
    assert first[0].first_uid + 65536 == second[0].first_uid


def test_where_no_group_holds_a_limit_an_rlimit_does(tmp_path):
    with_groups = {op.resource for op in ops_of(make_plan(tmp_path), ResourceLimit)}
    without = {
        (op.resource, op.hard) for op in ops_of(make_plan(tmp_path, held=False), ResourceLimit)
    }
    assert {number for number, _ in without} - with_groups == {2, 6}
    assert {(2, 99), (6, 5)} <= without


def test_an_image_is_an_overlay_and_host_is_not(tmp_path):
    assert ops_of(make_plan(tmp_path), RootTmpfs)
    assert ops_of(make_plan(tmp_path, path=Path("/img")), RootOverlay)[0].is_idmapped
    single = make_plan(tmp_path, path=Path("/img"), slot=None)
    assert not ops_of(single, RootOverlay)[0].is_idmapped
