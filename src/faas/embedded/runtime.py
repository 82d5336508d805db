"""The embedded runtime: sandboxes out of this host's own namespaces, groups and filters.

To make one: write the intent (`RunDir`), make its control groups, listen for its agent, hand the
plan to the launcher, greet the agent. Each step's undo is remembered the moment it is done, and
start-up takes back or away whatever a killed gateway left between any two of them.
"""

import asyncio
import errno
import os
import platform
import re
import socket
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from faas.agent.channel import AgentChannel
from faas.cleanup import Cleanup
from faas.criu.checkpoint import Checkpointer, is_half_refilled, let_go_on
from faas.criu.program import Criu
from faas.criu.program import find as find_criu
from faas.egress import EgressNetwork
from faas.embedded import diagnosis
from faas.embedded.cgroups import Cgroups, open_cgroups
from faas.embedded.freezer import Freezer, open_freezer
from faas.embedded.host_root import build_etc
from faas.embedded.layers import Layers
from faas.embedded.reclaim import reclaim
from faas.embedded.run_dir import Meta, RunDir, run_dirs
from faas.embedded.sandbox import EmbeddedSandbox, Upkeep
from faas.embedded.sandbox_plan import Ingredients, encoded, sandbox_plan
from faas.embedded.seccomp import build_filter
from faas.embedded.settings import EmbeddedSettings, packaged_binary
from faas.embedded.user_slots import UserSlots
from faas.errors import (
    AlreadyExistsError,
    FaasError,
    NotFoundError,
    RuntimeUnavailableError,
    SandboxBrokenError,
    UnsupportedError,
    WrongStateError,
)
from faas.ids import SandboxId
from faas.launcher import SPARE_PREFIX, Launcher
from faas.model import FileInput, Limits, NetworkMode
from faas.sandbox.capabilities import Capability
from faas.sandbox.layers import Layer
from faas.sandbox.protocols import ProbeReport, ReclaimReport, SandboxSpec
from faas.sandbox.registry import RuntimeContext

_LAYERS_KERNEL = (6, 6)
"""Memory file systems can be idmapped since 6.3 and mark opaque directories since 6.6."""
SPARES = 8
"""Control groups with a process in them, made ahead: as many as a burst of forks may want at once,
each a process of 200 kB. A move into a version 1 group waits 10 ms on an idle host."""
_RESOLV_CONF = "/etc/resolv.conf"
ISOLATION_OF_MEMORY = "namespaces+uid+seccomp"
"""Of a sandbox that keeps memory: an unprivileged user of the host's, no user namespace."""

P = ParamSpec("P")
T = TypeVar("T")


class EmbeddedRuntime:
    """A `Runtime`; see the module."""

    def __init__(self, settings: EmbeddedSettings) -> None:
        self._settings = settings
        self._is_root = os.geteuid() == 0
        self._has_layers = self._is_root and _kernel() >= _LAYERS_KERNEL
        self._launcher = Launcher(settings.binary)
        self._slots = UserSlots(settings.tag)
        self._sandboxes: dict[SandboxId, EmbeddedSandbox] = {}
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="faas-embedded")
        self._egress = EgressNetwork(
            f"{settings.tag[:8]}e", dns=settings.egress_dns, host_namespace=settings.egress_host
        )
        self._cgroups = Cgroups(0, {})
        self._freezer = Freezer(None)
        self._ingredients: Ingredients | None = None
        self._layers = Layers(self._launcher)
        self._criu: Criu | None = None
        self._no_criu: FaasError | None = None

    @property
    def name(self) -> str:
        return "embedded"

    @property
    def capabilities(self) -> frozenset[Capability]:
        able = {
            Capability.ADOPT,
            Capability.TTY,
            Capability.FILE_SNAPSHOT,
            Capability.HOST_IMAGE,
            Capability.PORTS,
        }
        if self._has_layers:
            able.add(Capability.FILE_LAYERS)
        if self._criu is not None:
            able.add(Capability.MEMORY_SNAPSHOT)
        if self._freezer.is_available:
            able.add(Capability.PAUSE)
        if self._egress.is_available:
            able.add(Capability.EGRESS)
        return frozenset(able)

    def why_without(self, capability: Capability) -> FaasError | None:
        return self._no_criu if capability is Capability.MEMORY_SNAPSHOT else None

    @property
    def isolation(self) -> str:
        """What stands between a command and this host."""
        users = "userns" if self._is_root else "userns-single"
        return f"namespaces+{users}+seccomp"

    def idle_bytes(self, isolation_min: str | None) -> int:
        """Return what a hundred of them took of slab, stacks and page tables, by the hundred."""
        return 512 << 10

    @property
    def criu(self) -> Criu:
        """What takes and restores memory here.

        Raises:
            UnsupportedError: there is nothing that can, and what would help.
        """
        if self._criu is None:
            raise self._no_criu or UnsupportedError("the runtime was not started")
        return self._criu

    async def start(self) -> None:
        if self._ingredients is not None:
            return
        if not self._settings.binary.is_file():
            raise RuntimeUnavailableError("the native program is not built", hint="make native")
        ingredients = await self._off_loop(self._prepare)
        if self._cgroups.version == 1:
            self._launcher.keep_spares(SPARES, self._cgroups.parents)
        await self._launcher.start()
        self._ingredients = ingredients

    def _prepare(self) -> Ingredients:
        self._settings.run_dir.mkdir(parents=True, exist_ok=True)
        resolv_conf = self._egress.resolv_conf
        etc = build_etc(self._settings.data_dir / "host-etc", resolv_conf=resolv_conf)
        self._cgroups = open_cgroups(self._settings.tag, policy=self._settings.cgroup_policy)
        self._freezer = open_freezer(self._settings.tag, version=self._cgroups.version)
        for run_dir in run_dirs(self._settings.run_dir):
            meta = run_dir.meta()
            if meta is not None and meta.slot is not None:
                self._slots.reserve(meta.slot)
        held = self._cgroups.label.split(" ")[-1].split(",")
        program = build_filter(platform.machine().replace("arm64", "aarch64"))
        kdat = self._find_criu()
        return Ingredients(etc, program, "memory" in held, "pids" in held, kdat)

    def _find_criu(self) -> Path | None:
        if not self._is_root:
            self._no_criu = UnsupportedError(
                "memory checkpoints need a gateway that is root", hint="run the gateway as root"
            )
            return None
        try:
            cache = self._settings.data_dir / "criu-kernel"
            self._criu = find_criu(
                self._settings.criu_prefix,
                cache,
                preload=self._settings.binary.with_name(
                    self._settings.binary.name.replace("native", "criu") + ".so"
                ),
            )
        except UnsupportedError as error:
            self._no_criu = error
            return None
        return self._criu.kdat

    async def probe(self) -> ProbeReport:
        return await diagnosis.probe(self, limits=lambda: self._cgroups.label)

    async def create(self, spec: SandboxSpec) -> EmbeddedSandbox:
        if spec.network is NetworkMode.EGRESS and not self._egress.is_available:
            raise UnsupportedError(
                "the embedded runtime has no network egress here",
                hint="run the gateway as root, and apt-get install nftables",
                details={"supported": [NetworkMode.NONE.value]},
            )
        if spec.keeps_memory:
            _ = self.criu  # raises, and says why
        if spec.id in self._sandboxes:
            raise AlreadyExistsError(f"there is a sandbox {spec.id}")
        if self._ingredients is None:
            raise RuntimeUnavailableError("the runtime was not started")
        cleanup = Cleanup()
        try:
            sandbox = await self._create(spec, self._ingredients, cleanup)
        except BaseException:
            await cleanup.close()
            raise
        cleanup.pop_all()
        return sandbox

    async def _create(
        self, spec: SandboxSpec, ingredients: Ingredients, cleanup: Cleanup
    ) -> EmbeddedSandbox:
        run_dir, meta = RunDir(self._settings.run_dir / spec.id), self._meta(spec)
        cleanup.push(partial(self._release, run_dir, meta))
        self._layers.stand(spec.id, spec.layers)
        sockets: list[socket.socket] = []
        cleanup.push(partial(_close_all, sockets))
        self._acquire(run_dir, meta, sockets)
        listener, connection = sockets
        channel = AgentChannel(connection)
        cleanup.push(channel.close)
        chores = self._cgroups.limiting(meta.leaf, spec.limits)
        plan = encoded(sandbox_plan(spec, run_dir, meta, ingredients, chores=chores))
        greeting = channel.greet()
        launched = await self._launcher.launch(plan, listener)
        listener.close()
        sandbox = self._take_up(run_dir, meta, channel, launched.pidfd)
        cleanup.push(partial(sandbox.destroy, "creation failed"))
        await channel.hello(greeting)
        if spec.network is NetworkMode.EGRESS:
            await self._give_egress(sandbox, spec, run_dir)
        return sandbox

    async def _give_egress(
        self, sandbox: EmbeddedSandbox, spec: SandboxSpec, run_dir: RunDir
    ) -> None:
        """Link its network to ours, and name the name servers; the image `host` has them."""
        network = run_dir.open_network()
        try:
            await self._egress.attach(network)
        finally:
            os.close(network)
        if spec.root.path is not None:
            with suppress(NotFoundError):
                await sandbox.remove(_RESOLV_CONF)
            text = self._egress.resolv_conf.encode()
            await sandbox.put_files((FileInput(_RESOLV_CONF, text),))

    def _meta(self, spec: SandboxSpec) -> Meta:
        return Meta(
            image_digest=spec.root.digest,
            isolation=ISOLATION_OF_MEMORY if spec.keeps_memory else self.isolation,
            keeps_memory=spec.keeps_memory,
            slot=self._slots.take() if self._is_root else None,
            cgroups=dict(self._cgroups.leaf(spec.id).directories),
            env=list(spec.root.env),
            working_dir=spec.root.working_dir,
            base=None if spec.layers is None else spec.layers.base,
        )

    def _acquire(self, run_dir: RunDir, meta: Meta, sockets: list[socket.socket]) -> None:
        """Write the intent and listen: quick, for it is in memory (`DataDir.run_dir`)."""
        run_dir.create(meta)
        sockets.append(run_dir.listen())
        sockets.append(run_dir.connect())

    def _take_up(
        self, run_dir: RunDir, meta: Meta, channel: AgentChannel, pidfd: int
    ) -> EmbeddedSandbox:
        async def limit(limits: Limits) -> None:
            if await self._launcher.do(self._cgroups.limiting(meta.leaf, limits)):
                try:
                    await self._off_loop(self._cgroups.limit, meta.leaf, limits)
                except OSError as refused:
                    raise _limit_refused(refused) from refused

        async def freeze() -> None:
            if not self._freezer.is_available:
                raise UnsupportedError("no freezer can be had here", hint="run the gateway as root")
            await self._off_loop(self._freezer.freeze, run_dir.sandbox_id, meta.leaf)

        async def thaw() -> None:
            await self._off_loop(self._freezer.thaw, run_dir.sandbox_id, meta.leaf)

        async def checkpointer() -> Checkpointer:
            return Checkpointer(self.criu, self._launcher, self._off_loop)

        release = partial(self._release_dead, run_dir, meta)
        upkeep = Upkeep(limit, release, freeze, thaw, checkpointer, self._layers)
        sandbox = EmbeddedSandbox(run_dir, meta, channel=channel, pidfd=pidfd, upkeep=upkeep)
        self._sandboxes[sandbox.id] = sandbox
        return sandbox

    async def _release(self, run_dir: RunDir, meta: Meta) -> None:
        """Give everything back; the directory last, and only when the rest is gone."""
        self._layers.leave(run_dir.sandbox_id)
        is_gone = await self._off_loop(self._remove, run_dir, meta)
        await self._off_loop(self._freezer.forget, run_dir.sandbox_id)
        self._sandboxes.pop(run_dir.sandbox_id, None)
        if meta.slot is not None and is_gone:
            self._slots.give_back(meta.slot)

    async def _release_dead(self, run_dir: RunDir, meta: Meta) -> None:
        """Give back what a sandbox held whose processes are gone; else the thorough way."""
        self._layers.leave(run_dir.sandbox_id)
        chores = self._cgroups.removal(meta.leaf) + run_dir.removal()
        try:
            failed = await self._launcher.do(chores)
        except FaasError:
            failed = errno.EIO
        if failed:
            await self._release(run_dir, meta)
            return
        if self._freezer.has(run_dir.sandbox_id):
            await self._off_loop(self._freezer.forget, run_dir.sandbox_id)
        self._sandboxes.pop(run_dir.sandbox_id, None)
        if meta.slot is not None:
            self._slots.give_back(meta.slot)

    def _remove(self, run_dir: RunDir, meta: Meta) -> bool:
        run_dir.kill()
        if not self._cgroups.remove(meta.leaf):
            return False
        run_dir.remove()
        return True

    async def adopt(self, sandbox_id: SandboxId) -> EmbeddedSandbox | None:
        if sandbox_id in self._sandboxes:
            return self._sandboxes[sandbox_id]
        run_dir = RunDir(self._settings.run_dir / sandbox_id)
        meta = run_dir.meta()
        pidfd = run_dir.open_process()
        if meta is None or pidfd is None:
            if pidfd is not None:
                os.close(pidfd)
            return None
        try:
            channel = AgentChannel(run_dir.connect())
        except OSError:
            os.close(pidfd)
            return None
        if meta.slot is not None:
            self._slots.reserve(meta.slot)
        sandbox = self._take_up(run_dir, meta, channel, pidfd)
        if is_half_refilled(run_dir.path):
            await sandbox.destroy("it was not wholly restored")
            raise WrongStateError("a gateway died while it restored the sandbox")
        if meta.keeps_memory:
            await self._off_loop(let_go_on, run_dir.site(meta))
        # An agent that is frozen does not answer; whoever wants it paused pauses it again.
        await sandbox.resume()
        try:
            await channel.hello()
        except SandboxBrokenError:
            await sandbox.destroy("its agent does not answer")
            return None
        return sandbox

    def has_layer(self, layer: Layer) -> bool:
        return self._layers.has(layer)

    def is_stood_on(self, layer: Layer) -> bool:
        return self._layers.is_stood_on(layer)

    async def make_layer(self, fill: Callable[[Path], None], *, size_bytes: int) -> Layer:
        return await self._layers.make(fill, size_bytes=size_bytes)

    async def drop_layer(self, layer: Layer) -> None:
        await self._layers.drop(layer)

    async def reclaim(self, *, keep: AbstractSet[SandboxId]) -> ReclaimReport:
        kept = keep | self._sandboxes.keys()
        run_dir = self._settings.run_dir
        report = await self._off_loop(
            partial(
                reclaim,
                run_dir,
                self._cgroups,
                self._freezer,
                keep=kept,
                spare_prefix=self._launcher.spare_prefix,
            )
        )
        await self._egress.reclaim()
        return report

    async def aclose(self, *, leave_running: AbstractSet[SandboxId] = frozenset()) -> None:
        async with Cleanup() as cleanup:
            cleanup.push(self._stop_threads)
            stay = bool(leave_running & self._sandboxes.keys())
            cleanup.push(partial(self._egress.aclose, sandboxes_stay=stay))
            cleanup.push(self._launcher.aclose)
            cleanup.push(partial(self._empty, leave_running))

    async def _empty(self, leave_running: AbstractSet[SandboxId]) -> None:
        sandboxes = list(self._sandboxes.values())
        for sandbox in sandboxes:
            if sandbox.id in leave_running:
                sandbox.let_go()
        ending = [s.destroy("the runtime stops") for s in sandboxes if s.id not in leave_running]
        outcomes = await asyncio.gather(*ending, return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failures:
            raise ExceptionGroup("sandboxes could not be destroyed", failures)

    async def _stop_threads(self) -> None:
        self._sandboxes.clear()
        self._layers.close()
        self._ingredients = None
        for name in self._cgroups.names():
            if name.startswith(SPARE_PREFIX):  # of a launcher that was killed
                self._cgroups.remove(self._cgroups.leaf(name))
        self._cgroups.close()
        self._freezer.close()
        await asyncio.to_thread(self._threads.shutdown)

    async def _off_loop(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in a thread; a cancelled caller still waits until it is over.

        Else an undo could run beside the very work it is to undo.
        """
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._threads, partial(work, *args, **kwargs))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait({done})
            done.exception()
            raise


def _kernel() -> tuple[int, int]:
    major, minor = re.findall(r"\d+", platform.release())[:2]
    return int(major), int(minor)


def _limit_refused(refused: OSError) -> FaasError:
    if refused.errno == errno.EBUSY:
        return WrongStateError("more memory is held than the new limit")
    return RuntimeUnavailableError("a limit could not be set", hint="run `faas doctor`")


def _close_all(sockets: list[socket.socket]) -> None:
    for end in sockets:
        end.close()


def open_runtime(context: RuntimeContext) -> EmbeddedRuntime:
    """Open the runtime; the entry point `faas.runtimes: embedded`."""
    options = context.options
    return EmbeddedRuntime(
        EmbeddedSettings(
            run_dir=context.run_dir,
            data_dir=context.data_dir,
            tag=context.instance_tag,
            binary=Path(options["binary"]) if "binary" in options else packaged_binary(),
            cgroup_policy=options.get("cgroups", "auto"),
            egress_dns=tuple(filter(None, options.get("egress_dns", "").split(","))),
            criu_prefix=Path(options["criu_prefix"]) if options.get("criu_prefix") else None,
        )
    )
