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
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("FAAS_")}
    done = subprocess.run(
        [sys.executable, "-m", "faas", *words],
        env={**inherited, "FAAS_GATEWAY_URL": gateway.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
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
