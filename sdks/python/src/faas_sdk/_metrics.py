"""What this client did, counted here and not at the gateway."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace


@dataclass
class ClientMetrics:
    """Counters of one client. Take a copy with `snapshot()`; the client's own goes on counting."""

    total_requests: int = 0
    """Executions asked for, also those that failed."""
    cache_hits: int = 0
    total_latency_ms: float = 0.0
    errors: int = 0
    retries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def cache_hit_rate(self) -> float:
        """Share of executions answered from a cache, 0 to 1."""
        return self.cache_hits / self.total_requests if self.total_requests else 0.0

    @property
    def average_latency_ms(self) -> float:
        """Mean time from call to result."""
        return self.total_latency_ms / self.total_requests if self.total_requests else 0.0

    @property
    def error_rate(self) -> float:
        """Share of executions that raised, 0 to 1."""
        return self.errors / self.total_requests if self.total_requests else 0.0

    def count_execution(self, *, elapsed_ms: float, cache_hit: bool) -> None:
        """Count one that gave a result."""
        with self._lock:
            self.total_requests += 1
            self.total_latency_ms += elapsed_ms
            self.cache_hits += cache_hit

    def count_error(self, *, elapsed_ms: float) -> None:
        """Count one that raised."""
        with self._lock:
            self.total_requests += 1
            self.total_latency_ms += elapsed_ms
            self.errors += 1

    def count_retry(self) -> None:
        """Count one repeated attempt."""
        with self._lock:
            self.retries += 1

    def snapshot(self) -> ClientMetrics:
        """Copy the counters as they are now."""
        with self._lock:
            return replace(self, _lock=threading.Lock())
