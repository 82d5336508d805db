"""A slip in a name is told, and no name that the caller may not see."""

from faas.errors import ImageNotFoundError
from faas.images.neighbours import with_neighbour

NAMES = ("host", "alpine:latest", "python:3.11-slim")


def hint_for(wanted: str, *, is_seen: bool = True) -> str | None:
    missing = ImageNotFoundError("there is none", hint="pull it")
    return with_neighbour(missing, wanted, NAMES, lambda _: is_seen).hint


def test_a_slip_is_told() -> None:
    assert hint_for("pyhton:3.11-slim") == "did you mean python:3.11-slim? Else: pull it"
    assert "alpine:latest" in (hint_for("alpin:latest") or "")


def test_another_name_is_no_slip() -> None:
    assert hint_for("redis:7") == "pull it"


def test_what_the_caller_may_not_see_is_not_told() -> None:
    assert hint_for("pyhton:3.11-slim", is_seen=False) == "pull it"
