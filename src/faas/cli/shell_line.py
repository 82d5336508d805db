"""Whether a command that was not found was meant as a line for the shell."""

import shlex
from collections.abc import Sequence

NOT_FOUND = 127
_OPERATORS = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1"})
_BUILTINS = frozenset({"cd", "export", "source", ".", "alias", "set", "ulimit", "exit", "eval"})


def remedy(argv: Sequence[str]) -> str | None:
    """Return how the same is run by the shell, if it looks like a line for one."""
    first = argv[0]
    is_line = len(argv) == 1 and any(sign in first for sign in " ;|&<>$`")
    if not is_line and first not in _BUILTINS and not _OPERATORS & set(argv):
        return None
    return f"a line for the shell goes by -c: faas run -c {shlex.quote(' '.join(argv))}"
