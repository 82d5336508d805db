"""Files of a sandbox through the agent."""

import contextlib
import errno
import io
import os
import socket
import struct
import tarfile
import threading
from pathlib import Path

import pytest
from tests.native.wire import (
    DATA,
    DIR_OK,
    LIST_DIR,
    MKDIR,
    READ,
    REMOVE,
    RENAME,
    STAT,
    STAT_OK,
    TAR_IN,
    TAR_OUT,
    WRITE,
    Entry,
    Frame,
    Host,
    blob,
    count_of,
    error_of,
    read_entry,
)

CHUNK = 512 << 10


def write(
    host: Host, path: Path | str, data: bytes, *, mode: int = 0o644, offset: int = 0, flags: int = 3
) -> Frame:
    payload = blob(str(path)) + struct.pack("<IQ", mode, offset) + blob(data)
    return host.call(WRITE, payload, flags=flags)


def read(
    host: Host, path: Path | str, *, offset: int = 0, length: int = CHUNK
) -> tuple[bool, bytes]:
    answer = host.call(READ, blob(str(path)) + struct.pack("<QI", offset, length))
    assert answer.type == DATA, error_of(answer)
    return bool(answer.payload[0]), answer.payload[5:]


def stat(host: Host, path: Path | str, *, follow: bool = False) -> Entry:
    answer = host.call(STAT, blob(str(path)), flags=int(follow))
    assert answer.type == STAT_OK, error_of(answer)
    entry, end = read_entry(answer.payload, 0)
    assert end == len(answer.payload)
    return entry


def list_dir(host: Host, path: Path | str, skip: int = 0) -> tuple[bool, list[Entry]]:
    answer = host.call(LIST_DIR, blob(str(path)) + struct.pack("<I", skip))
    assert answer.type == DIR_OK, error_of(answer)
    more, count = struct.unpack_from("<BI", answer.payload)
    entries, at = [], 5
    for _ in range(count):
        entry, at = read_entry(answer.payload, at)
        entries.append(entry)
    assert at == len(answer.payload)
    return bool(more), entries


def tar_in(host: Host, path: Path | str, data: bytes) -> Frame:
    ours, theirs = os.pipe()
    feeder = threading.Thread(target=_feed, args=(theirs, data))
    feeder.start()
    answer = host.call(TAR_IN, blob(str(path)), fds=[ours])
    os.close(ours)
    feeder.join()
    return answer


def _feed(fd: int, data: bytes) -> None:
    try:
        with os.fdopen(fd, "wb") as pipe:
            pipe.write(data)
    except BrokenPipeError:
        pass


def tar_out(host: Host, path: Path | str, place: Path) -> tuple[Frame, bytes]:
    with (place / "packed.tar").open("w+b") as sink:
        answer = host.call(TAR_OUT, blob(str(path)), fds=[sink.fileno()])
        return answer, (place / "packed.tar").read_bytes()


def archive(*members: tuple[tarfile.TarInfo, bytes], style: int = tarfile.PAX_FORMAT) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=style) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def member(
    name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644, **fields: object
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def test_what_is_written_is_read(host, place):
    data = os.urandom(CHUNK)
    assert count_of(write(host, place / "a/b/file", data, mode=0o640)) == CHUNK
    assert read(host, place / "a/b/file") == (True, data)
    assert read(host, place / "a/b/file", offset=CHUNK - 5, length=3) == (False, data[-5:-2])
    assert read(host, place / "a/b/file", offset=CHUNK + 5) == (True, b"")
    assert (place / "a/b/file").stat().st_mode & 0o7777 == 0o640


def test_writing_at_an_offset_keeps_the_rest(host, place):
    write(host, place / "f", b"0123456789")
    write(host, place / "f", b"xx", offset=4, flags=0)
    assert (place / "f").read_bytes() == b"0123xx6789"
    write(host, place / "f", b"new", flags=1)
    assert (place / "f").read_bytes() == b"new"


def test_stat_tells_what_there_is(host, place):
    (place / "file").write_bytes(b"12345")
    os.utime(place / "file", ns=(0, 1_234_567_890_123_456_789))
    (place / "link").symlink_to("file")
    (place / "pipe").unlink(missing_ok=True)
    os.mkfifo(place / "pipe")
    plain = stat(host, place / "file")
    assert (plain.name, plain.kind, plain.size, plain.mtime_ns) == (
        b"file",
        0,
        5,
        1_234_567_890_123_456_789,
    )
    assert (plain.uid, plain.gid) == (os.getuid(), os.getgid())
    assert stat(host, place).kind == 1
    assert (stat(host, place / "link").kind, stat(host, place / "link").target) == (2, b"file")
    assert stat(host, place / "link", follow=True).size == 5
    assert stat(host, place / "pipe").kind == 3
    assert stat(host, "/").name == b"/"


def test_a_directory_is_listed_in_order_and_in_pages(host, place):
    for number in range(2345):
        (place / f"n{number:05}").touch()
    names, more = [], True
    while more:
        more, entries = list_dir(host, place, len(names))
        assert len(entries) <= 1000
        names += [entry.name.decode() for entry in entries]
    assert [n for n in names if n.startswith("n0")] == [f"n{number:05}" for number in range(2345)]
    assert names == sorted(names)
    assert list_dir(host, place, 100_000) == (False, [])


def test_long_links_do_not_make_a_listing_too_long(host, place):
    (place / "links").mkdir()
    for number in range(400):
        (place / "links" / f"{number:03}").symlink_to("x" * 4000)
    more, entries = list_dir(host, place / "links")
    assert more
    assert entries[0].target == b"x" * 4000
    assert len(list_dir(host, place / "links", len(entries))[1]) > 0


def test_trees_are_removed_only_when_asked_to(host, place):
    (place / "tree/a/b").mkdir(parents=True)
    (place / "tree/a/file").touch()
    (place / "outside").mkdir()
    (place / "outside/kept").touch()
    (place / "tree/a/link").symlink_to(place / "outside")
    assert error_of(host.call(REMOVE, blob(str(place / "tree"))))[0] == errno.ENOTEMPTY
    count_of(host.call(REMOVE, blob(str(place / "tree")), flags=1))
    assert not (place / "tree").exists()
    assert (place / "outside/kept").exists()


def test_a_link_to_a_tree_is_removed_and_not_the_tree(host, place):
    (place / "tree").mkdir()
    (place / "tree/kept").touch()
    (place / "link").symlink_to(place / "tree")
    count_of(host.call(REMOVE, blob(str(place / "link")), flags=1))
    assert (place / "tree/kept").exists()


def test_directories_are_made_with_their_parents_when_asked_to(host, place):
    payload = blob(str(place / "x/y/z")) + struct.pack("<I", 0o700)
    assert error_of(host.call(MKDIR, payload))[0] == errno.ENOENT
    count_of(host.call(MKDIR, payload, flags=2))
    count_of(host.call(MKDIR, payload, flags=2))
    assert (place / "x/y/z").stat().st_mode & 0o777 == 0o700
    assert error_of(host.call(MKDIR, payload))[0] == errno.EEXIST


def test_files_are_renamed(host, place):
    (place / "old").write_text("content")
    count_of(host.call(RENAME, blob(str(place / "old")) + blob(str(place / "new"))))
    assert (place / "new").read_text() == "content"


@pytest.mark.parametrize("path", ["relative", "", "./x"])
def test_paths_that_are_not_absolute_are_refused(host, path):
    assert error_of(host.call(STAT, blob(path)))[0] == errno.EINVAL
    assert error_of(write(host, path, b""))[0] == errno.EINVAL


@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "proc", "socket"])
def test_what_is_no_plain_file_is_neither_read_nor_written(host, place, kind):
    os.mkfifo(place / "pipe")
    (place / "directory").mkdir()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(place / "socket"))
    path = {"device": "/dev/zero", "proc": "/proc/self/oom_score_adj"}.get(kind, str(place / kind))
    answers = [
        write(host, path, b"1", flags=0),
        host.call(READ, blob(path) + struct.pack("<QI", 0, 10)),
    ]
    assert {error_of(answer)[0] for answer in answers} <= {errno.EINVAL, errno.EISDIR, errno.ENXIO}
    server.close()


@pytest.mark.parametrize(
    "path",
    ["/proc/self/mem", "/proc/self/root/etc/hostname", "/proc/self/fd/0", "/proc/thread-self/exe"],
)
def test_no_way_leads_back_into_the_agent(host, place, path):
    (place / "innocent").symlink_to(path)
    for name in (path, str(place / "innocent")):
        assert error_of(write(host, name, b"x", flags=0))[0] in (
            errno.EINVAL,
            errno.ELOOP,
            errno.EACCES,
            errno.ENXIO,
            errno.EPERM,
        )


def test_numbers_that_are_too_large_are_refused(host, place):
    (place / "f").touch()
    read_far = host.call(READ, blob(str(place / "f")) + struct.pack("<QI", 1 << 63, 1))
    read_much = host.call(READ, blob(str(place / "f")) + struct.pack("<QI", 0, CHUNK + 1))
    answers = [
        read_far,
        read_much,
        write(host, place / "f", bytes(CHUNK + 1)),
        write(host, place / "f", b"x", offset=1 << 63),
    ]
    assert {error_of(answer)[0] for answer in answers} == {errno.EINVAL}


def test_a_tree_goes_in_and_comes_out_the_same(host, place):
    long = "/".join(["directory" * 5] * 5)
    data = archive(
        (member("a/", tarfile.DIRTYPE, mode=0o750), b""),
        (member("a/file", mode=0o755, mtime=1_500_000_000), b"content" * 999),
        (member(f"{long}/deep"), b"deep"),
        (member("a/soft", tarfile.SYMTYPE, link="../anywhere" * 20), b""),
        (member("a/hard", tarfile.LNKTYPE, link="a/file"), b""),
        (member("empty"), b""),
        (member("ümlaut ☃"), b"x"),
    )
    assert count_of(tar_in(host, place / "tree", data)) == 7
    assert (place / "tree/a").stat().st_mode & 0o777 == 0o750
    file = (place / "tree/a/file").stat()
    assert (file.st_mode & 0o777, file.st_mtime, file.st_nlink) == (0o755, 1_500_000_000, 2)
    answer, packed = tar_out(host, place / "tree", place)
    assert count_of(answer) == 7 + 5
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        members = {info.name: info for info in tar}
        assert tar.extractfile(f"{long}/deep").read() == b"deep"
        contents = [tar.extractfile(name).read() for name in ("a/file", "a/hard")]
    assert contents == [b"content" * 999] * 2
    assert members["a/soft"].linkname == "../anywhere" * 20
    assert {members["a/file"].islnk(), members["a/hard"].islnk()} == {True, False}
    assert "ümlaut ☃" in members


@pytest.mark.parametrize(
    "style",
    [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT],
    ids=["ustar", "gnu", "pax"],
)
def test_long_names_of_every_style_are_understood(host, place, style):
    name = "d" * 60 + "/" + "f" * 90
    long = name if style == tarfile.USTAR_FORMAT else name + "g" * 100
    link = "t" * 50 if style == tarfile.USTAR_FORMAT else "t" * 200
    data = archive(
        (member(long), b"x"), (member("link", tarfile.SYMTYPE, link=link), b""), style=style
    )
    assert count_of(tar_in(host, place / "t", data)) == 2
    assert (place / "t" / long).read_bytes() == b"x"
    assert str((place / "t/link").readlink()) == link


def test_one_file_comes_out_by_its_name(host, place):
    (place / "one").write_text("1")
    _, packed = tar_out(host, place / "one", place)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert tar.getnames() == ["one"]


@pytest.mark.parametrize(
    "evil",
    [
        member("/etc/evil"),
        member("../evil"),
        member("a/../../evil"),
        member("a/.."),
        member("device", tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("disk", tarfile.BLKTYPE, devmajor=8, devminor=0),
        member("pipe", tarfile.FIFOTYPE),
        member("hard", tarfile.LNKTYPE, link="/etc/passwd"),
        member("hard", tarfile.LNKTYPE, link="../outside"),
        member("sparse", tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda info: f"{info.name}-{info.type!r}",
)
def test_entries_that_lead_outside_or_are_devices_are_refused_by_name(host, place, evil):
    (place / "outside").write_text("kept")
    number, tried = error_of(tar_in(host, place / "t", archive((evil, b""))))
    assert number == errno.EINVAL
    assert evil.name.split("/")[-1] in tried
    assert [entry.name for entry in (place / "t").iterdir()] in ([], ["a"])


@pytest.mark.parametrize("target", ["/tmp", "..", "."])
def test_symlinks_in_the_tree_are_never_followed(host, place, target):
    data = archive((member("way", tarfile.SYMTYPE, link=target), b""), (member("way/evil"), b"x"))
    assert error_of(tar_in(host, place / "t", data))[0] in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV)
    assert not Path("/tmp/evil").exists()
    assert not (place / "evil").exists()
    assert not (place / "t/evil").exists()


def test_a_file_replaces_a_symlink_and_leaves_its_target(host, place):
    (place / "target").write_text("kept")
    data = archive(
        (member("f", tarfile.SYMTYPE, link=str(place / "target")), b""), (member("f"), b"new")
    )
    assert count_of(tar_in(host, place / "t", data)) == 2
    assert (place / "t/f").read_text() == "new"
    assert (place / "target").read_text() == "kept"


def test_a_hard_link_to_a_symlink_does_not_follow_it(host, place):
    (place / "target").write_text("kept")
    data = archive(
        (member("s", tarfile.SYMTYPE, link=str(place / "target")), b""),
        (member("h", tarfile.LNKTYPE, link="s"), b""),
    )
    tar_in(host, place / "t", data)
    assert (place / "target").stat().st_nlink == 1


def test_set_user_id_bits_do_not_come_in(host, place):
    count_of(tar_in(host, place / "t", archive((member("suid", mode=0o6755), b""))))
    assert (place / "t/suid").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("cut", [1, 511, 513, 700, 1023])
def test_a_stream_that_is_cut_off_is_refused(host, place, cut):
    data = archive((member("f"), bytes(3000)))[:cut]
    assert error_of(tar_in(host, place / "t", data))[0] == errno.EINVAL


def test_a_damaged_header_is_refused(host, place):
    data = bytearray(archive((member("f"), b"x")))
    data[0] ^= 1
    assert error_of(tar_in(host, place / "t", bytes(data)))[0] == errno.EINVAL


def test_an_empty_stream_is_an_empty_tree(host, place):
    assert count_of(tar_in(host, place / "t", b"")) == 0
    assert (place / "t").is_dir()


def test_what_is_not_there_cannot_be_packed(host, place):
    answer, _ = tar_out(host, place / "nothing", place)
    assert error_of(answer)[0] == errno.ENOENT


def test_the_agent_answers_others_while_a_tar_waits_for_its_source(agent, host, place):
    ours, theirs = os.pipe()
    number = host.new_id()
    from tests.native.wire import LIST, OK, frame

    host.send(frame(TAR_IN, number, blob(str(place / "t"))), [ours])
    assert host.call(LIST).payload == bytes(4)
    assert agent.connect().call(LIST).payload == bytes(4)
    os.close(ours)
    with os.fdopen(theirs, "wb") as pipe:
        pipe.write(archive((member("f"), b"x")))
    assert struct.unpack("<Q", host.expect(number, OK).payload) == (1,)


def test_a_host_that_goes_away_takes_its_worker_along(agent, place):
    ours, theirs = os.pipe()
    host = agent.connect()
    from tests.native.wire import LIST, frame

    host.send(frame(TAR_IN, 9, blob(str(place / "t"))), [ours])
    host.call(LIST)
    os.close(ours)
    host.close()
    with contextlib.suppress(BrokenPipeError):
        while True:
            os.write(theirs, bytes(65536))
    os.close(theirs)
