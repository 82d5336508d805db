"""Frames from an agent are an attack until proved whole."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas.agent import protocol
from faas.agent.protocol import Answer, Frame, FrameReader, ProtocolError, Request
from faas.errors import InvalidArgumentError, TooLargeError
from faas.model import ExitReason
from faas.sandbox.protocols import Command, FileKind

PARSERS = [
    protocol.parse_hello,
    protocol.parse_started,
    protocol.parse_output,
    protocol.parse_exit,
    protocol.parse_offset,
    protocol.parse_error,
    protocol.parse_list,
    protocol.parse_stat,
    protocol.parse_dir,
    protocol.parse_data,
]


def exit_payload(
    *, reason: int = 0, number: int = 0, zero: int = 0, kept: int = 5, total: int = 7
) -> bytes:
    return struct.pack(
        "<BBHIQQQQQQQQ", reason, number, zero, 3, kept, total, 1, 1, 1000, 200, 300, 4
    )


def entry(name: str, kind: int = 0, target: str = "") -> bytes:
    fixed = struct.pack("<BIIIQQ", kind, 0o644, 1, 2, 10, 11)
    return protocol.pack_string(name) + fixed + protocol.pack_string(target)


@pytest.mark.parametrize("parse", PARSERS)
@given(payload=st.binary(max_size=200))
def test_any_payload_is_a_value_or_a_protocol_error(parse, payload):
    with contextlib.suppress(ProtocolError):
        parse(payload)


@given(data=st.binary(max_size=400))
def test_any_stream_is_frames_or_a_protocol_error(data):
    reader = FrameReader()
    try:
        frames = list(reader.feed(data))
    except ProtocolError:
        return
    assert all(frame.kind in set(Answer) for frame in frames)
    assert sum(12 + len(frame.payload) for frame in frames) <= len(data)


@given(
    frames=st.lists(
        st.tuples(
            st.sampled_from(list(Answer)),
            st.integers(0, 0xFFFFFFFF),
            st.binary(max_size=60),
        ),
        max_size=6,
    ),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=50),
)
def test_frames_survive_any_cutting_of_the_stream(frames, cuts):
    stream = b"".join(protocol.pack_frame(kind, number, data) for kind, number, data in frames)
    reader, seen, at = FrameReader(), [], 0
    while at < len(stream):
        step = cuts[at % len(cuts)]
        seen += reader.feed(stream[at : at + step])
        at += step
    assert seen == [Frame(int(kind), number, data) for kind, number, data in frames]


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<IBBHI", protocol.PAYLOAD_BYTES_MAX + 1, Answer.OK, 0, 0, 1),
        struct.pack("<IBBHI", 0, Request.HELLO, 0, 0, 1),
        struct.pack("<IBBHI", 0, 0, 0, 0, 1),
        struct.pack("<IBBHI", 0, Answer.OK, 1, 0, 1),
        struct.pack("<IBBHI", 0, Answer.OK, 0, 1, 1),
    ],
    ids=["too long", "a request", "type zero", "flags", "third field"],
)
def test_a_header_no_agent_sends_is_refused(header):
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(header))


def test_a_huge_length_is_refused_before_anything_is_held():
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(struct.pack("<IBBHI", 0xFFFFFFFF, Answer.DATA, 0, 0, 1)))


def test_exit_is_taken_apart():
    ended = protocol.parse_exit(exit_payload(reason=1, number=9))
    assert ended.reason is ExitReason.SIGNALLED
    assert (ended.signal, ended.code) == (9, 3)
    assert (ended.stdout_kept, ended.stdout_total) == (5, 7)
    assert (ended.wall_us, ended.cpu_us, ended.memory_peak_bytes) == (1000, 500, 4096)


@pytest.mark.parametrize(
    "bad",
    [{"reason": 4}, {"number": 65}, {"zero": 1}, {"kept": 8}],
    ids=["reason", "signal", "zero field", "kept more than written"],
)
def test_an_exit_that_contradicts_itself_is_refused(bad):
    with pytest.raises(ProtocolError):
        protocol.parse_exit(exit_payload(**bad))


def test_fixed_payloads_have_exactly_their_length():
    with pytest.raises(ProtocolError):
        protocol.parse_exit(exit_payload() + b"\0")
    with pytest.raises(ProtocolError):
        protocol.parse_output(bytes(15))
    with pytest.raises(ProtocolError):
        protocol.parse_started(bytes(14))


def test_another_version_is_refused():
    with pytest.raises(ProtocolError, match="version 2"):
        protocol.parse_hello(struct.pack("<I16sI", 2, bytes(16), 1))


def test_a_directory_page_is_taken_apart():
    page = b"\1" + struct.pack("<I", 2) + entry("a") + entry("b", 2, "a")
    more, entries = protocol.parse_dir(page)
    assert more
    assert [(e.name, e.kind, e.link_target) for e in entries] == [
        ("a", FileKind.FILE, None),
        ("b", FileKind.SYMLINK, "a"),
    ]


@pytest.mark.parametrize(
    "payload",
    [
        b"\0" + struct.pack("<I", protocol.DIR_ENTRIES_MAX + 1),
        b"\2" + struct.pack("<I", 0),
        b"\0" + struct.pack("<I", 1) + entry("a", 4),
        b"\0" + struct.pack("<I", 1) + entry("a") + b"x",
        b"\0" + struct.pack("<I", 1) + entry("a")[:-1],
    ],
    ids=["too many", "no truth value", "no such kind", "left over", "cut off"],
)
def test_a_wrong_directory_page_is_refused(payload):
    with pytest.raises(ProtocolError):
        protocol.parse_dir(payload)


def test_words_of_an_error_cannot_draw_on_the_terminal():
    what = b"\x1b[2Jopen \xff"
    number, text = protocol.parse_error(struct.pack("<I", 2) + protocol.pack_blob(what))
    assert number == 2
    assert text.isprintable()
    assert "open" in text


def test_a_string_with_nul_is_never_packed():
    with pytest.raises(InvalidArgumentError):
        protocol.pack_string("a\0b")


def test_a_payload_past_the_limit_is_never_packed():
    with pytest.raises(TooLargeError):
        protocol.pack_frame(Request.WRITE, 1, bytes(protocol.PAYLOAD_BYTES_MAX + 1))


def test_exec_lays_out_its_fields_as_the_protocol_says():
    command = Command(
        ("ls", "-l"), env=(("A", "1"),), working_dir="/w", uid=5, gid=6, timeout_ms=7, grace_ms=8
    )
    packed = protocol.pack_exec("main", command)
    fixed = struct.unpack_from("<QQQIIHH", packed)
    assert fixed == (7, 8, command.output_bytes_max, 5, 6, 24, 80)
    assert packed[36:] == b"".join(
        [
            b"\4\0\0\0main",
            b"\2\0\0\0/w",
            b"\2\0\0\0",
            b"\2\0\0\0ls",
            b"\2\0\0\0-l",
            b"\1\0\0\0",
            b"\3\0\0\0A=1",
        ]
    )


def test_each_wish_of_a_command_has_its_own_flag():
    flags = [
        protocol.exec_flags(Command(("x",), is_exclusive=False)),
        protocol.exec_flags(Command(("x",))),
        protocol.exec_flags(Command(("x",), is_exclusive=False, tty=True)),
        protocol.exec_flags(Command(("x",), is_exclusive=False, stdin_open=True)),
        protocol.exec_flags(Command(("x",), is_exclusive=False, stdin=b"")),
    ]
    assert flags == [0, 1, 2, 4, 8]
