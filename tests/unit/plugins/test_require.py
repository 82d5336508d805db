"""The `--require` option turns a skip into a failure, and leaves the other skips alone."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SUITE = """
import pytest

@pytest.mark.needs_root
@pytest.mark.skip(reason="not root")
def test_root(): ...

@pytest.mark.skip(reason="no curl")
def test_tool(): ...

def test_fine(): ...
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.syspathinsert(Path(__file__).parents[3])
    pytester.makeini("[pytest]\nmarkers =\n    needs_root: root\n    needs_kvm: kvm\n")
    pytester.makepyfile(SUITE)
    return pytester


def run(suite: pytest.Pytester, *options: str) -> dict[str, int]:
    plugins = ("-p", "tests.plugins.require", "-p", "no:asyncio", "-p", "no:randomly")
    return suite.runpytest_inprocess(*plugins, *options).parseoutcomes()


def test_without_it_a_missing_part_is_a_skip(suite: pytest.Pytester) -> None:
    assert run(suite) == {"passed": 1, "skipped": 2}


def test_a_required_part_that_is_missing_fails(suite: pytest.Pytester) -> None:
    assert run(suite, "--require", "root") == {"passed": 1, "skipped": 1, "errors": 1}


def test_tools_stands_for_skips_without_a_marker(suite: pytest.Pytester) -> None:
    assert run(suite, "--require", "root,tools") == {"passed": 1, "errors": 2}


def test_an_unknown_part_is_refused(suite: pytest.Pytester) -> None:
    plugins = ("-p", "tests.plugins.require", "-p", "no:asyncio")
    result = suite.runpytest_inprocess(*plugins, "--require", "moon")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_module_that_skips_itself_fails_when_tools_are_required(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_whole="import pytest\npytest.importorskip('no_such_module')\n")
    plugins = ("-p", "tests.plugins.require", "-p", "no:asyncio", "-p", "no:randomly")
    result = suite.runpytest_inprocess(*plugins, "--require", "tools", "test_whole.py")
    assert result.ret != pytest.ExitCode.OK
