"""The data directory: private, held once, given back by the kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faas.data_dir import DataDir
from faas.errors import ConflictError, InvalidConfigError


def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    held = DataDir.hold(tmp_path / "a" / "data")
    try:
        places = (held.path, held.run_dir, held.images_dir, held.spool_dir)
        assert [place.stat().st_mode & 0o777 for place in places] == [0o700] * 4
    finally:
        held.release()


def test_a_second_holder_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    held = DataDir.hold(tmp_path)
    try:
        with pytest.raises(ConflictError, match=f"pid {os.getpid()}"):
            DataDir.hold(tmp_path)
    finally:
        held.release()


def test_after_release_it_can_be_held_again(tmp_path: Path) -> None:
    DataDir.hold(tmp_path).release()
    DataDir.hold(tmp_path).release()


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = "import sys, os, signal; from pathlib import Path; from faas.data_dir import DataDir\n"
    code += "DataDir.hold(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    DataDir.hold(tmp_path).release()


def test_a_child_of_the_holder_does_not_hold_it(tmp_path: Path) -> None:
    held = DataDir.hold(tmp_path)
    child = subprocess.Popen(["sleep", "60"])
    try:
        held.release()
        DataDir.hold(tmp_path).release()
    finally:
        child.kill()
        child.wait()


def test_a_place_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfigError):
        DataDir.hold(tmp_path / "file" / "data")


def test_the_tag_is_the_same_for_every_start_and_differs_by_place(tmp_path: Path) -> None:
    tags: list[str] = []
    for place in ("a", "a", "b"):
        held = DataDir.hold(tmp_path / place)
        tags.append(held.tag)
        held.release()
    assert tags[0] == tags[1] != tags[2]
    assert len(tags[0]) == 8


@pytest.mark.skipif(not Path("/dev/shm").is_mount(), reason="no tmpfs at /dev/shm")
def test_living_sandboxes_are_kept_in_memory_and_leave_nothing(tmp_path: Path) -> None:
    held = DataDir.hold(tmp_path)

    place = held.run_dir
    assert place != tmp_path / "run"
    assert place.stat().st_mode & 0o777 == 0o700
    held.release()
    assert not place.exists()


def test_a_place_in_memory_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    held = DataDir.hold(tmp_path)
    place = held.run_dir
    held.release()
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    try:
        again = DataDir.hold(tmp_path)
        assert again.run_dir == tmp_path / "run"
        again.release()
    finally:
        place.rmdir()


def test_what_an_older_gateway_left_in_a_plain_directory_stays(tmp_path: Path) -> None:
    (tmp_path / "run" / "sbx-old").mkdir(parents=True)

    held = DataDir.hold(tmp_path)

    assert held.run_dir == tmp_path / "run"
    held.release()
