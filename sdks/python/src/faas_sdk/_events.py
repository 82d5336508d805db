"""Listeners: `client.on("execution", print)`."""

from __future__ import annotations

import inspect
from typing import Any, Callable, Dict, List

EVENT_NAMES = ("execution", "retry", "error", "cache-hit", "cache-miss")

Listener = Callable[[Dict[str, Any]], Any]


class Listeners:
    """Calls the functions registered for an event, in order, with one dict.

    `execution` {result, elapsed_ms, cache_hit} · `retry` {attempt, error, delay_seconds} ·
    `error` {error, elapsed_ms} · `cache-hit` {key} · `cache-miss` {key}.
    What a listener raises reaches the caller of `execute`: hiding it would hide a bug.
    """

    def __init__(self) -> None:
        self._by_name: Dict[str, List[Listener]] = {name: [] for name in EVENT_NAMES}

    def add(self, name: str, listener: Listener) -> None:
        """Call `listener` at every `name` event from now on.

        Raises:
            ValueError: there is no such event.
            TypeError: the listener is async; events are told synchronously, so that order holds.
        """
        self._known(name)
        if inspect.iscoroutinefunction(listener):
            raise TypeError("a listener is a plain function; start a task in it if you must wait")
        self._by_name[name].append(listener)

    def remove(self, name: str, listener: Listener) -> None:
        """Stop calling it. Harmless when it was not there."""
        self._known(name)
        if listener in self._by_name[name]:
            self._by_name[name].remove(listener)

    def tell(self, name: str, **facts: Any) -> None:
        """Call every listener of that event."""
        for listener in tuple(self._by_name[name]):
            listener(facts)

    def _known(self, name: str) -> None:
        if name not in self._by_name:
            raise ValueError(f"no event {name!r}; there are: {', '.join(EVENT_NAMES)}")
