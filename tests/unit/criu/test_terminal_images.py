"""What is changed in CRIU's image of terminals, and that nothing else is."""

import struct
from pathlib import Path

import pytest

from faas.criu.image_format import varint
from faas.criu.terminal_images import change_terminals, name_of, openings
from faas.errors import DataLossError

HEAD = b"\x19\x43\x56\x54\x36\x30\x45\x59"
OLD, NEW, LEADER, JOB = 0x7000_0005, 0x7000_0009, 1001, 1002
SETTINGS = b"\x08\x01"


def message(*fields: tuple[int, int | bytes]) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        else:
            out += varint(number << 3) + varint(value)
    return out


def image(*messages: bytes) -> bytes:
    return HEAD + b"".join(struct.pack("<I", len(one)) + one for one in messages)


def terminal(
    number: int, *, kind: int = 5, session: int = 0, group: int = 0, user: int = OLD
) -> bytes:
    return message(
        (1, number), (2, kind), (3, 0), (4, 0), (5, 0), (6, session), (7, group), (8, 0x8800),
        (9, SETTINGS), (13, 0x4B), (14, user), (15, user),
    )  # fmt: skip


def opened(number: int, info: int, flags: int) -> bytes:
    fown = message((1, 0), (2, 0), (3, 0), (4, 0), (5, 0))
    return message(
        (1, 11), (2, number), (19, message((1, number), (2, info), (3, flags), (4, fown)))
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    tree = [(LEADER, 1, LEADER, LEADER), (JOB, LEADER, JOB, LEADER)]
    processes = [message(*enumerate(numbers, 1)) for numbers in tree]
    (tmp_path / "pstree.img").write_bytes(image(*processes))
    (tmp_path / "files.img").write_bytes(image(opened(1, 70, 0o2), opened(2, 72, 0o4002)))
    return tmp_path


def write(images: Path, *terminals: bytes) -> Path:
    (images / "tty-info.img").write_bytes(image(*terminals))
    target = images / "own"
    target.mkdir()
    return target


def test_each_opening_gets_a_name_of_its_own_and_keeps_its_flags(images: Path) -> None:
    target = write(images, terminal(70, session=LEADER, group=JOB), terminal(72))
    found = change_terminals(images, target, old=OLD, new=NEW)
    assert [(one.flags, one.terminal, one.session) for one in found] == [
        (0o2, name_of(0x8800, 0x4B), LEADER),
        (0o4002, name_of(0x8800, 0x4B), 0),
    ]
    assert len({one.name for one in found}) == 2
    (images / "own" / "files.img").write_bytes((images / "files.img").read_bytes())
    assert [one.terminal for one in openings(target)] == [one.name for one in found]


def test_the_user_becomes_the_new_one_and_others_stay(images: Path) -> None:
    target = write(images, terminal(70), terminal(72, user=5))
    change_terminals(images, target, old=OLD, new=NEW)
    data = (target / "tty-info.img").read_bytes()
    assert data.count(message((14, NEW), (15, NEW))) == 1
    assert data.count(message((14, 5), (15, 5))) == 1
    assert varint(OLD) not in data


@pytest.mark.parametrize(
    ("session", "group", "becomes"),
    [
        (LEADER, JOB, (LEADER, JOB)),
        (LEADER, 4000, (LEADER, LEADER)),
        (4000, 4000, (0, 0)),
        (JOB, JOB, (0, 0)),
    ],
)
def test_sessions_and_groups_of_other_trees_are_left_out(
    images: Path, session: int, group: int, becomes: tuple[int, int]
) -> None:
    target = write(images, terminal(70, session=session, group=group))
    change_terminals(images, target, old=OLD, new=NEW)
    data = (target / "tty-info.img").read_bytes()
    assert message((6, becomes[0]), (7, becomes[1])) in data


def test_one_that_is_all_there_is_not_handed_over(images: Path) -> None:
    target = write(images, terminal(70, kind=1))
    assert change_terminals(images, target, old=OLD, new=NEW) == []
    assert message((8, 0x8800), (9, SETTINGS)) in (target / "tty-info.img").read_bytes()


def test_one_without_settings_was_hung_up(images: Path) -> None:
    hung = message((1, 70), (2, 5), (6, 0), (7, 0), (8, 0x8800), (13, 0x4B))
    write(images, hung)
    assert [one.is_hung_up for one in openings(images)] == [True]


def test_without_terminals_there_is_nothing_to_write(images: Path, tmp_path: Path) -> None:
    assert change_terminals(images, tmp_path, old=OLD, new=NEW) == []
    assert not (tmp_path / "tty-info.img").exists()


def test_an_image_that_is_cut_off_is_refused_at_every_byte(images: Path) -> None:
    whole = image(terminal(70, session=LEADER, group=JOB))
    target = images / "own"
    target.mkdir()
    for length in range(len(HEAD) + 1, len(whole)):
        (images / "tty-info.img").write_bytes(whole[:length])
        with pytest.raises(DataLossError):
            change_terminals(images, target, old=OLD, new=NEW)
