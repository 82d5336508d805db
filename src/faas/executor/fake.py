"""A whole platform in memory: the real executor over a fake machine, for tests of what holds one.

`FakePlatform` is one gateway; `crash` ends it as `kill -9` would, and `reopen` is the next gateway
on the same machine and the same ledger.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from faas.blobs.local import LocalBlobStore
from faas.blobs.refs import LocalRefStore
from faas.clock import Clock
from faas.events import Event, EventBus
from faas.executor.executor import PlatformExecutor
from faas.executor.recovery import RecoveryReport
from faas.executor.settings import ExecutorSettings
from faas.sandbox.fake import FakeHost, FakeRuntime
from faas.sandbox.protocols import RootFilesystem
from faas.sandbox.registry import Registry
from faas.snapshots import SnapshotStore


class AnyImage:
    """An image store that has every image, empty."""

    def resolve(self, reference: str) -> RootFilesystem:
        """Return an image whose digest is its name."""
        return RootFilesystem(digest=reference, path=None)


@dataclass(slots=True, eq=False)
class FakePlatform:
    """An executor, the machine below it and the events it published."""

    data_dir: Path
    host: FakeHost
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings of the executor that differ from the defaults."""
    bus: EventBus = field(default_factory=EventBus)
    events: list[Event] = field(default_factory=list[Event])
    runtime: FakeRuntime = field(init=False)
    registry: Registry = field(init=False)
    executor: PlatformExecutor = field(init=False)
    snapshots: SnapshotStore = field(init=False)
    images: AnyImage = field(default_factory=AnyImage)
    report: RecoveryReport = field(default_factory=RecoveryReport)

    def __post_init__(self) -> None:
        self.runtime = FakeRuntime(self.host)
        self.bus.listen(self.events.append)
        kept = self.data_dir / "snapshots"
        self.snapshots = SnapshotStore(
            blobs=LocalBlobStore(kept / "blobs"),
            refs=LocalRefStore(kept / "refs"),
            clock=self.clock,
        )
        self.registry = Registry({"fake": self.runtime}, clock=self.clock, events=self.bus)
        self.executor = PlatformExecutor(
            replace(ExecutorSettings(self.data_dir, pool_size=2), **self.options),
            registry=self.registry,
            images=self.images,
            events=self.bus,
            snapshots=self.snapshots,
            clock=self.clock,
        )

    @property
    def clock(self) -> Clock:
        """The machine's clock."""
        return self.host.clock

    async def start(self) -> "FakePlatform":
        """Start the executor."""
        self.report = await self.executor.start()
        return self

    async def crash(self) -> None:
        """End at once; what is on the machine and in the ledger stays as it is."""
        await self.executor.abort()

    async def reopen(self, **options: object) -> "FakePlatform":
        """Start the next gateway on this machine."""
        return await FakePlatform(self.data_dir, self.host, {**self.options, **options}).start()
