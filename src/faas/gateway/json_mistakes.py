"""The usual mistakes in JSON written by hand or by a shell, and what mends each."""

import re

_LOOKED_AT_BYTES = 4096

_EXAMPLE = '{"command": "echo hello"}'

_MISTAKES = tuple(
    (re.compile(pattern, re.DOTALL), remedy)
    for pattern, remedy in (
        (r"\s*\Z", f"the body is empty: send {_EXAMPLE}"),
        (r"\s*\w+=", f"that is a form; send JSON: -d '{_EXAMPLE}'"),
        (r"\s*@", "curl reads a file only by -d @FILE, without a space and without quotes"),
        (
            r".*?[\[{,:]\s*'",
            f"JSON takes double quotes: {_EXAMPLE}; from Python, json.dumps writes it",
        ),
        (r".*?[\[{,:]\s*(?:True|False|None)\b", "JSON writes true, false and null"),
        (r".*?,\s*[}\]]", "JSON has no comma after the last item"),
        (
            r".*?[{,]\s*\w+\s*:",
            f"names stand in double quotes; a shell keeps them inside single ones: '{_EXAMPLE}'",
        ),
        (r".*?[\r\n\t]", r"a line break or tab inside a text is written \n or \t"),
        (r"[^{]", f"a request is an object: {_EXAMPLE}"),
    )
)
"""The first that fits is told; they are looked for only in what is no JSON."""


def remedy(body: bytes) -> str | None:
    """Say what is probably wrong with what is no JSON."""
    text = body[:_LOOKED_AT_BYTES].decode(errors="replace")
    return next((says for pattern, says in _MISTAKES if pattern.match(text)), None)
