"""Code in a language, as a command: one argument, never through a shell's quoting."""

from __future__ import annotations

from typing import Callable, Dict, List, NamedTuple, Optional

ARGUMENT_BYTES_MAX = 100_000
"""Linux refuses a single argument of 128 KiB; longer code travels as a file."""

# `bash` is what the name promises, `sh` what every image has.
_BASH = """
if command -v bash >/dev/null 2>&1; then exec bash "$@"; fi
exec sh "$@"
"""

# Nobody's image has all of these, most have one. Node strips types itself since 22.6.
_TYPESCRIPT = """
for runner in tsx ts-node bun; do
  if command -v $runner >/dev/null 2>&1; then exec $runner "$1"; fi
done
if command -v deno >/dev/null 2>&1; then exec deno run --quiet "$1"; fi
if node --experimental-strip-types -e '' >/dev/null 2>&1; then
  exec node --experimental-strip-types --no-warnings "$1"
fi
echo 'faas: nothing here runs TypeScript: the image needs node 22.6, tsx, ts-node, bun or deno' >&2
exit 127
"""


class CodeCommand(NamedTuple):
    """What to run, where, and with which file put there first."""

    argv: List[str]
    image: Optional[str]
    files: Dict[str, str]


def python(code: str) -> CodeCommand:
    """Run Python code."""
    return _inline_or_file(code, ["python3"], "-c", "py", image="python:3.11-slim")


def javascript(code: str) -> CodeCommand:
    """Run JavaScript with Node."""
    return _inline_or_file(code, ["node"], "-e", "js", image="node:20-slim")


def bash(script: str) -> CodeCommand:
    """Run a shell script: with bash where there is one, else sh."""
    return _inline_or_file(script, ["sh", "-c", _BASH, "bash"], "-c", "sh", image=None)


def typescript(code: str) -> CodeCommand:
    """Run TypeScript with whatever the image has for it."""
    path = "/tmp/faas-code.ts"  # noqa: S108  a path in the sandbox, which is nobody else's
    return CodeCommand(["sh", "-c", _TYPESCRIPT, "faas", path], "node:20-slim", {path: code})


def _inline_or_file(
    code: str, program: List[str], flag: str, suffix: str, *, image: Optional[str]
) -> CodeCommand:
    if len(code.encode("utf-8", "surrogatepass")) <= ARGUMENT_BYTES_MAX:
        return CodeCommand([*program, flag, code], image, {})
    path = f"/tmp/faas-code.{suffix}"  # noqa: S108  a path in the sandbox, which is nobody else's
    return CodeCommand([*program, path], image, {path: code})


LANGUAGES: Dict[str, Callable[[str], CodeCommand]] = {
    "python": python,
    "javascript": javascript,
    "js": javascript,
    "node": javascript,
    "typescript": typescript,
    "ts": typescript,
    "bash": bash,
    "shell": bash,
    "sh": bash,
}
