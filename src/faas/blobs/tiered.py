"""A near store in front of a far one: read near first, write to both, one fetch for many readers.

`put` returns when the near store has the blob and, with `ack_far`, when the far one has it too;
otherwise the upload goes on behind and `settle` waits for it. A failed upload is tried again with
growing pauses; what is not yet far is listed by `pending`, and what a crash left is made up for by
`catch_up`. A near copy that is damaged is replaced from afar. `delete` deletes in both.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

from faas.blobs.digest import Digest
from faas.blobs.protocol import BlobStat, BlobStore
from faas.errors import DigestMismatchError, NotFoundError, StoreUnavailableError

_UPLOADS_MAX = 4
"""At once: enough to fill a home uplink, few enough to leave one for reads."""
_TRIES_MAX = 6
_FIRST_PAUSE_SECONDS = 0.2


class TieredBlobStore:
    """Two stores as one."""

    def __init__(self, near: BlobStore, far: BlobStore, *, ack_far: bool = True) -> None:
        self.near = near
        self.far = far
        self._ack_far = ack_far
        self._fetches: dict[Digest, asyncio.Task[bytes]] = {}
        self._uploads: dict[Digest, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_UPLOADS_MAX)

    @property
    def name(self) -> str:
        return f"{self.near.name} + {self.far.name}"

    async def put(self, data: bytes) -> Digest:
        digest = await self.near.put(data)
        upload = self._uploads.get(digest)
        if upload is None:
            upload = asyncio.create_task(self._upload(digest, data))
            self._uploads[digest] = upload
            upload.add_done_callback(lambda done: self._uploaded(digest, done))
        if self._ack_far:
            await asyncio.shield(upload)
        return digest

    async def get(self, digest: Digest) -> bytes:
        damage: DigestMismatchError | None = None
        try:
            return await self.near.get(digest)
        except NotFoundError:
            pass
        except DigestMismatchError as found:
            damage = found
            await self.near.delete(digest)
        try:
            return await self._fetched(digest)
        except NotFoundError:
            if damage is not None:
                raise damage from None
            raise

    async def _fetched(self, digest: Digest) -> bytes:
        fetch = self._fetches.get(digest)
        if fetch is None:
            fetch = asyncio.create_task(self._fetch(digest))
            self._fetches[digest] = fetch
            fetch.add_done_callback(lambda _: self._fetches.pop(digest, None))
        return await asyncio.shield(fetch)

    async def get_range(self, digest: Digest, *, offset: int, length: int) -> bytes:
        try:
            return await self.near.get_range(digest, offset=offset, length=length)
        except NotFoundError:
            return (await self.get(digest))[offset : offset + length]

    async def stat(self, digest: Digest) -> BlobStat | None:
        return await self.near.stat(digest) or await self.far.stat(digest)

    async def list(self) -> AsyncIterator[BlobStat]:
        found = {stat.digest: stat async for stat in self.far.list()}
        async for stat in self.near.list():
            found[stat.digest] = stat
        for digest in sorted(found):
            yield found[digest]

    async def delete(self, digest: Digest) -> None:
        await self.far.delete(digest)
        await self.near.delete(digest)

    def pending(self) -> frozenset[Digest]:
        """Blobs the near store has and the far one has not yet confirmed."""
        return frozenset(self._uploads)

    async def settle(self) -> None:
        """Wait for every upload under way.

        Raises:
            StoreUnavailableError: one failed for good.
        """
        for upload in list(self._uploads.values()):
            await asyncio.shield(upload)

    async def lost(self, digests: Iterable[Digest]) -> set[Digest]:
        """Say which of these blobs nobody has any more. What only the near store has is uploaded:
        another gateway may have collected it as garbage that is wanted again.

        Raises:
            StoreUnavailableError: the far store cannot be asked.
        """
        asked = list(digests)
        told = await asyncio.gather(*(self._is_lost(digest) for digest in asked))
        return {digest for digest, is_lost in zip(asked, told, strict=True) if is_lost}

    async def _is_lost(self, digest: Digest) -> bool:
        async with self._slots:
            if await self.far.stat(digest) is not None:
                return False
            try:
                await self.far.put(await self.near.get(digest))
            except (NotFoundError, DigestMismatchError):
                return True
            return False

    async def catch_up(self) -> None:
        """Upload what the near store has and the far one lacks: a gateway that died left it.

        Raises:
            StoreUnavailableError: the far store cannot be asked.
        """
        far = {stat.digest async for stat in self.far.list()}
        async for stat in self.near.list():
            if stat.digest not in far:
                with suppress(DigestMismatchError, NotFoundError):  # damaged, or removed just now
                    await self.far.put(await self.near.get(stat.digest))

    async def aclose(self) -> None:
        for task in [*self._uploads.values(), *self._fetches.values()]:
            task.cancel()
        await asyncio.gather(
            *self._uploads.values(), *self._fetches.values(), return_exceptions=True
        )
        await self.near.aclose()
        await self.far.aclose()

    async def _upload(self, digest: Digest, data: bytes) -> None:
        pause = _FIRST_PAUSE_SECONDS
        async with self._slots:
            for attempt in range(_TRIES_MAX):
                try:
                    await self.far.put(data)
                except StoreUnavailableError:
                    if attempt == _TRIES_MAX - 1:
                        raise
                    await asyncio.sleep(pause)
                    pause *= 2
                else:
                    return

    def _uploaded(self, digest: Digest, done: "asyncio.Task[None]") -> None:
        self._uploads.pop(digest, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; nobody else needs a warning

    async def _fetch(self, digest: Digest) -> bytes:
        data = await self.far.get(digest)
        await self.near.put(data)
        return data
