"""Small file work done by the launcher: in order, up to the first that fails."""

import errno
import struct
from pathlib import Path

import pytest
from tests.native.plans import PONG, op

DONE = 5
MKDIR, WRITE, UNLINK, RMDIR = 1, 2, 3, 4


def name(path: Path) -> bytes:
    text = str(path).encode()
    return struct.pack("<I", len(text)) + text


def blob(data: bytes, *, is_wish: bool = False) -> bytes:
    return struct.pack("<BI", is_wish, len(data)) + data


def do(launcher, *chores: bytes) -> tuple[int, int]:
    launcher.send(struct.pack("<BBHI", 3, 0, 0, 5) + b"".join(chores))
    answer = launcher.expect(5)
    assert answer.kind == DONE
    return struct.unpack("<II", answer.body)


def test_directories_and_files_are_made_and_removed(launcher, tmp_path):
    (tmp_path / "file").write_text("old")

    made = do(
        launcher,
        op(MKDIR, name(tmp_path / "d"), struct.pack("<I", 0o700)),
        op(WRITE, name(tmp_path / "file"), blob(b"new")),
    )

    assert made == (0, 2)
    assert (tmp_path / "d").is_dir()
    assert (tmp_path / "file").read_text() == "new"
    gone = do(launcher, op(UNLINK, name(tmp_path / "file")), op(RMDIR, name(tmp_path / "d")))
    assert gone == (0, 2)
    assert list(tmp_path.iterdir()) == []


def test_what_comes_after_a_failure_is_not_done(launcher, tmp_path):
    chores = [
        op(MKDIR, name(tmp_path / "missing" / "d"), struct.pack("<I", 0o700)),
        op(MKDIR, name(tmp_path / "after"), struct.pack("<I", 0o700)),
    ]

    assert do(launcher, *chores) == (errno.ENOENT, 0)
    assert not (tmp_path / "after").exists()


def test_what_is_to_go_and_is_not_there_is_no_failure(launcher, tmp_path):
    assert do(launcher, op(UNLINK, name(tmp_path / "x")), op(RMDIR, name(tmp_path / "y"))) == (0, 2)


def test_a_wish_may_fail_and_an_order_may_not(launcher, tmp_path):
    missing = name(tmp_path / "missing")

    assert do(launcher, op(WRITE, missing, blob(b"1", is_wish=True))) == (0, 1)
    assert do(launcher, op(WRITE, missing, blob(b"1"))) == (errno.ENOENT, 0)


def test_writing_follows_no_link(launcher, tmp_path):
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")

    assert do(launcher, op(WRITE, name(tmp_path / "link"), blob(b"x")))[0] == errno.ELOOP
    assert (tmp_path / "target").read_text() == "kept"


@pytest.mark.parametrize(
    "chore",
    [
        b"\x01",
        op(MKDIR, struct.pack("<I", 3) + b"rel", struct.pack("<I", 0o700)),
        op(MKDIR, struct.pack("<I", 4000) + b"/x"),
        op(WRITE, struct.pack("<I", 2) + b"/x"),
        op(UNLINK, struct.pack("<I", 2) + b"/x", b"more"),
        op(9, struct.pack("<I", 2) + b"/x"),
    ],
    ids=range(6),
)
def test_a_malformed_chore_is_refused_and_the_launcher_goes_on(launcher, chore):
    assert do(launcher, chore)[0] == errno.EINVAL
    launcher.send(struct.pack("<BBHI", 2, 0, 0, 7))
    assert launcher.expect(7).kind == PONG
