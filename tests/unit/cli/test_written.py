"""What people write on the command line, and what they meant."""

from types import SimpleNamespace

import click
import pytest

from faas.cli import main, shell_line
from faas.cli.quantities import Megabytes, Seconds


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [("512", 512), ("512M", 512), ("2G", 2048), ("1.5gib", 1536), ("64mb", 64)],
)
def test_a_size_may_have_a_unit(text: str, megabytes: int) -> None:
    assert Megabytes().convert(text, None, None) == megabytes


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10), ("0.5", 0.5), ("10s", 10), ("500ms", 0.5), ("2m", 120)]
)
def test_a_time_may_have_a_unit(text: str, seconds: float) -> None:
    assert Seconds().convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "much", "-1", "10k", "1,5", "0.3", "1e3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no size"):
        Megabytes().convert(text, None, None)


@pytest.mark.parametrize("text", ["", "soon", "-1", "10d", "1:30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no time"):
        Seconds().convert(text, None, None)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["echo hello"], "faas run -c 'echo hello'"),
        (["cd", "/tmp", "&&", "ls"], "faas run -c 'cd /tmp && ls'"),
        (["ls", "|", "wc"], "faas run -c 'ls | wc'"),
    ],
)
def test_a_line_for_the_shell_is_recognised(argv: list[str], line: str) -> None:
    assert line in (shell_line.remedy(argv) or "")


def test_a_program_that_is_missing_is_no_line() -> None:
    assert shell_line.remedy(["nosuchprogram", "--flag", "a b"]) is None


def test_a_package_that_is_missing_is_told_with_the_extra_that_brings_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'eth_abi'", name="eth_abi.abi")

    monkeypatch.setattr(main, "faas", SimpleNamespace(main=missing))
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 7
    told = capsys.readouterr().err
    assert "eth_abi" in told
    assert "[tangle]" in told


def test_our_own_module_that_is_missing_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'faas.x'", name="faas.x")

    monkeypatch.setattr(main, "faas", SimpleNamespace(main=missing))
    with pytest.raises(ModuleNotFoundError):
        main.main()
