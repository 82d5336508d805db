"""`faas run --mode`, `faas run --from` and `faas snapshot`, against a gateway over the fake."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway


@pytest.fixture(scope="module")
def process() -> Iterator[LiveGateway]:
    with live_gateway(FAAS_RUNTIMES="fake") as gateway:
        yield gateway


def faas(gateway: LiveGateway, *words: str) -> str:
    done = asked(gateway, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_snapshot_is_made_compared_moved_and_deleted(
    process: LiveGateway, tmp_path: Path
) -> None:
    (tmp_path / "note").write_text("note")
    place = ("--file", f"{tmp_path}/note:/tmp/note")
    base = faas(process, "run", "-d", "--mode", "checkpointed", "true").strip()
    faas(process, "logs", "-f", base)
    kept = faas(process, "snapshot", "create", base, "--name", "base").strip()
    assert kept in faas(process, "snapshot", "list")
    child = faas(process, "run", "-d", "--from", base, *place, "true").strip()
    faas(process, "logs", "-f", child)
    grown = faas(process, "snapshot", "create", child).strip()
    assert "added     tmp/note" in faas(process, "snapshot", "diff", kept, grown)
    faas(process, "snapshot", "export", grown, f"{tmp_path}/grown")
    back = faas(process, "snapshot", "import", f"{tmp_path}/grown").strip()
    assert back.startswith("snap-")
    assert back in faas(process, "snapshot", "show", back)
    faas(process, "snapshot", "delete", back)
    assert back not in faas(process, "snapshot", "list")


def test_a_child_runs_in_its_parents_files(process: LiveGateway) -> None:
    base = faas(process, "run", "-d", "--mode", "checkpointed", "true").strip()
    faas(process, "logs", "-f", base)
    assert faas(process, "run", "--snapshot", base, "echo", "on") == "on\n"
    assert faas(process, "run", "--from", base, "echo", "child") == "child\n"


def asked(gateway: LiveGateway, *words: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("FAAS_")}
    return subprocess.run(
        [sys.executable, "-m", "faas", *words],
        env={**inherited, "FAAS_GATEWAY_URL": gateway.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def kept(process: LiveGateway) -> str:
    base = faas(process, "run", "-d", "--mode", "checkpointed", "true").strip()
    faas(process, "logs", "-f", base)
    return base


def test_a_checkpointed_run_tells_its_snapshot_beside_the_output(process: LiveGateway) -> None:
    done = asked(process, "run", "--mode", "checkpointed", "echo", "out")
    assert done.stdout == "out\n"
    assert done.stderr.startswith("faas: kept as snap-")


def test_children_run_side_by_side_and_come_in_their_order(process: LiveGateway) -> None:
    done = asked(process, "fork", kept(process), "-n", "2", "--each", "echo third", "echo", "same")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "same\nsame\nthird\n"
    assert done.stderr.count(" exited with 0\n") == 3


def test_a_fork_has_the_code_of_the_first_child_that_failed(process: LiveGateway) -> None:
    done = asked(process, "fork", kept(process), "--each", "true", "--each", "exit 3")
    assert done.returncode == 3


def test_a_fork_of_nothing_says_so(process: LiveGateway) -> None:
    done = asked(process, "fork", "exec-01k9zjv3f8q5r2m7c4x6w0n1ab", "true")
    assert done.returncode == 4
    assert asked(process, "fork", "exec-01k9zjv3f8q5r2m7c4x6w0n1ab").returncode == 2


def test_the_winner_of_a_race_is_shown(process: LiveGateway) -> None:
    base = kept(process)
    done = asked(process, "race", base, "--each", "exit 1", "--each", "echo won", "--check", "true")
    assert (done.returncode, done.stdout) == (0, "won\n")
    assert "kept as snap-" in done.stderr
    lost = asked(process, "race", base, "--each", "exit 1")
    assert (lost.returncode, lost.stderr) == (1, "nobody passed\n")


def test_a_snapshot_is_tagged_checked_and_restored(process: LiveGateway) -> None:
    made = faas(process, "snapshot", "create", kept(process), "--tag", "old").strip()
    faas(process, "snapshot", "tag", made, "new", "--name", "mine")
    shown = faas(process, "snapshot", "show", made)
    assert "mine" in shown
    assert "['new']" in shown
    assert "is whole" in asked(process, "snapshot", "verify", made).stderr
    assert "blobs are gone" in asked(process, "snapshot", "gc").stderr
    instance = faas(process, "snapshot", "restore", made).strip()
    assert made in faas(process, "instance", "show", instance)
    faas(process, "instance", "delete", instance)


def test_a_file_that_is_no_snapshot_is_refused_and_an_export_that_fails_leaves_no_file(
    process: LiveGateway, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_bytes(os.urandom(3 << 20))
    refused = asked(process, "snapshot", "import", f"{tmp_path}/bad")
    assert refused.returncode == 2
    assert "no exported snapshot" in refused.stderr
    unknown = "snap-01k9zjv3f8q5r2m7c4x6w0n1ab"
    assert asked(process, "snapshot", "export", unknown, f"{tmp_path}/new").returncode == 4
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_what_asks_for_memory_is_passed_on(process: LiveGateway) -> None:
    """The runtime in memory cannot keep any: it refuses by name what was understood."""
    for words in (
        ("run", "--memory-state", "--mode", "checkpointed", "true"),
        ("run", "--checkpoint-after", "1", "--memory-state", "true"),
        ("instance", "create", "--memory-state"),
        ("snapshot", "create", kept(process), "--memory-state"),
        ("fork", kept(process), "--memory-state"),
        ("executions", "checkpoint", kept(process)),
    ):
        done = asked(process, *words)
        assert done.returncode in (5, 7, 125), (words, done)
    assert asked(process, "run").returncode == 2
    instance = faas(process, "instance", "create").strip()
    assert asked(process, "instance", "pause", "--to-disk", instance).returncode == 7
    faas(process, "instance", "delete", instance)


def test_files_of_an_instance_are_listed_moved_packed_and_removed(
    process: LiveGateway, tmp_path: Path
) -> None:
    made = faas(process, "instance", "create").strip()
    (tmp_path / "note").write_text("note")
    faas(process, "instance", "put", f"{tmp_path}/note", f"{made}:/workspace/note")
    faas(process, "instance", "mv", f"{made}:/workspace/note", "/workspace/moved")
    listed = faas(process, "instance", "ls", f"{made}:/workspace")
    assert "moved" in listed
    assert "note" not in listed
    faas(process, "instance", "pack", f"{made}:/workspace", f"{tmp_path}/tar")
    faas(process, "instance", "rm", f"{made}:/workspace/moved")
    assert "moved" not in faas(process, "instance", "ls", f"{made}:/workspace")
    faas(process, "instance", "unpack", f"{tmp_path}/tar", f"{made}:/workspace")
    assert faas(process, "instance", "get", f"{made}:/workspace/moved") == "note"
    faas(process, "instance", "delete", made)
