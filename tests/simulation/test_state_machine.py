"""kill -9 between any two steps of checkpoint, restore, fork, merge, upload, delete and collection,
one after the other and at once.

A thousand seeds: `FAAS_STATE_SEEDS` says how many, `FAAS_STATE_SEED` where they begin.
"""

import asyncio
import io
import os
import random
import tarfile
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from tests.simulation.dying_stores import DyingBlobs, DyingRefs, Fate, KilledError

from faas.blobs.digest import Digest
from faas.blobs.refs import TieredRefStore
from faas.blobs.tiered import TieredBlobStore
from faas.clock import SystemClock
from faas.errors import ConflictError, SnapshotNotFoundError
from faas.ids import SnapshotId, TenantId, new_execution_id
from faas.snapshots import (
    MergeStrategy,
    SnapshotInfo,
    SnapshotStore,
    exported,
    import_snapshot,
)
from faas.snapshots import manifest as manifests

SEEDS = int(os.environ.get("FAAS_STATE_SEEDS", "1000"))
FIRST = int(os.environ.get("FAAS_STATE_SEED", "0"))
GROUPS = 10
PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""In memory: a kill loses no page of the disk, so syncing it would only take time."""
TENANT = TenantId("t")
Files = dict[str, bytes]


def tar_of(files: Files) -> io.BytesIO:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    sink.seek(0)
    return sink


@dataclass
class World:
    """What is durable, what was acknowledged, and the process that lives just now."""

    dice: random.Random
    place: Path
    fate: Fate = field(init=False)
    told: dict[SnapshotId, Files] = field(default_factory=dict)
    """Acknowledged, and not asked to go."""
    parents: dict[SnapshotId, SnapshotId | None] = field(default_factory=dict)
    aliases: dict[str, SnapshotId] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fate = Fate(self.dice)
        self.near, self.far = DyingBlobs(self.fate), DyingBlobs(self.fate)
        self.near_refs, self.far_refs = DyingRefs(self.fate), DyingRefs(self.fate)
        self.is_tiered = self.dice.random() < 0.5
        self.index = self.place / "chunks.sqlite" if self.dice.random() < 0.7 else None

    async def start(self) -> None:
        self.fate.revive()
        blobs = TieredBlobStore(self.near, self.far) if self.is_tiered else self.near
        refs = TieredRefStore(self.near_refs, self.far_refs) if self.is_tiered else self.near_refs
        self.store = SnapshotStore(blobs=blobs, refs=refs, clock=SystemClock(), index=self.index)
        await self.store.start()

    async def die(self) -> None:
        self.fate.is_dead = True
        await self.store.aclose()

    def some(self) -> SnapshotId | None:
        return self.dice.choice(sorted(self.told)) if self.told else None

    def changed(self, files: Files) -> Files:
        changed = dict(files)
        for _ in range(self.dice.randrange(1, 3)):
            name = f"d{self.dice.randrange(2)}/f{self.dice.randrange(4)}"
            if self.dice.random() < 0.3:
                changed.pop(name, None)
            else:
                changed[name] = self.dice.randbytes(self.dice.choice([10, 3000, 90_000]))
        return changed

    async def commit(self) -> None:
        parent = self.some() if self.dice.random() < 0.7 else None
        files = self.changed(self.told.get(parent, {}) if parent else {})
        alias = new_execution_id() if self.dice.random() < 0.5 else None
        info = SnapshotInfo(tenant=TENANT, image_digest="host", parent=parent)
        record = await self.store.commit(info, {"files": tar_of(files)}, alias=alias)
        self.told[record.id] = files
        self.parents[record.id] = parent
        if alias is not None:
            self.aliases[alias] = record.id

    async def together(self) -> None:
        """Two snapshots are written at once and share chunks, while others come and go."""
        shared = {f"s{n}": self.dice.randbytes(90_000) for n in range(2)}

        async def commit() -> None:
            parent = self.some() if self.dice.random() < 0.7 else None
            files = self.changed((self.told.get(parent, {}) if parent else {}) | shared)
            info = SnapshotInfo(tenant=TENANT, image_digest="host", parent=parent)
            record = await self.store.commit(info, {"files": tar_of(files)})
            self.told[record.id] = files
            self.parents[record.id] = parent

        other = self.dice.choice([self.remove, self.collect, self.restore, self.carry])
        ended = await asyncio.gather(commit(), commit(), other(), return_exceptions=True)
        failures = [x for x in ended if isinstance(x, BaseException)]
        # Who is killed last may have failed before by what the first one left half-done.
        for failure in sorted(failures, key=lambda x: not isinstance(x, KilledError)):
            raise failure

    async def merge(self) -> None:
        if len(self.told) < 2:
            return
        branches = self.dice.sample(sorted(self.told), 2)
        try:
            record, _ = await self.store.merge(
                branches, strategy=MergeStrategy.OURS, tenant=TENANT, name=None
            )
        except ConflictError:
            return
        self.told[record.id] = await self.files_of(record.id)
        self.parents[record.id] = record.parent

    async def carry(self) -> None:
        one = self.some()
        if one is None:
            return
        async with exported(self.store, one) as file:
            record = await import_snapshot(self.store, file.pieces, tenant=TENANT)
        self.told[record.id] = self.told[one]
        self.parents[record.id] = None

    async def remove(self) -> None:
        one = self.some()
        if one is None:
            return
        files = self.told.pop(one)
        self.aliases = {k: v for k, v in self.aliases.items() if v != one}
        try:
            await self.store.remove(one)
        except ConflictError:
            self.told[one] = files

    async def collect(self) -> None:
        await self.store.collect_garbage(grace=timedelta(0))

    async def restore(self) -> None:
        one = self.some()
        if one is not None:
            assert await self.files_of(one) == self.told[one]

    async def files_of(self, reference: str) -> Files:
        sink = io.BytesIO()
        await self.store.write_tar(reference, "files", sink)
        sink.seek(0)
        with tarfile.open(fileobj=sink) as archive:
            return {
                member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive
                if member.isreg()
            }

    async def check(self) -> None:
        """What was acknowledged is whole, nothing is half there, and nothing is left over."""
        for one, files in self.told.items():
            assert await self.files_of(one) == files
        for alias, one in self.aliases.items():
            assert (await self.store.get(alias)).id == one
        records = await self.store.page(limit=10_000)
        needed: set[Digest] = set()
        for record in records:
            await self.store.verify(record.id)
            needed.add(record.manifest)
            needed.update(manifests.decode(self.near.kept[record.manifest]).packs)
        await self.collect()
        stores = [self.near, self.far] if self.is_tiered else [self.near]
        for blobs in stores:
            assert blobs.kept.keys() == needed
        for refs in [self.near_refs, self.far_refs] if self.is_tiered else [self.near_refs]:
            for name, target in refs.kept.items():
                if name.startswith("aliases/"):
                    assert f"snapshots/{target.decode()}" in refs.kept
        if self.is_tiered:
            other = SnapshotStore(
                blobs=TieredBlobStore(DyingBlobs(self.fate), self.far),
                refs=TieredRefStore(DyingRefs(self.fate), self.far_refs),
                clock=SystemClock(),
            )
            for one in self.told:
                await other.verify(one)
            await other.aclose()


async def live(seed: int) -> None:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="faas-t-", dir=PLACE) as directory:
        world = World(dice, Path(directory))
        await world.start()
        for _ in range(2):
            world.fate.arm(steps_max=25)
            try:
                while True:
                    await dice.choice(
                        [world.commit, world.commit, world.together, world.restore, world.merge,
                         world.carry, world.remove, world.collect]
                    )()  # fmt: skip
                    if dice.random() < 0.02:
                        break
            except KilledError:
                pass
            await world.die()
            await world.start()
            await world.check()
        await world.die()


@pytest.mark.parametrize("group", range(GROUPS))
async def test_any_kill_leaves_whole_snapshots_and_nothing_else(group: int) -> None:
    for seed in range(FIRST + group, FIRST + SEEDS, GROUPS):
        try:
            await asyncio.wait_for(live(seed), 60)
        except BaseException:
            print(f"FAAS_STATE_SEED={seed} FAAS_STATE_SEEDS=1")
            raise


async def test_a_kill_is_seen_as_one(tmp_path: Path) -> None:
    """The simulation itself: a process that dies at its first step has told of nothing."""
    world = World(random.Random(1), tmp_path)
    await world.start()
    world.fate.left, world.fate.is_after = 0, False
    with pytest.raises(KilledError):
        await world.commit()
    assert world.told == {}
    await world.die()
    await world.start()
    with pytest.raises(SnapshotNotFoundError):
        await world.store.get("snap-none")
    await world.die()
