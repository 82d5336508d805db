"""Every example runs, as a user runs it: a process, against a gateway process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def gateway() -> Iterator[LiveGateway]:
    with live_gateway() as gateway:
        yield gateway


def run(gateway: LiveGateway, script: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        "FAAS_GATEWAY_URL": gateway.url,
        "PYTHONPATH": str(ROOT / "sdks" / "python" / "src"),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", script, *arguments],
        cwd=script.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_quickstart_shows_what_it_says(gateway: LiveGateway) -> None:
    done = run(gateway, EXAMPLES / "python" / "quickstart.py")
    assert done.returncode == 0, done.stderr
    for shown in (
        "Hello, World!",
        "total: 15",
        "1 2 3",
        "Hello, stdin!",
        "['apple', 'pear']",
        "3 Process exited with code 3",
        "timed_out after it said started",
        "['0', '1', '2', '3', '4']",
        "gateway: healthy",
    ):
        assert shown in done.stdout


def test_the_advanced_example_shows_what_it_says(gateway: LiveGateway) -> None:
    done = run(gateway, EXAMPLES / "python" / "advanced.py")
    assert done.returncode == 0, done.stderr
    for shown in (
        "stdout: line 3",
        "exited with 0",
        "12 squared is 144",
        "cancelled after",
        "squares sum to 120",
        "the same answer twice: True",
        "to 640 pixels",
        "   42",
    ):
        assert shown in done.stdout


def test_the_state_example_shows_what_it_says(gateway: LiveGateway) -> None:
    done = run(gateway, EXAMPLES / "python" / "state.py")
    assert done.returncode == 0, done.stderr
    for shown in (
        "42 from the cache: True",
        "counted 1 then 2",
        "['shared', 'shared', 'shared']",
        "['a.txt', 'b.txt', 'base.txt', 'c.txt'] conflicts: 0",
        "the second won: True",
    ):
        assert shown in done.stdout


def test_a_real_projects_own_suite_passes_in_a_sandbox(gateway: LiveGateway) -> None:
    done = run(gateway, EXAMPLES / "real-project" / "run_tests.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 11 tests" in done.stderr
    assert "exit code 0 after" in done.stdout


def test_a_broken_project_fails_with_its_suites_code(gateway: LiveGateway, tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text(
        "import unittest\n"
        "class Broken(unittest.TestCase):\n"
        "    def test_it(self):\n"
        "        self.fail('on purpose')\n"
    )
    done = run(gateway, EXAMPLES / "real-project" / "run_tests.py", str(tmp_path))
    assert done.returncode == 1
    assert "on purpose" in done.stderr
