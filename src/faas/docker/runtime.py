"""The Docker runtime: one hardened container a sandbox, our agent its first process.

An exec is a frame to the agent over a socket in a bound directory, never `docker exec`, so
commands, input, terminals, files, output and re-adoption are the same code as in the embedded
runtime. An Engine on another machine gets a copy of the agent, which is spoken to through it.

To make one: write the intent (`WorkDir`), give the Engine the image's tree if it lacks it, create
and start the container, greet the agent. Containers carry the tag of the data directory; start-up
takes back or away those, and touches nothing else of the Engine's.
"""

import asyncio
import logging
import os
import platform
import tempfile
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from faas.agent.channel import AgentChannel
from faas.cleanup import Cleanup
from faas.clock import Clock, SystemClock
from faas.criu.checkpoint import is_half_refilled
from faas.docker.connecting import connect, open_shelf
from faas.docker.container import (
    AGENT,
    HOSTNAME,
    LABEL_DATA,
    MemoryTerms,
    container_config,
    container_name,
    resources,
    socket_owner,
    writable_places,
)
from faas.docker.engine_images import EngineImages
from faas.docker.groups import ContainerGroups
from faas.docker.memory import ISOLATION_OF_MEMORY, ContainerMemory, site_of
from faas.docker.pauses import Pauses
from faas.docker.reclaim import reclaim
from faas.docker.relay import RelayedChannel
from faas.docker.remote import RemoteAgents
from faas.docker.sandbox import DockerSandbox, Upkeep
from faas.docker.settings import DockerSettings
from faas.docker.shelf import EngineShelf
from faas.docker.work_dir import Meta, WorkDir
from faas.egress import EgressNetwork
from faas.errors import (
    AlreadyExistsError,
    FaasError,
    NotFoundError,
    RuntimeUnavailableError,
    SandboxBrokenError,
    UnsupportedError,
    WrongStateError,
)
from faas.ids import SandboxId, new_sandbox_id
from faas.model import Limits, NetworkMode
from faas.sandbox.capabilities import Capability
from faas.sandbox.isolation import reaches
from faas.sandbox.protocols import (
    Command,
    Exit,
    OutputFiles,
    ProbeReport,
    ReclaimReport,
    RootFilesystem,
    SandboxSpec,
)
from faas.sandbox.registry import RuntimeContext

if TYPE_CHECKING:
    from faas.docker.engine import Engine, EngineFacts

Json = dict[str, Any]

_GREETING_SECONDS = 10.0
"""From the container's start to its agent's first word; measured well under 0.1 s."""
_OWED_AT_ONCE = 4
_log = logging.getLogger(__name__)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Way(NamedTuple):
    """One way to isolate: what it is called, and the OCI runtime that does it."""

    label: str
    oci_runtime: str | None


class _Order(NamedTuple):
    """A container that is to be started."""

    spec: SandboxSpec
    image: str
    work_dir: WorkDir
    oci_runtime: str | None
    memory: MemoryTerms | None


GVISOR = Way("docker+gvisor", "runsc")
_GVISOR_SECONDS = 10.0
"""It takes a fifth of a second; the probe of a runtime has twice as long as this."""


class DockerRuntime:
    """A `Runtime`; see the module."""

    def __init__(self, settings: DockerSettings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._sandboxes: dict[SandboxId, DockerSandbox] = {}
        self._owed: set[SandboxId] = set()
        """Whose containers are to be removed as soon as the Engine answers."""
        self._engine: Engine | None = None
        self._images: EngineImages | None = None
        self._shelf: EngineShelf | None = None
        self._remote: RemoteAgents | None = None
        """None where the agent is bound in from this machine."""
        self._pauses: Pauses | None = None
        """None where namespaces cannot be looked at from here: then the Engine makes them."""
        self._egress = EgressNetwork(
            f"{settings.tag[:8]}d", dns=settings.egress_dns, host_namespace=settings.egress_host
        )
        self._memory = ContainerMemory(settings)
        self._oci_runtime: str | None = None
        self._first_uid: int | None = None
        self._isolation = "docker"
        self._ways: list[Way] = []

    @property
    def name(self) -> str:
        return "docker"

    @property
    def capabilities(self) -> frozenset[Capability]:
        able = {Capability.ADOPT, Capability.TTY, Capability.FILE_SNAPSHOT, Capability.PORTS}
        if self._has_egress:
            able.add(Capability.EGRESS)
        if self._memory.why_not is None:
            able.add(Capability.MEMORY_SNAPSHOT)
        return frozenset(able)

    def why_without(self, capability: Capability) -> FaasError | None:
        is_memory = capability is Capability.MEMORY_SNAPSHOT
        return self._memory.why_not if is_memory else None

    def writable(self, root: RootFilesystem) -> tuple[str, ...]:
        return writable_places(root)

    @property
    def _has_egress(self) -> bool:
        return self._egress.is_available and not self._settings.is_copied

    @property
    def isolation(self) -> str:
        """What stands between a command and this host."""
        return self._isolation

    @property
    def shelf(self) -> EngineShelf | None:
        """The Engine's own images; None until it was started."""
        return self._shelf

    async def start(self) -> None:
        if self._engine is not None:
            return
        if not self._settings.binary.is_file():
            raise RuntimeUnavailableError("the native program is not built", hint="make native")
        engine = connect(self._settings.address)
        try:
            facts = await engine.facts()
            self._settle(facts)
        except BaseException:
            await engine.aclose()
            raise
        self._settings.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._images = EngineImages(
            engine,
            tag=self._settings.tag,
            scratch=self._settings.work_dir,
            architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        )
        self._shelf = open_shelf(engine, self._settings)
        await self._memory.start(facts)
        self._engine = engine
        if self._settings.is_copied:
            self._remote = RemoteAgents(
                engine, self._settings.binary, is_remapped=facts.first_uid is not None
            )
        elif os.geteuid() == 0:
            self._pauses = Pauses(
                engine,
                self._settings,
                image=self._empty_image,
                socket_owner=socket_owner(self._first_uid),
                oci_runtime=self._oci_runtime,
            )

    async def _empty_image(self) -> str:
        """An image of nothing: pauses and the probe run the agent only, which is bound in."""
        _, images = self._opened()
        with tempfile.TemporaryDirectory(dir=self._settings.work_dir, prefix="empty-") as directory:
            return await images.ensure(_empty_root(Path(directory)))

    def _settle(self, facts: "EngineFacts") -> None:
        is_blocked = facts.first_uid is not None and (facts.first_uid < 0 or os.geteuid() != 0)
        if is_blocked and not self._settings.is_copied:
            raise RuntimeUnavailableError(
                "this Docker Engine remaps user ids, and the agent's socket cannot be shared then",
                hint="run the gateway as root, or the Engine without --userns-remap",
            )
        self._first_uid = facts.first_uid
        wanted = self._settings.oci_runtime
        if wanted is not None and wanted not in facts.oci_runtimes:
            raise RuntimeUnavailableError(
                f"this Docker Engine has no OCI runtime {wanted!r}",
                details={"supported": sorted(facts.oci_runtimes)},
            )
        self._oci_runtime = wanted or ("crun" if "crun" in facts.oci_runtimes else None)
        parts = ["docker", "userns" if facts.first_uid is not None else ""]
        self._isolation = "+".join(filter(None, [*parts, "seccomp" if facts.has_seccomp else ""]))
        self._ways = [Way(self._isolation, self._oci_runtime)]
        has_gvisor = GVISOR.oci_runtime in facts.oci_runtimes and facts.first_uid is None
        if has_gvisor and not self._settings.is_copied:
            self._ways.append(GVISOR)

    async def probe(self) -> ProbeReport:
        began = self._clock.monotonic_ns()
        try:
            await self.start()
            ended, said = await self._try()
            await self._try_gvisor()
        except FaasError as error:
            return ProbeReport(is_available=False, detail=error.message, hint=error.hint)
        except (OSError, ExceptionGroup) as error:
            return ProbeReport(is_available=False, detail=f"it failed: {error}")
        passed = b"faas-native" in said
        return ProbeReport(
            is_available=passed,
            detail=("our agent answered in a container" if passed else _unheard(ended))
            + f"; it is {'copied in, over the Engine' if self._remote else 'bound in'}",
            isolation=self._isolation,
            isolations=tuple(way.label for way in self._ways[1:]),
            limits="docker memory,cpu,pids",
            duration_ms=(self._clock.monotonic_ns() - began) / 1e6,
        )

    async def _try_gvisor(self) -> None:
        """Offer gVisor only where it really runs a command of ours, whatever the Engine lists."""
        if GVISOR not in self._ways:
            return
        try:
            async with asyncio.timeout(_GVISOR_SECONDS):
                _, said = await self._try("gvisor")
        except (FaasError, OSError, ExceptionGroup, TimeoutError) as failure:
            said = b""
            _log.warning("gVisor does not work here", extra={"problem": str(failure)[:300]})
        if b"faas-native" not in said:
            self._ways.remove(GVISOR)

    async def _try(self, isolation_min: str | None = None) -> tuple[Exit, bytes]:
        """Run the one program every container has: the agent."""
        with tempfile.TemporaryDirectory(dir=self._settings.work_dir, prefix="probe-") as directory:
            place = Path(directory)
            root = _empty_root(place)
            spec = SandboxSpec(id=new_sandbox_id(), root=root, isolation_min=isolation_min)
            sandbox = await self.create(spec)
            try:
                output = OutputFiles(place / "out", place / "err")
                command = Command((AGENT,), timeout_ms=10_000)
                ended = await (await sandbox.start("probe", command, output)).wait()
                return ended, output.stdout.read_bytes() + output.stderr.read_bytes()
            finally:
                await sandbox.destroy("probed")

    async def create(self, spec: SandboxSpec) -> DockerSandbox:
        if spec.network is NetworkMode.EGRESS and not self._has_egress:
            raise self._no_egress()
        if spec.id in self._sandboxes:
            raise AlreadyExistsError(f"there is a sandbox {spec.id}")
        await self._pay_owed()
        cleanup = Cleanup()
        try:
            sandbox = await self._create(spec, cleanup)
        except BaseException:
            await cleanup.close()
            raise
        cleanup.pop_all()
        return sandbox

    def _no_egress(self) -> UnsupportedError:
        is_elsewhere = self._settings.is_copied
        return UnsupportedError(
            "containers on an Engine elsewhere have no network egress: its rules would have to be"
            " laid on that machine"
            if is_elsewhere
            else "the docker runtime has no network egress here",
            hint="use a runtime on this machine"
            if is_elsewhere
            else "run the gateway as root, and apt-get install nftables",
            details={"supported": [NetworkMode.NONE.value]},
        )

    async def _create(self, spec: SandboxSpec, cleanup: Cleanup) -> DockerSandbox:
        _, images = self._opened()
        image = await images.ensure(spec.root)
        way = self._way(spec)
        work_dir, _ = self._places(spec.id)
        with self._memory.terms(spec) as terms:
            label = way.label if terms is None else ISOLATION_OF_MEMORY
            meta = Meta(spec.root.digest, label, spec.root.env, user=terms and terms.user)
            work_dir.create(meta, owner=socket_owner(self._first_uid))
        cleanup.push(partial(self._release, spec.id))
        order = _Order(spec, image, work_dir, way.oci_runtime, terms)
        # gVisor has a network stack of its own, and leaves the namespace it is started in.
        state = await (self._start_in(None, order) if way is GVISOR else self._started(order))
        channel = await self._connected(spec.id, work_dir)
        cleanup.push(partial(channel.close, "creation failed"))
        sandbox = self._take_up(spec.id, meta, channel, state)
        if sandbox.site is not None:
            await self._memory.make_ready(work_dir, sandbox.site, spec)
        return sandbox

    def _way(self, spec: SandboxSpec) -> Way:
        """Choose how it is isolated: the ordinary way unless more is demanded.

        Raises:
            UnsupportedError: this Engine does not isolate that much, or not with that network.
        """
        for way in self._ways:
            if not reaches(way.label, spec.isolation_min):
                continue
            if way is GVISOR and spec.network is NetworkMode.EGRESS:
                raise UnsupportedError("gVisor has no network egress here")
            if way is GVISOR and spec.keeps_memory:
                raise UnsupportedError("gVisor keeps no memory here")
            return way
        raise UnsupportedError(
            f"this Docker Engine does not isolate by {spec.isolation_min}",
            hint="give it gVisor: docs/how-to/docker.md",
            details={"supported": [way.label for way in self._ways]},
        )

    async def _started(self, order: _Order) -> Json:
        """Create and start the container, in a network namespace of its own; say what it is."""
        pauses, spec = self._pauses, order.spec
        if pauses is None or (spec.hostname != HOSTNAME and spec.network is NetworkMode.NONE):
            return await self._start_in(None, order)
        async with pauses.lend() as pause:
            if spec.network is NetworkMode.EGRESS:
                await self._egress.attach(pause.namespace)
            state = await self._start_in(pause.name, order)
            if not pause.is_in(_pid(state)):
                raise SandboxBrokenError("a container is not in the network made for it")
            return state

    async def _start_in(self, pause: str | None, order: _Order) -> Json:
        engine, images = self._opened()
        spec, image = order.spec, order.image
        _, name = self._places(spec.id)
        config = container_config(
            spec,
            self._settings,
            image=image,
            sockets=order.work_dir.sockets,
            oci_runtime=order.oci_runtime,
            pause=pause,
            memory=order.memory,
        )
        try:
            await engine.create(name, config)
        except NotFoundError:
            images.forget(image)
            await engine.create(name, {**config, "Image": await images.ensure(spec.root)})
        if self._remote is not None:
            await self._remote.place(name)
        await engine.start(name)
        return await engine.inspect(name) or {}

    async def _connected(self, sandbox_id: SandboxId, work_dir: WorkDir) -> AgentChannel:
        if self._remote is None:
            return await self._greeted(work_dir)
        _, name = self._places(sandbox_id)
        return await self._remote.connect(name, work_dir, seconds=_GREETING_SECONDS)

    async def _greeted(self, work_dir: WorkDir) -> AgentChannel:
        """Connect as soon as the agent listens; the Engine says only that it was executed."""
        pause = 0.001
        try:
            async with asyncio.timeout(_GREETING_SECONDS):
                while True:
                    try:
                        channel = AgentChannel(work_dir.connect())
                        break
                    except OSError:
                        await asyncio.sleep(pause)
                        pause = min(pause * 1.5, 0.05)
        except TimeoutError:
            raise SandboxBrokenError("the agent in the container does not answer") from None
        try:
            await channel.hello(seconds=_GREETING_SECONDS)
        except BaseException:
            channel.close()
            raise
        return channel

    def _take_up(
        self, sandbox_id: SandboxId, meta: Meta, channel: AgentChannel, state: Json
    ) -> DockerSandbox:
        engine, _ = self._opened()
        work_dir, name = self._places(sandbox_id)

        async def limit(limits: Limits) -> None:
            await engine.limit(name, resources(limits))

        sandbox = DockerSandbox(
            sandbox_id,
            meta,
            channel=channel,
            # The pid of a container elsewhere is somebody else's here.
            groups=channel.groups
            if isinstance(channel, RelayedChannel)
            else ContainerGroups(_pid(state)),
            upkeep=Upkeep(limit, partial(self._release, sandbox_id), self._memory),
            open_agent=None if self._remote else work_dir.connect,
            tunnel=None if self._remote is None else self._remote.tunnel(name),
            site=None if meta.user is None else site_of(work_dir, meta.user, _pid(state)),
        )
        self._sandboxes[sandbox_id] = sandbox
        return sandbox

    async def _release(self, sandbox_id: SandboxId) -> None:
        """Remove the container, then its directory; when the Engine is away, once it is back.

        The next start would find it as well, but a container may hold much until then.
        """
        engine, _ = self._opened()
        work_dir, name = self._places(sandbox_id)
        self._sandboxes.pop(sandbox_id, None)
        self._owed.add(sandbox_id)
        try:
            await engine.remove(name)
        except RuntimeUnavailableError:
            _log.warning("a container is left until the Engine answers", extra={"container": name})
            return
        self._memory.give_back(work_dir.meta())
        work_dir.remove()
        self._owed.discard(sandbox_id)

    async def _pay_owed(self) -> None:
        """Remove what could not be removed before, a few at a time so that nobody waits long."""
        for sandbox_id in list(self._owed)[:_OWED_AT_ONCE]:
            await self._release(sandbox_id)
            if sandbox_id in self._owed:
                return

    async def adopt(self, sandbox_id: SandboxId) -> DockerSandbox | None:
        if sandbox_id in self._sandboxes:
            return self._sandboxes[sandbox_id]
        engine, _ = self._opened()
        work_dir, name = self._places(sandbox_id)
        meta, state = work_dir.meta(), await engine.inspect(name)
        if meta is None or state is None or not _is_ours(state, self._settings.tag):
            return None
        is_whole = meta.user is None or work_dir.is_ready
        if not state.get("State", {}).get("Running") or not is_whole:
            await self._release(sandbox_id)
            return None
        if is_half_refilled(work_dir.path):
            await self._release(sandbox_id)
            raise WrongStateError("a gateway died while it restored the sandbox")
        try:
            channel = await self._adopted(sandbox_id, work_dir)
        except (OSError, SandboxBrokenError):
            await self._release(sandbox_id)
            return None
        sandbox = self._take_up(sandbox_id, meta, channel, state)
        if sandbox.site is not None:
            await self._memory.let_go_on(sandbox.site)
        return sandbox

    async def _adopted(self, sandbox_id: SandboxId, work_dir: WorkDir) -> AgentChannel:
        if self._remote is not None:
            return await self._connected(sandbox_id, work_dir)
        channel = AgentChannel(work_dir.connect())
        await channel.hello()
        return channel

    async def reclaim(self, *, keep: AbstractSet[SandboxId]) -> ReclaimReport:
        engine, _ = self._opened()
        kept = {str(one) for one in keep | self._sandboxes.keys()} | self._pause_names()
        report = await reclaim(engine, self._settings, kept=kept)
        await self._egress.reclaim()
        return report

    async def aclose(self, *, leave_running: AbstractSet[SandboxId] = frozenset()) -> None:
        if self._engine is None:
            return
        async with Cleanup() as cleanup:
            stay = bool(leave_running & self._sandboxes.keys())
            cleanup.push(partial(self._egress.aclose, sandboxes_stay=stay))
            cleanup.push(self._engine.aclose)
            cleanup.push(self._memory.aclose)
            if self._pauses is not None:
                cleanup.push(self._pauses.aclose)
            if self._remote is not None:
                cleanup.push(self._remote.aclose)
            cleanup.push(partial(self._empty, leave_running))
        self._engine = self._images = self._shelf = self._pauses = self._remote = None

    def _pause_names(self) -> frozenset[str]:
        return frozenset() if self._pauses is None else self._pauses.names

    async def _empty(self, leave_running: AbstractSet[SandboxId]) -> None:
        sandboxes = list(self._sandboxes.values())
        for sandbox in sandboxes:
            if sandbox.id in leave_running:
                sandbox.let_go()
        ending = [s.destroy("the runtime stops") for s in sandboxes if s.id not in leave_running]
        outcomes = await asyncio.gather(*ending, return_exceptions=True)
        self._sandboxes.clear()
        self._owed.clear()
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failures:
            raise ExceptionGroup("containers could not be removed", failures)

    def _opened(self) -> "tuple[Engine, EngineImages]":
        if self._engine is None or self._images is None:
            raise RuntimeUnavailableError("the docker runtime was not started")
        return self._engine, self._images

    def _places(self, sandbox_id: SandboxId) -> tuple[WorkDir, str]:
        work_dir = WorkDir(self._settings.work_dir / sandbox_id)
        return work_dir, container_name(self._settings.tag, sandbox_id)


def _unheard(ended: Exit) -> str:
    return f"our agent did not answer in a container: {ended.reason}, code {ended.code}"


def _empty_root(place: Path) -> RootFilesystem:
    tree = place / "tree"
    (tree / "tmp").mkdir(parents=True)
    return RootFilesystem(digest="sha256:probe", path=tree)


def _pid(state: Json) -> int:
    return int(state.get("State", {}).get("Pid", 0))


def _is_ours(state: Json, tag: str) -> bool:
    return state.get("Config", {}).get("Labels", {}).get(LABEL_DATA) == tag


def open_runtime(context: RuntimeContext) -> DockerRuntime:
    """Open the runtime; the entry point `faas.runtimes: docker`."""
    return DockerRuntime(DockerSettings.from_context(context))
