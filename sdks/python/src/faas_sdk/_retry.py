"""When to try again, and after how long. Pure: no clock, no socket.

Safe to repeat: what the gateway never took (no connection, 429, 503), and, when the connection
breaks later, what it recognises: reads, and requests that carry an `Idempotency-Key`.
Nothing else, and never another 4xx.
"""

from __future__ import annotations

import email.utils
import random
import time
from dataclasses import dataclass
from typing import Optional

RETRY_AFTER_SECONDS_MAX = 60.0
"""A gateway that asks for more is told to the caller instead of being waited for."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and how long between."""

    max_retries: int
    delay_seconds: float
    delay_seconds_max: float

    def delay(
        self, *, attempt: int, retry_after_seconds: Optional[float], remaining_seconds: float
    ) -> Optional[float]:
        """Return how long to wait after attempt number `attempt` failed (1 is the first).

        None: give up.
        """
        if attempt > self.max_retries:
            return None
        if retry_after_seconds is not None:
            if retry_after_seconds > RETRY_AFTER_SECONDS_MAX:
                return None
            delay = retry_after_seconds
        else:
            ceiling = min(self.delay_seconds * 2 ** (attempt - 1), self.delay_seconds_max)
            # Half fixed, half random: clients that failed together do not come back together.
            delay = ceiling * (0.5 + random.random() / 2)  # noqa: S311  not a secret
        return delay if delay < remaining_seconds else None


def is_status_retryable(status: int, *, retry_after_seconds: Optional[float], said: bool) -> bool:
    """Whether an answer with that status says that a repeat may help; `said` is the body's word."""
    return status in (429, 503) and (said or retry_after_seconds is not None)


def parse_retry_after(value: Optional[str]) -> Optional[float]:
    """Read a `Retry-After` header: seconds or an HTTP date; None when it is neither."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())
