"""Rows that cannot hold up a run: each act has a bound, each row a budget, and both are told.

A peer may wait ten seconds for a container that ignores its stop signal, or for ever. What takes
longer than one act may is interrupted by a signal; a row whose budget is used is not timed further,
so that its `n` says how far it got.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from benchmarks.harness import Samples

Acts = dict[str, Callable[[], object]]


class TooLongError(Exception):
    """An act was interrupted. No `OSError`: clients would take it for a fault of the connection."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Interrupt what is inside after that time; only in the main thread."""

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise TooLongError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def alternate(
    acts: Acts,
    *,
    count: int,
    warmup: int = 1,
    pause_seconds: float = 0.0,
    act_seconds_max: float = 30.0,
    row_seconds_max: float = 60.0,
) -> tuple[list[Samples], list[str]]:
    """Time several things in turn as `harness.alternate` does; return what ended early, too."""
    values: dict[str, list[float]] = {name: [] for name in acts}
    spent = dict.fromkeys(acts, 0.0)
    ended: dict[str, str] = {}
    order = list(acts)
    shuffle = random.Random(1).shuffle
    for turn in range(-warmup, count):
        shuffle(order)
        for name in [one for one in order if one not in ended]:
            time.sleep(pause_seconds)
            began = time.perf_counter()
            try:
                with within(act_seconds_max):
                    acts[name]()
            except Exception as failure:
                ended[name] = f"{type(failure).__name__}: {failure}"[:300]
                continue
            elapsed = time.perf_counter() - began
            spent[name] += elapsed
            if turn >= 0:
                values[name].append(elapsed * 1e3)
            if spent[name] > row_seconds_max:
                ended[name] = f"its {row_seconds_max:g} s were used"
    samples = [Samples(name, tuple(found)) for name, found in values.items() if found]
    notes = [
        f"{name}: ended after {len(values[name])} of {count}: {why}" for name, why in ended.items()
    ]
    return samples, notes
