"""Stores in memory that outlive the process that uses them, and die between any two steps."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from faas.blobs.digest import Digest, check, digest_of
from faas.blobs.protocol import BlobStat
from faas.blobs.refs import check_name
from faas.errors import NotFoundError

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class KilledError(BaseException):
    """kill -9: nobody may catch it as an error."""


class Fate:
    """Counts steps; at one of them the process dies, before the step or after it."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.left: int | None = None
        self.is_after = False
        self.is_dead = False

    def arm(self, steps_max: int) -> None:
        self.left = self._dice.randrange(steps_max)
        self.is_after = self._dice.random() < 0.5

    def revive(self) -> None:
        self.left, self.is_dead = None, False

    def before(self) -> None:
        if self.is_dead or (self.left == 0 and not self.is_after):
            self.is_dead = True
            raise KilledError

    def after(self) -> None:
        if self.left == 0:
            self.is_dead = True
            raise KilledError
        if self.left is not None:
            self.left -= 1


class DyingBlobs:
    """A `BlobStore`."""

    def __init__(self, fate: Fate) -> None:
        self.kept: dict[Digest, bytes] = {}
        self._fate = fate

    @property
    def name(self) -> str:
        return "memory"

    async def put(self, data: bytes) -> Digest:
        await asyncio.sleep(0)  # whatever else goes on has its turn
        self._fate.before()
        digest = digest_of(data)
        self.kept[digest] = bytes(data)
        self._fate.after()
        return digest

    async def get(self, digest: Digest) -> bytes:
        await asyncio.sleep(0)  # whatever else goes on has its turn
        self._fate.before()
        if digest not in self.kept:
            raise NotFoundError(f"no blob {digest}")
        return check(self.kept[digest], digest)

    async def get_range(self, digest: Digest, *, offset: int, length: int) -> bytes:
        return (await self.get(digest))[offset : offset + length]

    async def stat(self, digest: Digest) -> BlobStat | None:
        await asyncio.sleep(0)  # whatever else goes on has its turn
        self._fate.before()
        data = self.kept.get(digest)
        return None if data is None else BlobStat(digest, len(data), LONG_AGO)

    async def list(self) -> AsyncIterator[BlobStat]:
        await asyncio.sleep(0)  # whatever else goes on has its turn
        self._fate.before()
        for digest in sorted(self.kept):
            yield BlobStat(digest, len(self.kept[digest]), LONG_AGO)

    async def delete(self, digest: Digest) -> None:
        await asyncio.sleep(0)  # whatever else goes on has its turn
        self._fate.before()
        self.kept.pop(digest, None)
        self._fate.after()

    async def aclose(self) -> None:
        """Nothing to close."""


class DyingRefs:
    """A `RefStore`."""

    def __init__(self, fate: Fate) -> None:
        self.kept: dict[str, bytes] = {}
        self._fate = fate

    async def put(self, name: str, record: bytes) -> None:
        await asyncio.sleep(0)  # whatever else goes on has its turn
        self._fate.before()
        self.kept[check_name(name)] = record
        self._fate.after()

    async def get(self, name: str) -> bytes:
        await asyncio.sleep(0)  # whatever else goes on has its turn
        self._fate.before()
        if name not in self.kept:
            raise NotFoundError(f"no record {name}")
        return self.kept[name]

    async def list(self, kind: str) -> list[str]:
        await asyncio.sleep(0)  # whatever else goes on has its turn
        self._fate.before()
        return sorted(name for name in self.kept if name.startswith(f"{kind}/"))

    async def delete(self, name: str) -> None:
        await asyncio.sleep(0)  # whatever else goes on has its turn
        self._fate.before()
        self.kept.pop(name, None)
        self._fate.after()
