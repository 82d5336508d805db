"""Parked sandboxes: few, for a short time, and never lost."""

from pathlib import Path

from faas.clock import FakeClock
from faas.events import EventBus
from faas.executor.parking import Parked, Parking, memory_is_short
from faas.ids import TenantId, new_execution_id, new_sandbox_id
from faas.model import ExecutionSpec
from faas.sandbox.fake import FakeHost
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import RootFilesystem, SandboxSpec

TENANT = TenantId("default")
ROOT = RootFilesystem(digest="host", path=None)


class Lot:
    def __init__(self, *, is_memory_short: bool = False) -> None:
        self.clock = FakeClock()
        self.gone: list[GuardedSandbox] = []
        self.host = FakeHost(self.clock)
        self.parking = Parking(
            count_max=2,
            seconds=60,
            destroy=lambda sandbox, _: self.gone.append(sandbox),
            clock=self.clock,
            is_memory_short=lambda: is_memory_short,
        )

    async def park(self) -> Parked:
        box = await self.host.make(SandboxSpec(id=new_sandbox_id(), root=ROOT))
        sandbox = GuardedSandbox(box, events=EventBus())
        spec = ExecutionSpec(argv=("true",), image="host")
        parked = Parked(new_execution_id(), TENANT, spec, ROOT, sandbox)
        self.parking.park(parked)
        return parked


async def test_the_oldest_goes_first() -> None:
    lot = Lot()
    first, *_ = [await lot.park() for _ in range(3)]
    assert lot.gone == [first.sandbox]
    assert lot.parking.count == 2


async def test_the_old_go_with_time() -> None:
    lot = Lot()
    parked = await lot.park()
    lot.parking.tick()
    assert lot.gone == []
    await lot.clock.advance(61)
    lot.parking.tick()
    assert lot.gone == [parked.sandbox]


async def test_all_go_when_memory_is_short() -> None:
    lot = Lot(is_memory_short=True)
    parked = [await lot.park() for _ in range(2)]
    lot.parking.tick()
    assert lot.gone == [p.sandbox for p in parked]


async def test_one_that_is_read_is_destroyed_only_afterwards() -> None:
    lot = Lot()
    parked = await lot.park()
    with lot.parking.reading(parked.execution_id, TENANT) as found:
        assert found is parked
        lot.parking.close()
        assert lot.gone == []
    assert lot.gone == [parked.sandbox]


async def test_another_tenant_finds_nothing() -> None:
    lot = Lot()
    parked = await lot.park()
    with lot.parking.reading(parked.execution_id, TenantId("other")) as found:
        assert found is None


async def test_a_closed_one_keeps_nothing() -> None:
    lot = Lot()
    lot.parking.close()
    parked = await lot.park()
    assert lot.gone == [parked.sandbox]


def test_short_memory_is_read_off_the_kernel(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1000 kB\nMemAvailable: 99 kB\n")
    assert memory_is_short(meminfo)
    meminfo.write_text("MemTotal: 1000 kB\nMemAvailable: 101 kB\n")
    assert not memory_is_short(meminfo)
    assert not memory_is_short(tmp_path / "none")
