"""The few words of shell that a fake sandbox understands.

`echo [-n] words [>&2]`, `printf word`, `cat`, `sleep seconds`, `exit code`, `kill -signal $$`,
`true`, `false`, `pwd`, `env`, joined by `;`, `&&` or new lines. Anything else is not found.
"""

import posixpath
import shlex
from dataclasses import dataclass

from faas.sandbox.protocols import Command


@dataclass(frozen=True, slots=True)
class Write:
    """Write to stdout (1) or stderr (2)."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass, or copy stdin to stdout until it ends."""

    seconds: float = 0.0
    for_stdin: bool = False


@dataclass(frozen=True, slots=True)
class Quit:
    """End the program."""

    code: int = 0
    signal: int | None = None


Step = Write | Wait | Quit

_SHELLS = frozenset({"sh", "bash"})


def interpret(command: Command) -> list[Step]:
    """Say what a command does, step by step; the last step is always a `Quit`."""
    argv = command.argv
    if posixpath.basename(argv[0]) in _SHELLS and argv[1:2] == ("-c",):
        return _script(argv[2], command)
    steps, code = _program(list(argv), command)
    return [*steps, Quit(code)]


def _script(script: str, command: Command) -> list[Step]:
    steps: list[Step] = []
    code = 0
    for line in script.replace("&&", ";").replace("\n", ";").split(";"):
        words = _words(line)
        if not words:
            continue
        if words[0] == "exit":
            return [*steps, Quit(int(words[1]) & 255 if len(words) > 1 else code)]
        if words[0] == "kill":
            return [*steps, Quit(signal=int(words[1].lstrip("-")))]
        done, code = _program(words, command)
        steps += done
    return [*steps, Quit(code)]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return ["syntax-error"]


def _program(  # noqa: PLR0911  one return a word
    words: list[str], command: Command
) -> tuple[list[Step], int]:
    stream = 1
    if words[-1] == ">&2":
        stream, words = 2, words[:-1]
    name, arguments = posixpath.basename(words[0]), words[1:]
    match name:
        case "echo" | "printf":
            is_bare = name == "printf" or arguments[:1] == ["-n"]
            text = " ".join(arguments[1:] if arguments[:1] == ["-n"] else arguments)
            return [Write(stream, text.encode() + (b"" if is_bare else b"\n"))], 0
        case "cat":
            return [_cat(command)], 0
        case "sleep":
            return [Wait(seconds=float(arguments[0]))], 0
        case "pwd":
            return [Write(stream, command.working_dir.encode() + b"\n")], 0
        case "env":
            lines = "".join(f"{key}={value}\n" for key, value in command.env)
            return [Write(stream, lines.encode())], 0
        case "true" | "false":
            return [], int(name == "false")
        case _:
            return [Write(2, f"faas: {words[0]}: not found\n".encode())], 127


def _cat(command: Command) -> Step:
    if command.stdin_open:
        return Wait(for_stdin=True)
    return Write(1, command.stdin or b"")
