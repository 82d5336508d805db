"""A range of 65,536 host user ids for each live sandbox, so that no two share a user.

Users have limits and powers of their own in the kernel (keyrings, pipes, inotify, signals); a
shared range would let one tenant exhaust or touch another's.
"""

import zlib

from faas.errors import ResourceExhaustedError

FIRST_UID = 0x7000_0000
"""Above what distributions hand out (subuid, systemd's dynamic users and containers)."""
WIDTH = 65_536
FIRST_SLOT = 1
"""The range before is for containers that keep memory, a user each."""
COUNT = 0x7000
"""Up to 0xE0000000, well below the ids the kernel keeps for itself."""


class UserSlots:
    """Hands out slot numbers; two gateways on one host start at different places."""

    def __init__(self, tag: str) -> None:
        self._next = _within(zlib.crc32(tag.encode()))
        self._taken: set[int] = set()

    def take(self) -> int:
        """Take a free slot, not one that was just given back.

        Raises:
            ResourceExhaustedError: all are in use.
        """
        for _ in range(FIRST_SLOT, COUNT):
            slot, self._next = self._next, _within(self._next + 1 - FIRST_SLOT)
            if slot not in self._taken:
                self._taken.add(slot)
                return slot
        raise ResourceExhaustedError("every range of user ids is in use")

    def reserve(self, slot: int) -> None:
        """Mark a slot that a sandbox of a dead gateway still holds."""
        self._taken.add(slot)

    def give_back(self, slot: int) -> None:
        """Free a slot. Harmless when it is free."""
        self._taken.discard(slot)


def first_uid(slot: int) -> int:
    """Return the host's id of the slot's root."""
    return FIRST_UID + slot * WIDTH


def _within(number: int) -> int:
    return FIRST_SLOT + number % (COUNT - FIRST_SLOT)
