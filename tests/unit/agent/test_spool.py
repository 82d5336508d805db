"""Output is read by offset, at any time, by anybody who knows the file."""

import os

import pytest

from faas.agent.spool import Spool, open_for_agent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool"


def test_a_spool_that_is_not_there_yet_reads_as_empty(path):
    with Spool(path) as spool:
        assert (spool.size(), spool.read(offset=0, length=10)) == (0, b"")


def test_a_reader_may_come_before_the_writer(path):
    with Spool(path) as spool:
        assert spool.read(offset=0, length=10) == b""
        path.write_bytes(b"hello")
        assert spool.read(offset=1, length=3) == b"ell"


def test_growth_is_seen_by_an_open_reader(path):
    path.write_bytes(b"one")
    with Spool(path) as spool:
        assert spool.read(offset=0, length=100) == b"one"
        with path.open("ab") as writer:
            writer.write(b"two")
        assert spool.read(offset=3, length=100) == b"two"
        assert spool.size() == 6


def test_past_the_end_is_empty(path):
    path.write_bytes(b"x")
    with Spool(path) as spool:
        assert spool.read(offset=50, length=5) == b""


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
def test_offsets_count_from_zero(path, offset, length):
    path.write_bytes(b"x")
    with Spool(path) as spool, pytest.raises(ValueError, match="count from zero"):
        spool.read(offset=offset, length=length)


def test_a_link_in_place_of_a_spool_is_refused(path, tmp_path):
    (tmp_path / "secret").write_text("s")
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        Spool(path).read(offset=0, length=1)
    with pytest.raises(OSError, match="symbolic links"):
        open_for_agent(path)


def test_opening_for_the_agent_keeps_what_is_there(path):
    path.write_bytes(b"kept")
    os.close(open_for_agent(path))
    assert path.read_bytes() == b"kept"


def test_a_spool_is_private(path):
    os.close(open_for_agent(path))
    assert path.stat().st_mode & 0o077 == 0
