"""A sandbox that misbehaved once is never used again."""

import pytest

from faas.clock import FakeClock
from faas.errors import InvalidArgumentError, NotFoundError, SandboxBrokenError
from faas.events import EventBus, SandboxCreated, SandboxCreateFailed, SandboxDestroyed
from faas.ids import new_sandbox_id
from faas.lifecycle import SandboxState
from faas.model import Limits
from faas.sandbox.fake import FakeHost, FakeRuntime
from faas.sandbox.guarded import GuardedSandbox, create_guarded
from faas.sandbox.protocols import Command, OutputFiles, RootFilesystem, SandboxSpec


@pytest.fixture
def host() -> FakeHost:
    return FakeHost(FakeClock())


@pytest.fixture
def events() -> list:
    return []


async def make(host: FakeHost, events: list, *, seconds_max: float = 5.0) -> GuardedSandbox:
    bus = EventBus()
    bus.listen(events.append)
    spec = SandboxSpec(id=new_sandbox_id(), root=RootFilesystem("host", None))
    return await create_guarded(
        FakeRuntime(host), spec, clock=host.clock, events=bus, seconds_max=seconds_max
    )


async def test_birth_and_death_are_told_once(host, events):
    sandbox = await make(host, events)
    await sandbox.destroy("done")
    await sandbox.destroy("again")
    assert [type(event) for event in events] == [SandboxCreated, SandboxDestroyed]
    assert events[1].reason == "done"


async def test_a_failed_birth_is_told(host, events):
    host.fail_next_creates(1)
    with pytest.raises(SandboxBrokenError):
        await make(host, events)
    assert events == [SandboxCreateFailed(runtime="fake", code="sandbox_broken")]


async def test_a_birth_takes_bounded_time(host, events):
    host.create_seconds = 9.0
    with pytest.raises(SandboxBrokenError, match="not ready"):
        await make(host, events, seconds_max=0.01)
    assert len(events) == 1


async def test_an_operating_system_error_becomes_ours(host, events, monkeypatch):
    async def fail(self, spec):
        raise OSError(28, "no space")

    monkeypatch.setattr(FakeRuntime, "create", fail)
    with pytest.raises(SandboxBrokenError):
        await make(host, events)


async def test_a_start_makes_it_busy(host, events, tmp_path):
    sandbox = await make(host, events)
    assert sandbox.state is SandboxState.READY
    output = OutputFiles(tmp_path / "o", tmp_path / "e")
    await sandbox.start("main", Command(argv=("true",)), output)
    assert sandbox.state is SandboxState.BUSY


async def test_a_callers_mistake_leaves_it_alive(host, events):
    sandbox = await make(host, events)
    with pytest.raises(NotFoundError):
        await sandbox.read_file("/none")
    with pytest.raises(InvalidArgumentError):
        await sandbox.write_file("relative", b"")
    assert sandbox.is_alive


async def test_after_our_own_failure_it_is_dead_even_if_the_place_recovers(
    host, events, monkeypatch
):
    sandbox = await make(host, events)

    async def fail(self, limits):
        raise SandboxBrokenError

    with monkeypatch.context() as patch:
        patch.setattr("faas.sandbox.fake.FakeSandbox.apply_limits", fail)
        with pytest.raises(SandboxBrokenError):
            await sandbox.apply_limits(Limits())
    assert not sandbox.is_alive
    with pytest.raises(SandboxBrokenError, match="gone"):
        await sandbox.apply_limits(Limits())


async def test_an_unforeseen_error_kills_it_too(host, events, monkeypatch):
    sandbox = await make(host, events)

    async def fail(self, limits):
        raise RuntimeError("a bug")

    monkeypatch.setattr("faas.sandbox.fake.FakeSandbox.apply_limits", fail)
    with pytest.raises(RuntimeError):
        await sandbox.apply_limits(Limits())
    assert not sandbox.is_alive


async def test_a_destroy_that_failed_may_be_repeated(host, events, monkeypatch):
    sandbox = await make(host, events)

    async def fail(self, reason):
        raise OSError(16, "busy")

    with monkeypatch.context() as patch:
        patch.setattr("faas.sandbox.fake.FakeSandbox.destroy", fail)
        with pytest.raises(OSError, match="busy"):
            await sandbox.destroy("first")
    await sandbox.destroy("second")
    assert [e.reason for e in events if isinstance(e, SandboxDestroyed)] == ["second"]
    assert host.boxes == {}
