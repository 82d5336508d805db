"""EXPORT and ADOPT of a command on a terminal: what was typed and not read, taken and put back."""

import errno
import os
import termios
import time

import pytest
from tests.native.wire import STDIN_OPEN, TTY, error_of, frame

from faas.agent.moving import EXPORT_STANDS_STILL, adopt_flags, pack_adopt, parse_exported

EXPORT, ADOPT, STARTED, ERROR, EXPORTED = 26, 27, 66, 71, 77
RAW = "stty raw -echo; echo ready; exec sleep 1000"
LINES = "echo ready; exec sleep 1000"


def exported(host, command, *, flags=EXPORT_STANDS_STILL):
    host.send(frame(EXPORT, command.id, flags=flags))
    answer = host.expect(command.id, EXPORTED, ERROR)
    assert answer.type == EXPORTED, error_of(answer)
    return parse_exported(answer.payload)


@pytest.fixture
def typed_at(run):
    """A command that reads nothing, and what was typed for it."""
    begun = []

    def begin(script: str, text: bytes):
        command = run("sh", "-c", script, flags=TTY | STDIN_OPEN)
        begun.append(command)
        command.wait_for_output(b"ready")
        command.stdin(0, text)
        return command

    yield begin
    for command in begun:
        command.signal(9, tree=True)
        command.wait()


def test_what_was_typed_is_told_only_when_asked_for_and_stays_there(host, typed_at):
    command = typed_at(LINES, b"one\ntw\x16\x03o")
    assert exported(host, command, flags=0).terminal.typed == b""
    first = exported(host, command)
    assert first.terminal.typed == b"\x01\0\0one\ntw\x16\x03o"
    assert exported(host, command) == first
    assert command.output.count(b"one") == 1  # the echo of when it was typed, and no other


def test_without_lines_bytes_are_told_as_they_are(host, typed_at):
    text = bytes(range(256)) * 2
    command = typed_at(RAW, text)
    for _ in range(2):
        assert exported(host, command).terminal.typed == b"\0\0\0" + text


@pytest.mark.parametrize("script", [LINES, RAW])
def test_more_than_can_be_put_back_is_refused_and_stays_there(host, typed_at, script):
    command = typed_at(script, b"x" * 3000 + b"\n" + b"y" * 700 + b"\n")
    for _ in range(2):
        host.send(frame(EXPORT, command.id, flags=EXPORT_STANDS_STILL))
        assert error_of(host.expect(command.id, EXPORTED, ERROR))[0] == errno.EBUSY


def test_a_flag_that_is_not_in_the_table_ends_the_connection(host, typed_at, agent):
    command = typed_at(LINES, b"")
    other = agent.connect()
    other.send(frame(EXPORT, command.id, flags=2))
    other.until_ended()


def adopt(host, name, command, descriptors):
    number = host.new_id()
    payload = pack_adopt(name, command)
    host.send(frame(ADOPT, number, payload, adopt_flags(command)), descriptors)
    return host.expect(number, STARTED, ERROR)


def test_what_is_adopted_is_read_line_by_line_and_not_echoed(host, typed_at, tmp_path):
    command = typed_at(LINES, b"one\nend\x04half")
    told = exported(host, command)
    master, slave = os.openpty()
    spools = [os.open(tmp_path / n, os.O_RDWR | os.O_CREAT) for n in ("out", "err")]
    assert adopt(host, "other", told, [*spools, master]).type == STARTED
    os.set_blocking(slave, False)
    assert [os.read(slave, 100) for _ in range(2)] == [b"one\n", b"end"]
    with pytest.raises(BlockingIOError):
        os.read(slave, 100)
    settings = termios.tcgetattr(slave)
    assert settings[3] & (termios.ICANON | termios.ECHO) == termios.ICANON | termios.ECHO
    settings[3] &= ~termios.ICANON
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    assert os.read(slave, 100) == b"half"
    os.write(slave, b"said")
    deadline = time.monotonic() + 10
    while (tmp_path / "out").read_bytes()[told.stdout_kept :] != b"said":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for descriptor in (slave, *spools):
        os.close(descriptor)


def test_what_is_no_terminal_is_not_adopted_as_one(host, typed_at, tmp_path):
    told = exported(host, typed_at(LINES, b""))
    opened = [os.open(tmp_path / str(n), os.O_RDWR | os.O_CREAT) for n in range(3)]
    assert adopt(host, "other", told, opened).type == ERROR
