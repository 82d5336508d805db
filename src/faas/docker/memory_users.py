"""A host user for each container that keeps memory, so that no two share one.

As the embedded runtime does, for the same reason; its ranges begin where these numbers end, for no
user may be both.
"""

import zlib

from faas.errors import ResourceExhaustedError

FIRST = 0x7000_0001
"""Above what distributions hand out; Engines take no number past 31 bits."""
COUNT = 0xFFFE


class MemoryUsers:
    """Hands out user ids; two gateways on one host start at different places."""

    def __init__(self, tag: str) -> None:
        self._next = zlib.crc32(tag.encode()) % COUNT
        self._taken: set[int] = set()

    def take(self) -> int:
        """Take a free one, not one that was just given back.

        Raises:
            ResourceExhaustedError: all are in use.
        """
        for _ in range(COUNT):
            user, self._next = FIRST + self._next, (self._next + 1) % COUNT
            if user not in self._taken:
                self._taken.add(user)
                return user
        raise ResourceExhaustedError("every user id for containers that keep memory is in use")

    def reserve(self, user: int) -> None:
        """Mark one that a container of a dead gateway still has."""
        self._taken.add(user)

    def give_back(self, user: int) -> None:
        """Free one. Harmless when it is free."""
        self._taken.discard(user)
