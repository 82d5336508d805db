"""Which runtime a request gets, and what it is told when it gets none."""

import asyncio

import pytest

from faas.clock import FakeClock
from faas.errors import (
    InvalidArgumentError,
    InvalidConfigError,
    RuntimeUnavailableError,
    UnsupportedError,
)
from faas.events import EventBus, RuntimeProbed
from faas.model import ExecutionSpec, NetworkMode, RuntimeChoice
from faas.sandbox import registry as registry_module
from faas.sandbox.fake import FakeRuntime
from faas.sandbox.isolation import isolation_rank
from faas.sandbox.protocols import ProbeReport
from faas.sandbox.registry import Registry, installed_runtimes


class Labelled(FakeRuntime):
    def __init__(
        self,
        name: str,
        isolation: str = "none",
        *,
        isolations: tuple[str, ...] = (),
        probe_ms: float = 0.0,
        is_available: bool = True,
    ) -> None:
        super().__init__(name=name)
        self.isolation = isolation
        self.isolations = isolations
        self.probe_ms = probe_ms
        self.is_available = is_available

    async def probe(self) -> ProbeReport:
        return ProbeReport(
            is_available=True,
            detail="ran true",
            isolation=self.isolation,
            isolations=self.isolations,
            duration_ms=self.probe_ms,
        )


def ask(**fields) -> ExecutionSpec:
    return ExecutionSpec(argv=("true",), image="host", **fields)


async def open_registry(*runtimes: FakeRuntime) -> Registry:
    opened = Registry({r.name: r for r in runtimes}, clock=FakeClock(), events=EventBus())
    await opened.start()
    return opened


async def test_auto_takes_the_first_that_works_in_the_written_order():
    docker, embedded = Labelled("docker"), Labelled("embedded")
    assert (await open_registry(docker, embedded)).pick(ask()) is embedded
    embedded.is_available = False
    assert (await open_registry(docker, embedded)).pick(ask()) is docker


async def test_a_runtime_of_a_third_party_comes_last():
    registry = await open_registry(Labelled("aaa"), Labelled("docker"))
    assert registry.names == ("docker", "aaa")


async def test_a_runtime_that_does_not_work_is_never_replaced_silently():
    registry = await open_registry(Labelled("docker", is_available=False), Labelled("embedded"))
    with pytest.raises(RuntimeUnavailableError) as caught:
        registry.pick(ask(runtime=RuntimeChoice.DOCKER))
    assert caught.value.details == {"supported": ["embedded"]}
    assert "switched off" in caught.value.message


async def test_a_runtime_that_is_not_built_in_says_what_is():
    registry = await open_registry(Labelled("embedded"))
    with pytest.raises(UnsupportedError) as caught:
        registry.pick(ask(runtime=RuntimeChoice.MICROVM))
    assert caught.value.details == {"supported": ["embedded"]}


async def test_without_any_runtime_auto_says_why():
    registry = await open_registry(Labelled("embedded", is_available=False))
    with pytest.raises(RuntimeUnavailableError) as caught:
        registry.pick(ask())
    assert "embedded" in caught.value.details


async def test_a_least_isolation_chooses_upwards_and_is_never_lowered():
    userns = Labelled("embedded", "namespaces+userns+seccomp")
    docker = Labelled("docker", "docker")
    registry = await open_registry(docker, userns)
    assert registry.pick(ask(isolation_min="container")) is userns
    assert registry.pick(ask(isolation_min="userns")) is userns
    with pytest.raises(UnsupportedError) as caught:
        registry.pick(ask(isolation_min="microvm"))
    assert caught.value.details["supported"]["docker"] == ["docker"]
    with pytest.raises(UnsupportedError):
        registry.pick(ask(isolation_min="userns", runtime=RuntimeChoice.DOCKER))


async def test_an_unknown_isolation_level_is_the_callers_mistake():
    registry = await open_registry(Labelled("embedded"))
    with pytest.raises(InvalidArgumentError):
        registry.pick(ask(isolation_min="fort-knox"))


@pytest.mark.parametrize(
    ("label", "rank"),
    [
        ("none", 0),
        ("docker", 1),
        ("namespaces+seccomp", 1),
        ("namespaces+userns+seccomp", 2),
        ("docker+gvisor", 3),
        ("microvm-kvm", 4),
    ],
)
def test_labels_stand_on_their_rung(label, rank):
    assert isolation_rank(label) == rank


async def test_what_a_runtime_cannot_do_is_named():
    registry = await open_registry(Labelled("embedded"))
    with pytest.raises(UnsupportedError, match="egress"):
        registry.pick(ask(network=NetworkMode.EGRESS))


async def test_a_runtime_that_hangs_is_unavailable_and_holds_nobody_up(monkeypatch):
    class Hanging(Labelled):
        async def probe(self) -> ProbeReport:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(registry_module, "PROBE_SECONDS_MAX", 0.01)
    registry = await open_registry(Hanging("docker"), Labelled("embedded"))
    assert not registry.reports()["docker"].is_available
    assert registry.reports()["embedded"].is_available


async def test_every_probe_is_told():
    events = []
    bus = EventBus()
    bus.listen(events.append)
    await Registry({"fake": FakeRuntime()}, clock=FakeClock(), events=bus).start()
    assert events == [RuntimeProbed(runtime="fake", is_available=True, detail="runs in memory")]


class Entry:
    def __init__(self, name: str, loaded: object) -> None:
        self.name = name
        self._loaded = loaded

    def load(self) -> object:
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


def test_two_packages_with_one_name_are_refused(monkeypatch):
    entries = [Entry("x", FakeRuntime), Entry("x", FakeRuntime)]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: entries)
    with pytest.raises(InvalidConfigError, match="two packages"):
        installed_runtimes()


def test_a_package_that_cannot_be_loaded_is_named(monkeypatch):
    entries = [Entry("broken", ImportError("no such module"))]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: entries)
    with pytest.raises(InvalidConfigError, match="broken"):
        installed_runtimes()
