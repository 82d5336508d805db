"""Which runtime `auto` takes, by which way of isolating, and what it says of it."""

from dataclasses import replace

import pytest

from faas.clock import FakeClock
from faas.errors import UnsupportedError
from faas.events import EventBus, SandboxCreated
from faas.ids import new_sandbox_id
from faas.model import ExecutionSpec, RuntimeChoice
from faas.sandbox.capabilities import Capability
from faas.sandbox.fake import FakeRuntime
from faas.sandbox.guarded import create_guarded
from faas.sandbox.protocols import ProbeReport, RootFilesystem, Sandbox, SandboxSpec
from faas.sandbox.registry import Registry

HOST = RootFilesystem(digest="host", path=None)
TREE = RootFilesystem(digest="sha256:tree", path=None)


class Machine(FakeRuntime):
    def __init__(
        self, name: str, *isolations: str, probe_ms: float = 0.0, runs_host: bool = True
    ) -> None:
        super().__init__(name=name)
        self.isolations = isolations or ("none",)
        self.probe_ms = probe_ms
        if not runs_host:
            self.capabilities = self.capabilities - {Capability.HOST_IMAGE}

    async def probe(self) -> ProbeReport:
        return ProbeReport(
            is_available=True,
            detail="",
            isolation=self.isolations[0],
            isolations=self.isolations[1:],
            duration_ms=self.probe_ms,
        )


def ask(**fields) -> ExecutionSpec:
    return ExecutionSpec(argv=("true",), image="any", **fields)


async def open_registry(*runtimes: FakeRuntime, bus: EventBus | None = None) -> Registry:
    named = {runtime.name: runtime for runtime in runtimes}
    opened = Registry(named, clock=FakeClock(), events=bus or EventBus())
    await opened.start()
    return opened


async def test_a_runtime_asked_for_says_so():
    registry = await open_registry(Machine("embedded"), Machine("docker"))
    choice = registry.choose(ask(runtime=RuntimeChoice.DOCKER), TREE)
    assert (choice.runtime.name, choice.reason) == ("docker", "asked for")


async def test_the_only_runtime_here_says_so():
    registry = await open_registry(Machine("docker"))
    assert registry.choose(ask(), TREE).reason == "auto: the only one here"


async def test_of_equally_fast_ones_the_first_in_the_order_is_taken():
    registry = await open_registry(Machine("docker"), Machine("embedded", probe_ms=9.0))
    choice = registry.choose(ask(), TREE)
    assert choice.runtime.name == "embedded"
    assert choice.reason == "auto: first of embedded, docker"


async def test_the_image_host_goes_only_where_the_machines_programs_are():
    registry = await open_registry(
        Machine("embedded", probe_ms=500.0), Machine("docker", runs_host=False)
    )
    choice = registry.choose(ask(), HOST)
    assert choice.runtime.name == "embedded"
    assert choice.reason == "auto: the only one here that can"
    with pytest.raises(UnsupportedError, match="the image host"):
        registry.choose(ask(runtime=RuntimeChoice.DOCKER), HOST)


async def test_a_warm_sandbox_beats_a_slow_start_and_not_a_quick_one():
    registry = await open_registry(Machine("embedded", probe_ms=3.0), Machine("docker"))

    def warm_docker(choice) -> bool:
        return choice.runtime.name == "docker"

    assert registry.choose(ask(), TREE, is_warm=warm_docker).runtime.name == "embedded"
    slow = await open_registry(
        Machine("embedded", probe_ms=400.0), Machine("docker", probe_ms=900.0)
    )
    choice = slow.choose(ask(), TREE, is_warm=warm_docker)
    assert choice.runtime.name == "docker"
    assert choice.reason == "auto: docker had a warm sandbox, embedded needs 400 ms"
    assert slow.choose(ask(), TREE).runtime.name == "embedded"


async def test_what_was_measured_lately_counts_more_than_the_order():
    bus = EventBus()
    registry = await open_registry(Machine("embedded"), Machine("docker"), bus=bus)
    for _ in range(40):
        bus.publish(SandboxCreated(new_sandbox_id(), "embedded", "x", 300_000))
        bus.publish(SandboxCreated(new_sandbox_id(), "docker", "x", 90_000))
    choice = registry.choose(ask(), TREE)
    assert choice.runtime.name == "docker"
    assert choice.reason == "auto: docker needs 90 ms, embedded 300 ms"


async def test_a_stronger_way_is_demanded_only_where_the_ordinary_one_is_too_weak():
    docker = Machine("docker", "docker+seccomp", "docker+gvisor")
    registry = await open_registry(docker)
    assert registry.choose(ask(), TREE).isolation_min is None
    assert registry.choose(ask(isolation_min="container"), TREE).isolation_min is None
    # Both rungs lead to the same kind of sandbox, so to the same shelf of the warm pool.
    for demanded in ("userns", "gvisor"):
        assert registry.choose(ask(isolation_min=demanded), TREE).isolation_min == "gvisor"
    assert registry.demand("docker", "userns") == "gvisor"
    assert registry.demand("docker", "container") is None


async def test_a_refusal_names_every_way_there_is():
    registry = await open_registry(
        Machine("embedded", "namespaces+userns"), Machine("docker", "docker", "docker+gvisor")
    )
    with pytest.raises(UnsupportedError) as caught:
        registry.choose(ask(isolation_min="microvm"), TREE)
    assert caught.value.details["supported"] == {
        "embedded": ["namespaces+userns"],
        "docker": ["docker", "docker+gvisor"],
    }
    with pytest.raises(UnsupportedError, match="the runtime embedded here"):
        registry.choose(ask(isolation_min="gvisor", runtime=RuntimeChoice.EMBEDDED), TREE)


async def test_a_new_probe_changes_the_answer():
    docker = Machine("docker", "docker")
    registry = await open_registry(docker)
    with pytest.raises(UnsupportedError):
        registry.choose(ask(isolation_min="gvisor"), TREE)
    docker.isolations = ("docker", "docker+gvisor")
    await registry.probe()
    assert registry.choose(ask(isolation_min="gvisor"), TREE).isolation_min == "gvisor"


async def test_a_runtime_that_makes_less_than_it_promised_is_caught():
    """Whatever a runtime's probe said, a weaker sandbox is destroyed and nothing runs in it."""

    class Boastful(FakeRuntime):
        async def create(self, spec: SandboxSpec) -> Sandbox:
            return await super().create(replace(spec, isolation_min=None))

    runtime = Boastful()
    spec = SandboxSpec(id=new_sandbox_id(), root=TREE, isolation_min="gvisor")
    with pytest.raises(UnsupportedError, match="less than gvisor"):
        await create_guarded(runtime, spec, clock=FakeClock(), events=EventBus(), seconds_max=5)
    assert not runtime.host.boxes
