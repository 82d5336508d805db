"""The opt-in memory of earlier answers.

Off by default: a gateway's `cached` mode is shared, survives restarts and knows when an image
changed, and a client's own memory knows none of that. Only requests that ask for it are
remembered (mode `cached`, or an explicit `cache_key`), and only when the command succeeded.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import Any, Mapping, Optional

from faas_sdk._models import ExecutionResult


def cache_key(body: Mapping[str, Any]) -> Optional[str]:
    """Name a request by everything in it; None when it did not ask to be remembered."""
    if body.get("mode") != "cached" and body.get("cache_key") is None:
        return None
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


class ResultCache:
    """Keeps the last results; the least recently used goes first."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._results: OrderedDict[str, ExecutionResult] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Optional[ExecutionResult]:
        """Return what was remembered, marked as a hit."""
        with self._lock:
            result = self._results.get(key)
            if result is None:
                return None
            self._results.move_to_end(key)
        return replace(result, cache_hit=True)

    def put(self, key: str, result: ExecutionResult) -> None:
        """Remember a success."""
        if not result.ok:
            return
        with self._lock:
            self._results[key] = result
            self._results.move_to_end(key)
            while len(self._results) > self._entries_max:
                self._results.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._results.clear()
