"""The records that name snapshots: by id, and by the id of what they were taken from.

A record is the moment a snapshot exists. One that is durable elsewhere on this machine and on its
way here is shown as if it were: whoever needs its bytes has it settled first.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from faas.blobs.refs import RefStore
from faas.errors import InvalidArgumentError, ManifestError, NotFoundError, SnapshotNotFoundError
from faas.ids import SnapshotId, TenantId
from faas.snapshots.records import SnapshotRecord

_KIND = "snapshots"
_ALIAS = "aliases"


class Catalog:
    """All records of one store."""

    def __init__(self, refs: RefStore) -> None:
        self._refs = refs
        self._records: dict[SnapshotId, SnapshotRecord] = {}
        self._unsettled: dict[SnapshotId, Callable[[], Awaitable[None]]] = {}
        self._needs: dict[SnapshotId, SnapshotId] = {}
        """Which other snapshot those are written over."""
        self._announced: dict[str, SnapshotId] = {}
        """Other names of those."""

    def announce(
        self,
        record: SnapshotRecord,
        *,
        alias: str | None,
        over: SnapshotId | None,
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        """Show a snapshot that is on its way; `settle` brings it in under its id."""
        self._records[record.id] = record
        self._unsettled[record.id] = settle
        if over is not None:
            self._needs[record.id] = over
        if alias is not None:
            self._announced[alias] = record.id

    async def settled(self, record: SnapshotRecord) -> SnapshotRecord:
        """Wait until it is here, and return what names it now."""
        settle = self._unsettled.get(record.id)
        if settle is not None:
            await settle()
        return self._records.get(record.id, record)

    async def settle_over(self, snapshot_id: SnapshotId) -> None:
        """Wait for those that are written over it."""
        for over in [child for child, below in self._needs.items() if below == snapshot_id]:
            settle = self._unsettled.get(over)
            if settle is not None:
                await settle()

    async def find(self, reference: str) -> SnapshotRecord:
        """Find one by its id or its other name.

        Raises:
            SnapshotNotFoundError: there is none.
        """
        reference = self._announced.get(reference, reference)
        known = self._records.get(SnapshotId(reference))
        if known is not None:
            return known
        try:
            if not reference.startswith("snap-"):
                reference = (await self._refs.get(f"{_ALIAS}/{reference}")).decode()
            raw = await self._refs.get(f"{_KIND}/{reference}")
        except (NotFoundError, InvalidArgumentError) as cause:
            raise SnapshotNotFoundError(f"Snapshot not found: {reference[:64]}") from cause
        try:
            record = msgspec.json.decode(raw, type=SnapshotRecord)
        except msgspec.MsgspecError as cause:
            raise ManifestError(f"the record of {reference[:64]} cannot be read") from cause
        self._records[record.id] = record
        return record

    async def names(self) -> list[str]:
        """The ids of all that are written down."""
        return [name.removeprefix(f"{_KIND}/") for name in await self._refs.list(_KIND)]

    async def all(self) -> list[SnapshotRecord]:
        """Every record that is written down."""
        return [await self.find(name) for name in await self.names()]

    async def page(
        self, *, tenant: TenantId | None, limit: int, before: str | None
    ) -> list[SnapshotRecord]:
        """Newest first."""
        names = {*await self.names(), *self._unsettled}
        found: list[SnapshotRecord] = []
        for name in sorted(names, reverse=True):
            if before is not None and name >= before:
                continue
            with suppress(SnapshotNotFoundError):
                record = await self.find(name)
                if tenant is None or record.tenant == tenant:
                    found.append(record)
            if len(found) >= limit:
                break
        return found

    async def write(self, record: SnapshotRecord) -> None:
        """Keep a record; it is there when this returns."""
        await self._refs.put(f"{_KIND}/{record.id}", msgspec.json.encode(record))
        self._records[record.id] = record
        self._unsettled.pop(record.id, None)
        self._needs.pop(record.id, None)

    async def write_alias(self, alias: str, snapshot_id: SnapshotId) -> None:
        """Give it another name. Before its record: who is asked for the name again after a crash
        must find all or nothing."""
        await self._refs.put(f"{_ALIAS}/{alias}", snapshot_id.encode())

    async def forget(self, record: SnapshotRecord) -> None:
        """Remove a record, and its other name."""
        await self._refs.delete(f"{_KIND}/{record.id}")
        self._records.pop(record.id, None)
        if record.source:
            with suppress(NotFoundError, InvalidArgumentError):
                if (await self._refs.get(f"{_ALIAS}/{record.source}")).decode() == record.id:
                    await self._refs.delete(f"{_ALIAS}/{record.source}")
        self._announced = {name: at for name, at in self._announced.items() if at != record.id}

    async def forget_lost_aliases(self) -> None:
        """Other names of what is no more, left by a crash between the two."""
        known = set(await self.names())
        for name in await self._refs.list(_ALIAS):
            with suppress(NotFoundError):
                if (await self._refs.get(name)).decode() not in known:
                    await self._refs.delete(name)
