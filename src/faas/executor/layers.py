"""Snapshots kept ready as layers, so that a child starts in the same time whatever its state holds.

A stack of layers says the same as the snapshot it is kept under, and is only a cache of it: made
anew from the store, or from what is on its way there (`also_from`), when it is wanted and not
there. Bounded in bytes and in number; what was wanted
longest ago goes first, but nothing that is lent or that a live sandbox stands on, for dropping that
gives no memory back. When memory is short everything goes that can. A stack that would get too deep
is not kept; the next child has a flat one made.

Nothing here is durable, and nothing needs to be reclaimed: layers end with what holds them.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from msgspec import structs

from faas.errors import SnapshotNotFoundError
from faas.executor.parking import memory_is_short
from faas.executor.written import Image
from faas.ids import SnapshotId
from faas.model import ExecutionSpec, Mode
from faas.sandbox.capabilities import Capability
from faas.sandbox.layers import STACK_MAX, Layer, Layering, LayerStack
from faas.sandbox.protocols import RootFilesystem, Runtime
from faas.snapshots import SnapshotStore
from faas.snapshots.listed import Listed
from faas.snapshots.manifest import Entry
from faas.snapshots.tree import Missing, to_directory

KEPT_MAX = 128
"""Layers held at once, over all stacks; each is a mount that making a sandbox passes over."""

ALONE = "alone"
"""Marks the stacks of sandboxes with a single user, to whom everything in them belongs."""

_Key = tuple[str, SnapshotId]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a child is to stand on."""

    runtime: Runtime
    root: RootFilesystem
    snapshot_id: SnapshotId
    disk_bytes: int
    is_alone: bool = False
    """The child has a single user, as those that keep memory."""

    @property
    def key(self) -> tuple[str, SnapshotId]:
        """What its stack is kept under."""
        name = f"{self.runtime.name} {ALONE}" if self.is_alone else self.runtime.name
        return name, self.snapshot_id


@dataclass(frozen=True, slots=True)
class Delta:
    """What a sandbox wrote over a snapshot, or over its image."""

    tree: Listed
    over: SnapshotId | None


class Nearby(Protocol):
    """Where what sandboxes wrote lies before the store has it."""

    def has_files(self, snapshot_id: SnapshotId) -> bool:
        """Whether they are there."""
        ...

    def files_opened(self, snapshot_id: SnapshotId) -> AbstractContextManager[Delta | None]:
        """Lend them for reading; None when they are not there."""
        ...


class ReadyLayers:
    """The stacks there are."""

    def __init__(
        self,
        snapshots: SnapshotStore,
        *,
        bytes_max: int,
        spawn: Callable[[Coroutine[object, object, None]], object],
        is_memory_short: Callable[[], bool] = memory_is_short,
    ) -> None:
        self._snapshots = snapshots
        self._bytes_max = bytes_max
        self._spawn = spawn
        self._is_memory_short = is_memory_short
        self._stacks: OrderedDict[_Key, LayerStack] = OrderedDict()
        self._owners: dict[Layer, Layering] = {}
        self._lent: Counter[_Key] = Counter()
        self._making: dict[_Key, asyncio.Lock] = {}
        self._nearby: Nearby | None = None

    def also_from(self, nearby: Nearby) -> None:
        """Use what is not in the store yet."""
        self._nearby = nearby

    def is_ready(self, wanted: Wanted) -> bool:
        """Whether it can be lent without the store."""
        is_near = self._nearby is not None and self._nearby.has_files(wanted.snapshot_id)
        return is_near or self._find(wanted.key) is not None

    @property
    def size_bytes(self) -> int:
        """Memory that all layers held here take."""
        return sum(layer.size_bytes for layer in self._owners)

    @property
    def count(self) -> int:
        """How many layers are held."""
        return len(self._owners)

    @asynccontextmanager
    async def lent(self, wanted: Wanted) -> AsyncGenerator[LayerStack | None]:
        """Lend the stack of a snapshot, made now if need be; None where the runtime has no layers.

        Raises:
            TooLargeError: the state does not fit into the disk of the child.
            DataLossError: stored bytes are damaged.
        """
        owner = layering(wanted.runtime)
        if owner is None:
            yield None
            return
        self._lent[wanted.key] += 1
        try:
            yield await self._ready(wanted, owner)
        finally:
            self._give_back(wanted.key)

    @asynccontextmanager
    async def holding(
        self, runtime: Runtime, base: str | None
    ) -> AsyncGenerator[LayerStack | None]:
        """Hold the stack of `base` while what was written over it is kept; None: it is gone."""
        key = (runtime.name, SnapshotId(base or ""))
        self._lent[key] += 1
        try:
            yield self._find(key) if base is not None else LayerStack("", ())
        finally:
            self._give_back(key)

    def has_room_over(self, runtime: Runtime, below: LayerStack | None) -> bool:
        """Whether a layer over this stack would be kept."""
        if layering(runtime) is None or below is None:
            return False
        return len(below.layers) < STACK_MAX and self.count < KEPT_MAX

    async def keep(
        self, runtime: Runtime, snapshot_id: SnapshotId, layer: Layer, below: LayerStack | None
    ) -> None:
        """Keep what a sandbox wrote ready under its snapshot; takes the layer over."""
        owner = layering(runtime)
        assert owner is not None  # noqa: S101  a layer comes from such a runtime
        is_kept = (runtime.name, snapshot_id) in self._stacks
        if is_kept or below is None or not self.has_room_over(runtime, below):
            await owner.drop_layer(layer)
            return
        self._owners[layer] = owner
        self._stacks[runtime.name, snapshot_id] = LayerStack(snapshot_id, (layer, *below.layers))
        self._trim()

    def forget(self, snapshot_id: SnapshotId) -> None:
        """Its snapshot is no more."""
        for key in [key for key in self._stacks if key[1] == snapshot_id]:
            del self._stacks[key]
        self._sweep()

    def tick(self) -> None:
        """Let go of all that can go when memory is short."""
        if self._stacks:
            self._trim(bytes_max=0 if self._is_memory_short() else None)

    def _find(self, key: _Key) -> LayerStack | None:
        stack = self._stacks.get(key)
        if stack is None:
            return None
        if all(
            layer in self._owners and self._owners[layer].has_layer(layer) for layer in stack.layers
        ):
            self._stacks.move_to_end(key)
            return stack
        del self._stacks[key]
        self._sweep()
        return None

    async def _ready(self, wanted: Wanted, owner: Layering) -> LayerStack:
        key = wanted.key
        found = self._find(key)
        if found is not None:
            return found
        lock = self._making.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                return self._find(key) or await self._make(wanted, owner)
        finally:
            if not lock.locked():
                self._making.pop(key, None)

    async def _make(self, wanted: Wanted, owner: Layering) -> LayerStack:
        if self._nearby is None or not wanted.is_alone:
            return await self._make_flat(wanted, owner)
        with self._nearby.files_opened(wanted.snapshot_id) as delta:
            if delta is None:
                return await self._make_flat(wanted, owner)
            if delta.over is None:
                return await self._put_on(LayerStack("", ()), delta.tree, wanted, owner)
            lower = replace(wanted, snapshot_id=delta.over)
            with suppress(SnapshotNotFoundError):  # it has just got into the store whole
                async with self.lent(lower) as below:
                    if below is not None and len(below.layers) < STACK_MAX:
                        return await self._put_on(below, delta.tree, wanted, owner)
        return await self._make_flat(wanted, owner)

    async def _make_flat(self, wanted: Wanted, owner: Layering) -> LayerStack:
        tree = await self._snapshots.read(wanted.snapshot_id, "files")
        return await self._put_on(LayerStack("", ()), tree, wanted, owner)

    async def _put_on(
        self, below: LayerStack, tree: Listed, wanted: Wanted, owner: Layering
    ) -> LayerStack:
        missing = Image(wanted.root.path).folder
        if wanted.is_alone:
            tree = Listed(tuple(map(_owned_by_root, tree.entries)), tree.content)
            missing = partial(_folder_of_root, missing)

        def write(target: Path) -> None:
            to_directory(tree.entries, target, tree.content, missing=missing)

        layer = await owner.make_layer(write, size_bytes=wanted.disk_bytes)
        stack = LayerStack(wanted.snapshot_id, (layer, *below.layers))
        self._owners[layer] = owner
        self._stacks[wanted.key] = stack
        self._trim()
        return stack

    def _give_back(self, key: _Key) -> None:
        self._lent[key] -= 1
        if self._lent[key] <= 0:
            del self._lent[key]
        self._trim()

    def _trim(self, *, bytes_max: int | None = None) -> None:
        limit = self._bytes_max if bytes_max is None else bytes_max
        for key in list(self._stacks):
            if self.size_bytes <= limit and self.count <= KEPT_MAX:
                return
            if key not in self._lent and not self._is_stood_on(self._stacks[key]):
                del self._stacks[key]
                self._sweep()

    def _is_stood_on(self, stack: LayerStack) -> bool:
        top = stack.layers[0]
        return top in self._owners and self._owners[top].is_stood_on(top)

    def _sweep(self) -> None:
        """Drop layers that no stack names any more."""
        named = {layer for stack in self._stacks.values() for layer in stack.layers}
        for layer in [layer for layer in self._owners if layer not in named]:
            self._spawn(self._owners.pop(layer).drop_layer(layer))


def starts_on_layers(runtime: Runtime, spec: ExecutionSpec) -> bool:
    """Whether an execution wants a sandbox of its own making, and none from the pool."""
    is_child = spec.snapshot_id is not None and spec.mode is not Mode.PERSISTENT
    return is_child and layering(runtime) is not None


def layering(runtime: Runtime) -> Layering | None:
    """The runtime as one that has layers, if it is."""
    has = Capability.FILE_LAYERS in runtime.capabilities
    return runtime if has and isinstance(runtime, Layering) else None


def _owned_by_root(entry: Entry) -> Entry:
    return entry if not entry.uid and not entry.gid else structs.replace(entry, uid=0, gid=0)


def _folder_of_root(missing: Missing, path: str) -> tuple[int, int, int]:
    return missing(path)[0], 0, 0
