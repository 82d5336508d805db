"""Sizes and times as people write them: `512`, `512M`, `1.5G`; `10`, `10s`, `500ms`, `2m`."""

import re

import click

_WRITTEN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_MEGABYTES = {"": 1.0, "m": 1.0, "mb": 1.0, "mib": 1.0, "g": 1024.0, "gb": 1024.0, "gib": 1024.0}
_SECONDS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}


class Megabytes(click.ParamType[int]):
    """A size in MB, or with a unit of its own."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        number = _measured(str(value), _MEGABYTES)
        if number is None or number != int(number):
            self.fail(f"{value!r} is no size in MB; write 512, 512M or 2G", param, ctx)
        return int(number)


class Seconds(click.ParamType[float]):
    """A time in seconds, or with a unit of its own."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        number = _measured(str(value), _SECONDS)
        if number is None:
            self.fail(f"{value!r} is no time; write 10, 10s, 500ms or 2m", param, ctx)
        return number


def _measured(text: str, units: dict[str, float]) -> float | None:
    found = _WRITTEN.fullmatch(text)
    unit = units.get(found[2].lower()) if found else None
    return None if found is None or unit is None else float(found[1]) * unit
