"""The command line's face: help, typos, exit codes."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from faas import errors
from faas.cli.exits import exit_code
from faas.cli.main import COMMANDS, faas


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "faas", *words], capture_output=True, text=True, check=False
    )


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(faas, ["--help"]).output
    assert all(f"  {name}" in shown for name in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(faas, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_help_imports_no_command() -> None:
    code = "import sys; from faas.cli.main import main; sys.argv = ['faas', '--help']\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in sys.modules if m in ('starlette', 'msgspec', 'faas.assembly')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_a_misspelt_command_gets_the_nearest_name_and_exit_code_2() -> None:
    done = run("srve")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "error: No such command 'srve'. Did you mean serve?" in done.stderr


def test_a_wrong_configuration_is_told_in_full_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAAS_PORT", "x")
    monkeypatch.setenv("FAAS_LOG_LEVEL", "loud")
    done = run("serve")
    assert done.returncode == 2
    assert "error: 2 settings are wrong" in done.stderr
    assert "FAAS_PORT: 'x' is not a whole number" in done.stderr
    assert "hint: faas config --reference" in done.stderr


def test_listening_beyond_loopback_without_a_key_does_not_start() -> None:
    done = run("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "FAAS_ALLOW_INSECURE=true" in done.stderr


def test_no_gateway_is_exit_code_8_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAAS_GATEWAY_URL", "http://127.0.0.1:1")
    done = run("executions")
    assert done.returncode == 8
    assert "no gateway answers at http://127.0.0.1:1" in done.stderr
    assert "hint: start one with `faas serve`" in done.stderr


def test_no_gateway_is_exit_code_125_for_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAAS_GATEWAY_URL", "http://127.0.0.1:1")
    assert run("run", "--", "true").returncode == 125


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (errors.InvalidConfigError(), 2),
        (errors.TooLargeError(), 2),
        (errors.UnauthenticatedError(), 3),
        (errors.ImageNotFoundError(), 4),
        (errors.IdempotencyConflictError(), 5),
        (errors.QueueFullError(), 6),
        (errors.UnsupportedError(), 7),
        (errors.RuntimeUnavailableError(), 8),
        (errors.DeadlineExceededError(), 9),
        (errors.DigestMismatchError(), 10),
        (errors.SandboxBrokenError(), 70),
        (errors.FaasError(), 70),
    ],
)
def test_the_exit_code_says_who_must_act(failure: errors.FaasError, code: int) -> None:
    assert exit_code(failure) == code
