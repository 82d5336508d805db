"""Values of settings: from text or TOML to their type, checked, and back to text for people."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_origin

SCOPES = ("execute", "read", "admin")


class WrongValueError(ValueError):
    """A value does not fit its setting; the message goes on after the value."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a setting may be, and why there is one."""

    why: str
    at_least: float | None
    at_most: float | None
    choices: tuple[str, ...]
    is_secret: bool


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key: whose it is, and what it may do."""

    name: str
    key: str = field(repr=False)
    scopes: tuple[str, ...]


def parse(kind: object, raw: object) -> object:
    """Turn text or a TOML value into the type of the setting.

    Raises:
        WrongValueError: it is not of that type.
    """
    if get_origin(kind) is tuple:
        return _parse_list(raw)
    if get_origin(kind) is dict:
        return _parse_table(raw)
    if kind is bool:
        return _parse_bool(raw)
    if kind is int or kind is float:
        return _parse_number(kind, raw)
    if not isinstance(raw, str | Path):
        raise WrongValueError("is not text")
    text = str(raw).strip()
    if kind is Path:
        if not text:
            raise WrongValueError("is not a path")
        return Path(text).expanduser()
    return text


def _parse_bool(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    words = {"true": True, "1": True, "yes": True, "on": True}
    words |= {"false": False, "0": False, "no": False, "off": False, "": False}
    if isinstance(raw, str) and raw.strip().lower() in words:
        return words[raw.strip().lower()]
    raise WrongValueError("is not true or false")


def _parse_number(kind: object, raw: object) -> int | float:
    expected = "is not a whole number" if kind is int else "is not a number"
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise WrongValueError(expected)
    if kind is int and isinstance(raw, float):
        raise WrongValueError(expected)
    try:
        return int(raw) if kind is int else float(raw)
    except ValueError:
        raise WrongValueError(expected) from None


def _parse_list(raw: object) -> tuple[str, ...]:
    parts: list[object] = []
    if isinstance(raw, str):
        parts.extend(raw.split(","))
    elif isinstance(raw, list | tuple):
        parts.extend(cast("list[object]", raw))
    else:
        raise WrongValueError("is not a list")
    if not all(isinstance(part, str) for part in parts):
        raise WrongValueError("is not a list of text")
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _parse_table(raw: object) -> dict[str, str]:
    if isinstance(raw, str):
        pairs = [part.partition("=") for part in raw.split(",") if part.strip()]
        if not all(key.strip() and value.strip() for key, _, value in pairs):
            raise WrongValueError("is not a list of name=value")
        return {key.strip(): value.strip() for key, _, value in pairs}
    if isinstance(raw, dict):
        table = cast("dict[object, object]", raw)
        if all(isinstance(item, str) for pair in table.items() for item in pair):
            return {str(key): str(value) for key, value in table.items()}
    raise WrongValueError("is not a table of text")


def check(value: object, rule: Rule) -> None:
    """Refuse what is outside the rule.

    Raises:
        WrongValueError: it is.
    """
    if rule.choices and value not in rule.choices:
        raise WrongValueError(f"is none of {', '.join(rule.choices)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = rule.at_least, rule.at_most
        # Written so that NaN is refused too.
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            raise WrongValueError(f"is not {bounds(rule)}")
    if rule.is_secret and isinstance(value, tuple):
        for text in cast("tuple[str, ...]", value):
            parse_api_key(text)


def parse_api_key(text: str) -> ApiKey:
    """Take `key`, `name:key` or `name:key:scope+scope` apart.

    A bare key may do everything; a named one runs and reads unless its scopes say otherwise.

    Raises:
        WrongValueError: it has another shape.
    """
    name, key, scopes = "default", text, "+".join(SCOPES)
    parts = text.split(":")
    if len(parts) > 1:
        name, key, scopes = parts[0], parts[1], parts[2] if len(parts) > 2 else "execute+read"  # noqa: PLR2004
    wanted = tuple(scopes.split("+"))
    if len(parts) > 3 or not name or not key or not key.isprintable() or " " in key:  # noqa: PLR2004
        raise WrongValueError("is not `key`, `name:key` or `name:key:scope+scope`")
    if unknown := [scope for scope in wanted if scope not in SCOPES]:
        raise WrongValueError(f"names the scope {unknown[0]!r}; there are {', '.join(SCOPES)}")
    return ApiKey(name=name, key=key, scopes=wanted)


def kind_name(kind: object) -> str:
    """Say what type a setting has, in words."""
    if get_origin(kind) is tuple:
        return "list of text"
    if get_origin(kind) is dict:
        return "table of text"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    return names.get(cast("type", kind), "value")


def bounds(rule: Rule) -> str:
    """Say what a rule allows."""
    if rule.choices:
        return " or ".join(rule.choices)
    if rule.at_least is not None and rule.at_most is not None:
        return f"between {rule.at_least:g} and {rule.at_most:g}"
    return f"at least {rule.at_least:.12g}" if rule.at_least is not None else ""


def masked(value: object, rule: Rule) -> str:
    """Write a value for people, never a secret."""
    return "********" if rule.is_secret and value else show(value)


def show(value: object) -> str:
    """Write a value the way it could be given."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(cast("tuple[str, ...]", value))
    if isinstance(value, dict):
        table = cast("dict[str, str]", value)
        return ",".join(f"{key}={item}" for key, item in table.items())
    return str(value)
