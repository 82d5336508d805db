"""The tiny interpreter of the fake gateway: enough to see words come back, and no more."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import List, Mapping, Sequence, Tuple

_TO_STDERR = "\1"
"""Stands for `>&2`, which the lexer would take apart."""


@dataclass(frozen=True)
class Outcome:
    """How a faked command ended."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    reason: str = "exited"
    duration_ms: int = 1


class _Exit(Exception):  # noqa: N818  a signal within this module
    def __init__(self, code: int, reason: str = "exited") -> None:
        self.code = code
        self.reason = reason


def interpret(
    argv: Sequence[str], *, stdin: bytes, env: Mapping[str, str], working_dir: str, timeout_ms: int
) -> Outcome:
    """Answer a command from the few programs known here."""
    shell = _Shell(stdin=stdin, env=dict(env), working_dir=working_dir, timeout_ms=timeout_ms)
    try:
        if tuple(argv[:2]) in (("sh", "-c"), ("bash", "-c")) and len(argv) > 2:  # noqa: PLR2004
            code = shell.script(argv[2])
        else:
            code = shell.program(list(argv))
        reason = "exited"
    except _Exit as end:
        code, reason = end.code, end.reason
    stdout, stderr = b"".join(shell.stdout), b"".join(shell.stderr)
    return Outcome(stdout, stderr, code, reason, max(1, int(shell.slept_ms)))


class _Shell:
    def __init__(
        self, *, stdin: bytes, env: Mapping[str, str], working_dir: str, timeout_ms: int
    ) -> None:
        self.stdin = stdin
        self.env = env
        self.working_dir = working_dir
        self.timeout_ms = timeout_ms
        self.stdout: List[bytes] = []
        self.stderr: List[bytes] = []
        self.slept_ms = 0.0

    def script(self, text: str) -> int:
        """Run commands joined by `&&`, `||`, `;` and line ends; quotes hide these."""
        code, joint = 0, ";"
        for words, next_joint in _commands(text):
            runs = joint in (";", "\n") or (joint == "&&") == (code == 0)
            if runs and words:
                code = self.program([self._expand(word) for word in words])
            joint = next_joint
        return code

    def program(self, argv: List[str]) -> int:
        name, arguments = argv[0].rsplit("/", 1)[-1], argv[1:]
        if name in ("sh", "bash") and arguments[:1] == ["-c"]:
            return self.script(arguments[1])
        known = getattr(self, f"_run_{name}", None)
        if known is None:
            message = f"fake gateway: {name!r} is not scripted; use FakeGateway.on or .answer\n"
            self.stderr.append(message.encode())
            return 127
        code: int = known(arguments)
        return code

    def _expand(self, word: str) -> str:
        if word.startswith("\0"):
            return word[1:]
        return re.sub(r"\$\{?(\w+)\}?", lambda name: self.env.get(name.group(1), ""), word)

    def _run_echo(self, arguments: List[str]) -> int:
        end = "\n"
        if arguments[:1] == ["-n"]:
            end, arguments = "", arguments[1:]
        out, words = self.stdout, arguments
        if words and words[-1] == _TO_STDERR:
            out, words = self.stderr, words[:-1]
        out.append((" ".join(words) + end).encode())
        return 0

    def _run_printf(self, arguments: List[str]) -> int:
        text = arguments[0] if arguments else ""
        self.stdout.append(
            text.replace("\\n", "\n").replace("%s", " ".join(arguments[1:])).encode()
        )
        return 0

    def _run_cat(self, _arguments: List[str]) -> int:
        self.stdout.append(self.stdin)
        self.stdin = b""
        return 0

    def _run_env(self, _arguments: List[str]) -> int:
        lines = [f"{name}={value}\n" for name, value in self.env.items()]
        self.stdout.append("".join(lines).encode())
        return 0

    def _run_pwd(self, _arguments: List[str]) -> int:
        self.stdout.append(f"{self.working_dir}\n".encode())
        return 0

    def _run_true(self, _arguments: List[str]) -> int:
        return 0

    def _run_false(self, _arguments: List[str]) -> int:
        return 1

    def _run_exit(self, arguments: List[str]) -> int:
        raise _Exit(int(arguments[0]) if arguments else 0)

    def _run_sleep(self, arguments: List[str]) -> int:
        self.slept_ms += float(arguments[0]) * 1000
        if self.slept_ms > self.timeout_ms:
            self.slept_ms = self.timeout_ms
            raise _Exit(124, "timed_out")
        return 0


def _commands(text: str) -> List[Tuple[List[str], str]]:
    """Split a script into (words, what joins it to the next); NUL marks a word in single quotes."""
    plain = text.replace("1>&2", ">&2").replace(">&2", _TO_STDERR).replace("\n", " ; ")
    lexer = shlex.shlex(plain, posix=False, punctuation_chars=";&|")
    lexer.whitespace_split = True
    commands: List[Tuple[List[str], str]] = []
    words: List[str] = []
    for token in lexer:
        if token in (";", "&&", "||"):
            commands.append((words, token))
            words = []
        elif token.startswith("'"):
            words.append("\0" + token.strip("'"))
        else:
            words.append("".join(shlex.split(token)) if token else token)
    commands.append((words, ";"))
    return commands
