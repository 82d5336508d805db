"""Work done inside a network namespace: in a thread that joins it and ends.

A namespace is a thread's, so the rest of the process stays where it is, and what the thread starts
or opens there (a program, a socket) belongs to that namespace for good.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def run_in(namespace: int | None, work: Callable[[], T]) -> T:
    """Return what `work` returns in the namespace of that descriptor; None is our own.

    Raises:
        OSError: the namespace cannot be joined.
    """
    if namespace is None:
        return work()
    outcome: list[T] = []
    failures: list[BaseException] = []

    def join_and_work() -> None:
        try:
            if _libc.setns(namespace, _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))  # noqa: TRY301  raised again by the caller
            outcome.append(work())
        except BaseException as failure:  # noqa: BLE001  carried over to the caller's thread
            failures.append(failure)

    thread = threading.Thread(target=join_and_work, name="in a network namespace")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return outcome[0]
