"""Strict JSON: a request is wholly understood or refused, with every fault named in one answer.

The quick path is one msgspec call. Only when it refuses is the body taken apart field by field, to
tell the caller all that is wrong, and not only the first thing.
"""

import difflib
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast

import msgspec

from faas.errors import InvalidArgumentError
from faas.gateway import json_mistakes
from faas.gateway.wire import ExecuteRequest

_FAULTS_MAX = 20
"""More faults than anyone reads in one go."""

_RECURSION_MAX = 1000
"""Python's own default; deeper JSON is no request of ours."""


@dataclass(slots=True)
class Faults:
    """What is wrong with one request, by JSON path."""

    found: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    hint: str = "GET /openapi.json has every field; a page to read is at /docs"

    def add(self, path: str, message: str) -> None:
        """Remember one."""
        self.found.append((path, message))

    def raise_if_any(self) -> None:
        """Refuse the request when there is a fault."""
        if self.found:
            self.refuse()

    def refuse(self) -> NoReturn:
        """Refuse the request with all faults.

        Raises:
            InvalidArgumentError: always.
        """
        shown = self.found[:_FAULTS_MAX]
        more = len(self.found) - len(shown)
        detail = "; ".join(f"{path}: {message}" for path, message in shown)
        raise InvalidArgumentError(
            detail + (f"; and {more} more" if more else ""),
            hint=self.hint,
            details={"problems": [{"path": path, "message": message} for path, message in shown]},
        )


@dataclass(frozen=True, slots=True)
class Partial:
    """A refused body: the fields that were right, and what was wrong with the others."""

    fields: Mapping[str, Any]
    faults: Faults


def dissect(body: bytes, kind: type[msgspec.Struct]) -> Partial:
    """Find every fault of a body that the quick path refused.

    Raises:
        InvalidArgumentError: it is not a JSON object at all.
    """
    faults = Faults()
    data = _object(body, faults)
    known = {item.name: item for item in msgspec.structs.fields(kind)}
    good: dict[str, Any] = {}
    for name, value in data.items():
        if name not in known:
            faults.add(f"$.{name[:64]}", _unknown(name, list(known)))
            continue
        try:
            good[name] = msgspec.convert(value, known[name].type)
        except msgspec.ValidationError as error:
            faults.add(*_explain(str(error), f"$.{name}", known[name].type))
    for item in known.values():
        if item.required and item.name not in data:
            faults.add(f"$.{item.name}", "is missing")
    return Partial(good, faults)


def _decode_any(body: bytes) -> object:
    # Libraries raise the recursion limit of the whole process (py_ecc does, at import); nested JSON
    # would then overflow the C stack and end the gateway. Decoding is held to Python's own limit.
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(min(limit, _RECURSION_MAX))
    try:
        return msgspec.json.decode(body)
    finally:
        sys.setrecursionlimit(limit)


def _object(body: bytes, faults: Faults) -> dict[str, Any]:
    try:
        data = _decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        faults.add(
            "$", f"is not valid JSON: {_sentence(str(error)).removeprefix('JSON is malformed: ')}"
        )
        faults.hint = json_mistakes.remedy(body) or faults.hint
        faults.refuse()
    except RecursionError:
        faults.add("$", "is nested too deeply")
        faults.refuse()
    if not isinstance(data, dict):
        faults.add("$", "must be a JSON object")
        faults.refuse()
    return cast("dict[str, Any]", data)


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name[:64], known, n=1)
    meant = f", did you mean {close[0]!r}?" if close else "."
    return f"is not a known field{meant} Known are: {', '.join(known)}"


def _explain(message: str, path: str, kind: object) -> tuple[str, str]:
    """Turn msgspec's sentence about one field into ours: full path, lower case, choices listed."""
    text, _, tail = message.partition(" - at `")
    path += tail.rstrip("`").removeprefix("$")
    if text.startswith("Invalid enum value"):
        choices = ", ".join(repr(choice) for choice in choices_of(kind))
        return path, f"{text.removeprefix('Invalid enum value ')} is not known; known are {choices}"
    if text.startswith("Object contains unknown field"):
        name = text.split("`")[1]
        return f"{path}.{name}", _unknown(name, _fields_within(kind))
    return path, _sentence(text)


def choices_of(kind: object) -> list[str]:
    """The values of the Literals inside an annotation."""
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return [str(choice) for choice in typing.get_args(kind)]
    if origin is typing.Annotated:
        return choices_of(typing.get_args(kind)[0])
    return [choice for part in typing.get_args(kind) for choice in choices_of(part)]


def _fields_within(kind: object) -> list[str]:
    """The fields of the Structs inside an annotation."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return list(kind.__struct_fields__)
    return [name for part in typing.get_args(kind) for name in _fields_within(part)]


def _sentence(text: str) -> str:
    start = text[:1] if text[1:2].isupper() else text[:1].lower()
    return start + text[1:300].replace("`", "'")


T = TypeVar("T", bound=msgspec.Struct)


def decode(body: bytes, kind: type[T]) -> T:
    """Decode one request.

    Raises:
        InvalidArgumentError: it is not right; all faults are named.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        dissect(body, kind).faults.refuse()


_EXECUTE = msgspec.json.Decoder(ExecuteRequest)


def decode_execute(body: bytes) -> ExecuteRequest | Partial:
    """Decode a request to execute, or take it apart."""
    try:
        return _EXECUTE.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return dissect(body, ExecuteRequest)
