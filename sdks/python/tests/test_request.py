"""The body that goes on the wire."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

import pytest

from faas_sdk import ExecutionMode, Runtime, pack_directory
from faas_sdk._archive import read_archive
from faas_sdk._languages import ARGUMENT_BYTES_MAX, bash, javascript, python, typescript
from faas_sdk._request import build_body, read_seconds, reads_disk


def test_only_what_was_given_is_sent() -> None:
    body = build_body("echo hi", {"image": None, "timeout_ms": 5, "mode": None})
    assert body == {"command": "echo hi", "timeout_ms": 5}


def test_a_list_stays_a_list() -> None:
    assert build_body(("echo", "a b"), {})["command"] == ["echo", "a b"]


def test_zero_and_false_are_sent_because_they_were_given() -> None:
    body = build_body("x", {"output_limit": 0, "tty": False})
    assert (body["output_limit"], body["tty"]) == (0, False)


def test_the_clients_runtime_is_used_unless_the_call_has_its_own() -> None:
    assert build_body("x", {}, runtime=Runtime.DOCKER)["runtime"] == "docker"
    given = build_body("x", {"runtime": Runtime.EMBEDDED}, runtime=Runtime.DOCKER)
    assert given["runtime"] == "embedded"


def test_auto_is_left_to_the_gateway_unless_the_call_says_it() -> None:
    assert "runtime" not in build_body("x", {}, runtime=Runtime.AUTO)
    assert build_body("x", {"runtime": "auto"}, runtime=Runtime.DOCKER)["runtime"] == "auto"


def test_modes_and_runtimes_may_be_words_or_enums() -> None:
    assert build_body("x", {"mode": ExecutionMode.CACHED})["mode"] == "cached"
    assert build_body("x", {"mode": "cached"})["mode"] == "cached"


def test_env_vars_may_be_pairs() -> None:
    assert build_body("x", {"env_vars": [("A", "1")]})["env_vars"] == {"A": "1"}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("text", "text"),
        (b"\xff\0", {"base64": "/wA="}),
        ([255, 0], {"base64": "/wA="}),
        ("", ""),
    ],
)
def test_stdin_travels_as_text_or_base64(given: object, sent: object) -> None:
    assert build_body("x", {"payload": given})["payload"] == sent  # type: ignore[typeddict-item]
    if not isinstance(given, list):
        assert build_body("x", {"stdin": given})["payload"] == sent  # type: ignore[typeddict-item]


def test_payload_and_stdin_together_are_refused() -> None:
    with pytest.raises(TypeError, match="same thing"):
        build_body("x", {"payload": "a", "stdin": "b"})


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="no such option: timeout;"):
        build_body("x", {"timeout": 5})  # type: ignore[typeddict-unknown-key]


def test_files_are_text_bytes_or_paths_with_their_mode(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_bytes(b"\xfe")
    script.chmod(0o755)
    files = build_body("x", {"files": {"a": "t", "b": b"\xff", "c": script}})["files"]
    assert files == [
        {"path": "a", "content": "t"},
        {"path": "b", "content_base64": "/w=="},
        {"path": "c", "content_base64": "/g==", "mode": 0o755},
    ]


def test_only_paths_are_read_in_a_thread(tmp_path: Path) -> None:
    assert reads_disk({"files": {"a": tmp_path}})
    assert reads_disk({"archive": "somewhere"})
    assert not reads_disk({"files": {"a": "text"}, "archive": b""})
    assert not reads_disk({})


def test_the_answer_may_take_the_commands_time_and_the_slack() -> None:
    assert read_seconds({"timeout_ms": 2000}, slack_seconds=30) == 32
    assert read_seconds({}, slack_seconds=30) > 300


def make_project(root: Path) -> None:
    (root / "pkg").mkdir(parents=True)
    (root / "pkg" / "b.py").write_text("b")
    (root / "a.sh").write_text("a")
    (root / "a.sh").chmod(0o755)
    (root / "link").symlink_to("a.sh")
    for left_out in (".git", "__pycache__", ".venv", "node_modules"):
        (root / "pkg" / left_out).mkdir()
        (root / "pkg" / left_out / "x").write_text("x")


def names(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return opened.getnames()


def test_a_directory_is_packed_without_what_is_made_again(tmp_path: Path) -> None:
    make_project(tmp_path)
    assert names(pack_directory(tmp_path)) == ["a.sh", "link", "pkg", "pkg/b.py"]


def test_everything_is_packed_when_nothing_is_left_out(tmp_path: Path) -> None:
    make_project(tmp_path)
    assert "pkg/.git/x" in names(pack_directory(tmp_path, leave_out=()))


def test_modes_and_links_survive_and_owners_do_not(tmp_path: Path) -> None:
    make_project(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(pack_directory(tmp_path))) as tar:
        assert tar.getmember("a.sh").mode & 0o777 == 0o755
        assert tar.getmember("link").linkname == "a.sh"
        assert {(member.uid, member.uname, member.mtime) for member in tar} == {(0, "", 0)}


def test_the_same_directory_packs_to_the_same_bytes(tmp_path: Path) -> None:
    make_project(tmp_path / "one")
    make_project(tmp_path / "two")
    assert pack_directory(tmp_path / "one") == pack_directory(tmp_path / "two")


def test_an_archive_may_be_a_directory_a_file_or_bytes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_project(source)
    tar = pack_directory(source)
    plain, gzipped = tmp_path / "x.tar", tmp_path / "x.tar.gz"
    plain.write_bytes(tar)
    with tarfile.open(gzipped, "w:gz") as packed:
        packed.add(source / "a.sh", "a.sh")
    assert read_archive(source) == read_archive(str(plain)) == read_archive(tar) == tar
    assert names(read_archive(gzipped)) == ["a.sh"]
    encoded = build_body("x", {"archive": source})["archive_base64"]
    assert base64.b64decode(encoded) == tar


def test_what_is_no_tar_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="archive= takes"):
        read_archive(b"PK\x03\x04 a zip")


NASTY = "print('it''s', \"$HOME\", `x`, '\\\\n')\n# end"


def test_code_is_one_argument_as_it_is() -> None:
    assert python(NASTY).argv == ["python3", "-c", NASTY]
    assert javascript(NASTY).argv == ["node", "-e", NASTY]
    assert bash(NASTY).argv[-2:] == ["-c", NASTY]


def test_long_code_travels_as_a_file() -> None:
    code = "#" * (ARGUMENT_BYTES_MAX + 1)
    for make in (python, javascript, bash):
        command = make(code)
        path = command.argv[-1]
        assert command.files == {path: code}
        assert all(len(argument) < 1000 for argument in command.argv)


def test_length_is_counted_in_bytes_not_characters() -> None:
    assert python("é" * (ARGUMENT_BYTES_MAX // 2 + 1)).files


def test_typescript_is_always_a_file_named_ts() -> None:
    command = typescript("const a: number = 1")
    assert command.argv[-1].endswith(".ts")
    assert command.files == {command.argv[-1]: "const a: number = 1"}
