"""The hot path: one command in one sandbox that nobody else ever used.

    take or make a sandbox → limits, files → start → wait → collect

Whatever happens, the sandbox is handed to `Disposal` exactly once, unless the gateway goes away
while the command runs: then it is left alone for the next gateway to adopt. Nothing here writes the
end into the ledger; the executor does, and only then is the sandbox destroyed.
"""

import posixpath
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from faas.clock import Clock
from faas.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
    WrongStateError,
)
from faas.events import EventBus, ExecutionStarted
from faas.executor import slices
from faas.executor.active import Active
from faas.executor.dependency_caches import DependencyCaches, environment
from faas.executor.disposal import Disposal
from faas.executor.instances import Instances
from faas.executor.layers import starts_on_layers
from faas.executor.ledger import Ledger
from faas.executor.moving import MovingProcess
from faas.executor.origins import Origins
from faas.executor.places import Places
from faas.executor.pool_shelf import Template
from faas.executor.records import Beginning
from faas.executor.result_cache import ResultCache
from faas.executor.settings import ExecutorSettings
from faas.executor.spool import read_both, read_whole
from faas.executor.warm_pool import WarmPool
from faas.ids import SandboxId, new_sandbox_id
from faas.images import ImageProvider
from faas.lifecycle import SandboxState
from faas.model import (
    CacheReport,
    ExecutionResult,
    ExecutionSpec,
    ExecutionState,
    ExitReason,
    Limits,
    Mode,
    Timings,
    Usage,
)
from faas.sandbox.capabilities import Resumption
from faas.sandbox.choice import Choice
from faas.sandbox.guarded import GuardedSandbox, create_guarded
from faas.sandbox.isolation import reaches
from faas.sandbox.layers import LayerStack
from faas.sandbox.protocols import (
    Command,
    Exit,
    Process,
    RootFilesystem,
    Runtime,
    SandboxSpec,
)
from faas.sandbox.registry import Registry
from faas.tenancy import Principal

MAIN = "main"
"""The name of an execution's command in its sandbox; a later gateway attaches by it."""

OVERDUE_NS = 10_000_000_000
"""How long past its own time limit a command may go on before its agent counts as broken."""

CANCEL_SECONDS_MAX = 5.0
"""Killing a tree is instant; when no end is heard by then the sandbox is taken away whole."""

PASSWD_BYTES_MAX = 256 << 10


class Borrowed(GuardedSandbox):
    """An instance's sandbox in the hands of one execution: what breaks for it is broken for it
    only, and at its end the sandbox stays."""

    __slots__ = ()

    def __init__(self, lender: GuardedSandbox, *, events: EventBus) -> None:
        super().__init__(lender, events=events)

    async def destroy(self, reason: str) -> None:
        """Give it back."""
        self.state = SandboxState.DEAD


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a run needs."""

    settings: ExecutorSettings
    ledger: Ledger
    pool: WarmPool
    disposal: Disposal
    events: EventBus
    clock: Clock
    instances: Instances
    places: Places
    images: ImageProvider | None = None
    """None: images are known beforehand, and none is ever fetched."""
    registry: Registry | None = None
    results: ResultCache | None = None
    origins: Origins | None = None
    caches: DependencyCaches | None = None


def process_name(entry: Beginning) -> str:
    """Name an execution's command in its sandbox: several of them share an instance."""
    return entry.id if entry.spec.mode is Mode.PERSISTENT else MAIN


def template_of(choice: Choice, root: RootFilesystem, spec: ExecutionSpec) -> Template:
    """Say which shelf of the warm pool serves an execution."""
    disk_bytes = spec.limits.disk_bytes
    name = choice.runtime.name
    return Template(name, root.digest, spec.network, disk_bytes, choice.isolation_min)


async def run_once(active: Active, shop: Workshop) -> ExecutionResult:
    """Run an execution in a fresh sandbox and return its result.

    Raises:
        FaasError: we failed.
    """
    granted_ns = shop.clock.monotonic_ns()
    if active.sandbox is not None and active.is_from_pool and not active.sandbox.is_alive:
        _put_down(active, active.sandbox, shop)
    sandbox = active.sandbox or await _find_sandbox(active, shop)
    return await run_in(active, shop, sandbox, granted_ns=granted_ns)


def _put_down(active: Active, dead: GuardedSandbox, shop: Workshop) -> None:
    """A ready sandbox died before anything ran in it: another one is made instead."""
    shop.disposal.take(dead, "found dead")
    active.sandbox, active.is_from_pool = None, False
    active.state, active.started_at = ExecutionState.QUEUED, None


async def run_in(
    active: Active,
    shop: Workshop,
    sandbox: GuardedSandbox,
    *,
    granted_ns: int,
    begun: Callable[[], Awaitable[None]] | None = None,
) -> ExecutionResult:
    """Run an execution in this sandbox, whoever made it; with `begun`, which is awaited when it has
    begun, it may go on in another one.

    Raises:
        UnsupportedError: the sandbox isolates less than the execution demands.
    """
    clock = shop.clock
    _check_isolation(active, sandbox)
    command = await _prepare(active, shop, sandbox)
    ready_ns = clock.monotonic_ns()
    active.was_started = True
    process = await _begin(active, shop, sandbox, command)
    if begun is not None:
        process = MovingProcess(process.name, process)
    active.process = process
    if begun is not None:
        await begun()
    if command.is_exclusive:
        active.overdue_ns = overdue_ns(active, clock)
    active.wake()
    entry = active.entry
    shop.events.publish(
        ExecutionStarted(
            execution_id=entry.id,
            tenant=entry.tenant,
            runtime=sandbox.runtime,
            sandbox_id=sandbox.id,
            from_pool=active.is_from_pool,
        )
    )
    end = await slices.end_of(active, shop.origins, process)
    ended_ns = clock.monotonic_ns()
    sandbox = active.sandbox or sandbox
    if active.slicing is not None:
        return slices.result(active, sandbox, active.slicing, ended_ns - ready_ns)
    stdout, stderr = read_both(active.output, end, active.entry.spec.limits.output_bytes_max)
    reports = await _keep_caches(active, shop, sandbox, end)
    timings = Timings(
        queue_us=(granted_ns - active.submitted_ns) // 1000,
        sandbox_us=(ready_ns - granted_ns) // 1000,
        exec_us=(ended_ns - ready_ns) // 1000,
        collect_us=(clock.monotonic_ns() - ended_ns) // 1000,
    )
    result = _result(active, sandbox, end, timings, stdout=stdout, stderr=stderr)
    return replace(result, caches=reports) if reports else result


async def _keep_caches(
    active: Active, shop: Workshop, sandbox: GuardedSandbox, end: Exit
) -> tuple[CacheReport, ...]:
    spec, caches = active.entry.spec, shop.caches
    if not spec.caches or caches is None:
        return ()
    active.overdue_ns = None  # It has ended; this time is not its own.
    return await caches.keep(sandbox, spec, active.tenant.id, end)


def _check_isolation(active: Active, sandbox: GuardedSandbox) -> None:
    """Never lower what was demanded, also not for an instance that was made before."""
    demanded = active.entry.spec.isolation_min
    if not reaches(sandbox.isolation, demanded):
        raise UnsupportedError(
            f"its sandbox isolates by {sandbox.isolation}, less than {demanded}",
            hint="make the instance with that isolation",
            details={"supported": {sandbox.runtime: [sandbox.isolation]}},
        )


async def _begin(
    active: Active, shop: Workshop, sandbox: GuardedSandbox, command: Command
) -> Process:
    spec = active.entry.spec
    if not spec.is_resumption:
        return await sandbox.start(process_name(active.entry), command, active.output)
    assert shop.origins is not None  # noqa: S101  its parent was found there
    assert spec.snapshot_id is not None  # noqa: S101
    resumption = Resumption(
        MAIN,
        active.output,
        is_continued=False,
        timeout_ms=spec.limits.timeout_ms,
        output_bytes_max=spec.limits.output_bytes_max,
    )
    return await shop.origins.go_on(spec.snapshot_id, sandbox, resumption)


async def run_persistent(active: Active, shop: Workshop) -> ExecutionResult:
    """Run an execution in its instance, which is made first when nobody has yet, or beside another
    execution that has not ended.

    Raises:
        FaasError: we failed, or the instance is not running.
    """
    granted_ns = shop.clock.monotonic_ns()
    principal = Principal(active.tenant, frozenset())
    reference = active.entry.spec.instance_id or ""
    if reference.startswith("exec-"):
        lender = shop.places.beside(reference, active.tenant.id).sandbox
        if lender is None:
            raise WrongStateError("the execution has not begun yet", details={"at": reference})
        active.sandbox = Borrowed(lender, events=shop.events)
        return await run_in(active, shop, active.sandbox, granted_ns=granted_ns)
    await shop.instances.arrive(active.entry.spec, principal)
    async with AsyncExitStack() as using:
        _, sandbox = await using.enter_async_context(shop.instances.use(reference, principal))
        active.sandbox = Borrowed(sandbox, events=shop.events)
        # From then on it is known to run there, and may go to disk with the instance.
        return await run_in(active, shop, active.sandbox, granted_ns=granted_ns, begun=using.aclose)


async def resume(active: Active, shop: Workshop) -> ExecutionResult:
    """Go on waiting for a command that a former gateway started."""
    process = active.process
    assert process is not None  # noqa: S101  recovery resumes only what it adopted
    end = await slices.end_of(active, shop.origins, process)
    sandbox = active.sandbox
    assert sandbox is not None  # noqa: S101  it has come to its end somewhere
    if active.slicing is not None:
        return slices.result(active, sandbox, active.slicing, end.wall_us * 1000)
    stdout, stderr = read_both(active.output, end, active.entry.spec.limits.output_bytes_max)
    reports = await _keep_caches(active, shop, sandbox, end)
    timings = Timings(exec_us=end.wall_us)
    result = _result(active, sandbox, end, timings, stdout=stdout, stderr=stderr)
    return replace(result, caches=reports) if reports else result


def overdue_ns(active: Active, clock: Clock) -> int | None:
    """Say when its agent counts as broken because the time limit passed without an end."""
    timeout_ms = active.entry.spec.limits.timeout_ms
    if not timeout_ms:
        return None
    return clock.monotonic_ns() + timeout_ms * 1_000_000 + OVERDUE_NS


def cancelled_result(active: Active) -> ExecutionResult:
    """Make the result of an execution that was cancelled before an end of its command was heard."""
    limits = active.entry.spec.limits
    stdout = read_whole(active.output.stdout, limits.output_bytes_max)
    stderr = read_whole(active.output.stderr, limits.output_bytes_max)
    sandbox = active.sandbox
    return ExecutionResult(
        execution_id=active.entry.id,
        exit_code=137,
        signal=9,
        reason=ExitReason.CANCELLED,
        stdout=stdout,
        stderr=stderr,
        stdout_total_bytes=len(stdout),
        stderr_total_bytes=len(stderr),
        duration_ms=1,
        usage=Usage(),
        timings=Timings(),
        runtime_used=active.entry.runtime or "",
        runtime_reason=active.runtime_reason,
        isolation="" if sandbox is None else sandbox.isolation,
        image_digest=active.root.digest,
        sandbox_id=SandboxId("") if sandbox is None else sandbox.id,
    )


async def make_sandbox(
    runtime: Runtime,
    root: RootFilesystem,
    limits: Limits,
    template: Template,
    shop: Workshop,
    *,
    layers: LayerStack | None = None,
    keeps_memory: bool = False,
    is_refilled: bool = False,
) -> GuardedSandbox:
    """Make a sandbox for a template or for one execution, perhaps on layers."""
    return await create_guarded(
        runtime,
        SandboxSpec(
            id=new_sandbox_id(),
            root=root,
            limits=limits,
            network=template.network,
            isolation_min=template.isolation_min,
            layers=layers,
            keeps_memory=keeps_memory,
            is_refilled=is_refilled,
        ),
        clock=shop.clock,
        events=shop.events,
        seconds_max=shop.settings.create_seconds_max,
    )


async def _find_sandbox(active: Active, shop: Workshop) -> GuardedSandbox:
    """Take one now if it had to wait for its turn, else make one: the pool was asked before."""
    choice, root, spec = active.choice, active.root, active.entry.spec
    assert choice is not None  # noqa: S101  only what recovery dooms or adopts has none
    template = template_of(choice, root, spec)
    if starts_on_layers(choice.runtime, spec):
        assert shop.origins is not None  # noqa: S101  its snapshot was found there
        async with shop.origins.ground_of(active) as layers:
            active.sandbox = await make_sandbox(
                choice.runtime,
                root,
                spec.limits,
                template,
                shop,
                layers=layers,
                keeps_memory=spec.memory,
                is_refilled=spec.is_resumption,
            )
        return active.sandbox
    is_first_look = active.ticket.turn is None and active.image is None
    if (not is_first_look or spec.mode is Mode.CACHED) and not spec.memory:
        active.sandbox = shop.pool.take(template, root, spec.image)
        active.is_from_pool = active.sandbox is not None
    if active.sandbox is None:
        active.sandbox = await make_sandbox(
            choice.runtime,
            root,
            spec.limits,
            template,
            shop,
            keeps_memory=spec.memory,
            is_refilled=spec.is_resumption,
        )
    return active.sandbox


async def _prepare(active: Active, shop: Workshop, sandbox: GuardedSandbox) -> Command:
    spec = active.entry.spec
    working_dir = spec.working_dir or active.root.working_dir or "/"
    if active.is_from_pool and _differ(spec.limits, shop.settings.pool_limits):
        await sandbox.apply_limits(spec.limits)
    if spec.snapshot_id is not None and spec.mode is not Mode.PERSISTENT:
        assert shop.origins is not None  # noqa: S101  it was found there
        await shop.origins.restore(spec.snapshot_id, sandbox, active.root)
    if spec.caches and shop.caches is not None:
        await shop.caches.put_in(sandbox, spec, active.tenant.id)
    if spec.archive is not None:
        await sandbox.make_dir(working_dir)
        await sandbox.put_archive(spec.archive, path=working_dir)
    if spec.files:
        placed = (replace(f, path=posixpath.join(working_dir, f.path)) for f in spec.files)
        await sandbox.put_files(tuple(placed))
    user = spec.user or active.root.user
    uid, gid = (0, 0) if user is None else await _resolve_user(user, sandbox)
    if active.state is ExecutionState.QUEUED or active.entry.sandbox_id != sandbox.id:
        await _place(active, shop, sandbox)
    if active.deadline.remaining_seconds(shop.clock) == 0.0:
        raise DeadlineExceededError("the time the caller allowed ended before the command began")
    return Command(
        argv=spec.argv,
        env=_environment(active.root, spec),
        working_dir=working_dir,
        uid=uid,
        gid=gid,
        stdin=spec.stdin,
        stdin_open=spec.stdin_open,
        tty=spec.tty,
        timeout_ms=spec.limits.timeout_ms,
        output_bytes_max=spec.limits.output_bytes_max,
        is_exclusive=spec.mode is not Mode.PERSISTENT,
    )


async def _place(active: Active, shop: Workshop, sandbox: GuardedSandbox) -> None:
    active.state = ExecutionState.RUNNING
    active.started_at = shop.clock.now()
    await shop.ledger.place(
        active.entry.seq,
        ExecutionState.RUNNING,
        runtime=sandbox.runtime,
        sandbox_id=sandbox.id,
        started_at=active.started_at,
    )


def _environment(root: RootFilesystem, spec: ExecutionSpec) -> tuple[tuple[str, str], ...]:
    """The image's, then what tells tools of their caches, then the request's own."""
    image = root.env
    if spec.caches:
        image = tuple((dict(image) | environment(spec.caches)).items())
    return _merge(image, spec.env)


def _merge(
    image: tuple[tuple[str, str], ...], own: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    """Join two environments, each name once: a program that looks finds the first of two."""
    return tuple((dict(image) | dict(own)).items()) if image else own


def _differ(limits: Limits, pooled: Limits) -> bool:
    return (
        limits.memory_bytes != pooled.memory_bytes
        or limits.cpu_millis != pooled.cpu_millis
        or limits.pids_max != pooled.pids_max
    )


async def _resolve_user(user: str, sandbox: GuardedSandbox) -> tuple[int, int]:
    name, _, group = user.partition(":")
    if name.isdecimal() and (not group or group.isdecimal()):
        return int(name), int(group or name)
    try:
        passwd = await sandbox.read_file("/etc/passwd", length=PASSWD_BYTES_MAX)
    except NotFoundError:
        passwd = b""
    for line in passwd.decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if fields[0] == name and [f.isdecimal() for f in fields[2:4]] == [True, True]:
            return int(fields[2]), int(group if group.isdecimal() else fields[3])
    raise InvalidArgumentError(
        f"the image has no user {name!r}", hint="give the user as `uid` or `uid:gid`"
    )


def _result(
    active: Active,
    sandbox: GuardedSandbox,
    end: Exit,
    timings: Timings,
    *,
    stdout: bytes,
    stderr: bytes,
) -> ExecutionResult:
    return ExecutionResult(
        execution_id=active.entry.id,
        exit_code=end.code,
        signal=end.signal,
        reason=end.reason,
        stdout=stdout,
        stderr=stderr,
        stdout_total_bytes=max(end.stdout_total_bytes, len(stdout)),
        stderr_total_bytes=max(end.stderr_total_bytes, len(stderr)),
        duration_ms=max(1, -(-end.wall_us // 1000)),
        usage=Usage(cpu_us=end.cpu_us, memory_peak_bytes=end.memory_peak_bytes),
        timings=timings,
        runtime_used=sandbox.runtime,
        runtime_reason=active.runtime_reason,
        isolation=sandbox.isolation,
        image_digest=sandbox.image_digest,
        sandbox_id=sandbox.id,
    )
