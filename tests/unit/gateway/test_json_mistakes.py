"""What is no JSON is told what to do about it."""

import pytest

from faas.errors import InvalidArgumentError
from faas.gateway.strict import decode_execute

RIGHT = b'{"command": "echo hello"}'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "empty"),
        (b"{'command': 'echo hello'}", "double quotes"),
        (b"{command: echo hello}", "single ones"),
        (b'{"command": "x", "memory": True}', "true, false and null"),
        (b'{"command": "x", "env_vars": None}', "true, false and null"),
        (b'{"command": "x",}', "after the last item"),
        (b'{"command": ["a", "b",]}', "after the last item"),
        (b'{"command": "a\nb"}', "line break"),
        (b"command=echo hello", "form"),
        (b"@request.json", "-d @FILE"),
        (b"echo hello", "object"),
        (b'"' + b"a" * 100_000, "object"),
    ],
)
def test_a_usual_mistake_has_its_remedy(body: bytes, told: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        decode_execute(body)
    assert told in (refused.value.hint or "")
    assert "is not valid JSON" in refused.value.message


def test_what_is_json_is_told_about_its_fields() -> None:
    partial = decode_execute(b'{"comand": "x"}')
    assert not hasattr(partial, "command")
    assert "openapi" in partial.faults.hint
    assert decode_execute(RIGHT).command == "echo hello"
