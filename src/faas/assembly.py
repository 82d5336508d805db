"""The one place where the parts are joined.

`open_platform` holds the data directory, opens what is configured and starts the executor; leaving
it stops everything in reverse. Commands that still run then are left to the next start. The doors
(HTTP, later the chain) are given the `Platform` and build on it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faas.blobs import TieredBlobStore, open_refs, open_store
from faas.caches import CacheBounds
from faas.cleanup import Cleanup
from faas.clock import Clock, SystemClock
from faas.config import Settings, aws_variables
from faas.data_dir import DataDir
from faas.errors import InvalidConfigError
from faas.events import EventBus
from faas.executor.executor import PlatformExecutor
from faas.executor.recovery import RecoveryReport
from faas.executor.result_cache import CacheLimits
from faas.executor.settings import ExecutorSettings, Retention
from faas.images import (
    ClosedImages,
    ImageProvider,
    ImagePuller,
    ImageStore,
    PullRules,
    TreesInUse,
    UnpackLimits,
)
from faas.metrics import Metrics
from faas.model import Limits
from faas.sandbox.fake import FakeRuntime, NoopRuntime
from faas.sandbox.image_keeper import ImageShelf, KeepsImages
from faas.sandbox.protocols import Runtime
from faas.sandbox.registry import Registry, RuntimeContext, installed_runtimes
from faas.snapshots import SnapshotStore

_BUILT_IN: Mapping[str, Callable[[], Runtime]] = {"noop": NoopRuntime, "fake": FakeRuntime}
"""Runtimes that isolate nothing: for measuring and trying out, and only when asked for by name."""


@dataclass(frozen=True, slots=True)
class Platform:
    """Everything a door may hold."""

    settings: Settings
    data_dir: DataDir
    executor: PlatformExecutor
    registry: Registry
    images: ImageProvider
    events: EventBus
    metrics: Metrics
    recovered: RecoveryReport


@asynccontextmanager
async def open_platform(
    settings: Settings, *, clock: Clock | None = None
) -> AsyncGenerator[Platform]:
    """Open everything and start it; close it in reverse.

    Raises:
        ConflictError: another gateway holds the data directory.
        InvalidConfigError: a setting names what is not there.
    """
    clock = clock or SystemClock()
    async with Cleanup() as cleanup:
        data_dir = DataDir.hold(settings.data_dir)
        cleanup.push(data_dir.release)
        events, metrics = EventBus(), Metrics()
        metrics.listen(events)
        store = open_images(settings, data_dir.images_dir)
        store.reclaim()
        TreesInUse(store).listen(events)
        registry = open_registry(settings, data_dir, clock=clock, events=events)
        images = open_provider(settings, store, registry=registry, clock=clock, events=events)
        snapshots = open_snapshots(settings, data_dir.path / "snapshots", clock=clock)
        cleanup.push(snapshots.aclose)
        await snapshots.start()
        if isinstance(snapshots.blobs, TieredBlobStore) and not settings.object_store_ack:
            cleanup.push(_in_background(snapshots.blobs.catch_up()))
        executor = PlatformExecutor(
            _executor_settings(settings, data_dir),
            registry=registry,
            images=images,
            snapshots=snapshots,
            events=events,
            clock=clock,
        )
        cleanup.push(executor.aclose)
        recovered = await executor.start()
        yield Platform(settings, data_dir, executor, registry, images, events, metrics, recovered)


def _in_background(work: Coroutine[object, object, None]) -> Callable[[], Awaitable[None]]:
    """Start it; return what ends it. A store that cannot be reached now is for the next start."""
    task = asyncio.ensure_future(work)

    async def end() -> None:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()

    return end


def open_images(settings: Settings, directory: Path) -> ImageStore:
    """Open the image store in `directory`."""
    limits = UnpackLimits(bytes_max=settings.image_bytes_max)
    return ImageStore(directory, settings.image_aliases, limits=limits)


def open_provider(
    settings: Settings, store: ImageStore, *, registry: Registry, clock: Clock, events: EventBus
) -> ImageProvider:
    """Join the store with the images that runtimes keep."""
    return ImageProvider(
        store,
        puller=ImagePuller(store, timeout_seconds=settings.pull_seconds_max),
        shelves=partial(_shelves, registry),
        closed=ClosedImages(store.directory / "closed.json"),
        events=events,
        rules=PullRules(settings.pull_registries, settings.pull_seconds_max),
        clock=clock,
    )


@asynccontextmanager
async def open_engine_images(settings: Settings) -> AsyncGenerator[ImageShelf]:
    """Open the images of the Docker Engine, without a gateway.

    Raises:
        RuntimeUnavailableError: there is no Engine, or it does not answer.
    """
    from faas.docker.connecting import engine_shelf  # noqa: PLC0415  only for those who ask for it

    place = settings.data_dir.expanduser().absolute()
    context = RuntimeContext(place, place, "cli", _runtime_options(settings))
    async with engine_shelf(context) as shelf:
        yield shelf


def _shelves(registry: Registry) -> dict[str, ImageShelf]:
    """The images of each runtime that keeps any and works now."""
    found: dict[str, ImageShelf] = {}
    for runtime in registry.available():
        if isinstance(runtime, KeepsImages) and (shelf := runtime.shelf) is not None:
            found[runtime.name] = shelf
    return found


def open_snapshots(
    settings: Settings, directory: Path, *, clock: Clock, aws: Mapping[str, str] | None = None
) -> SnapshotStore:
    """Open the store of snapshots: the local folder, and the object store behind it if one is set.

    Raises:
        InvalidConfigError: `object_store_url` names no store we know.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    url = settings.object_store_url or None
    aws = aws_variables() if aws is None else aws
    blobs = open_store(directory / "blobs", url=url, aws=aws, ack_far=settings.object_store_ack)
    refs = open_refs(directory / "refs", url=url, aws=aws)
    return SnapshotStore(blobs=blobs, refs=refs, clock=clock, index=directory / "chunks.sqlite")


def open_registry(
    settings: Settings, data_dir: DataDir, *, clock: Clock, events: EventBus
) -> Registry:
    """Open the configured runtimes; none is started yet.

    Raises:
        InvalidConfigError: one is named that is not installed.
    """
    context = RuntimeContext(
        data_dir=data_dir.path,
        run_dir=data_dir.run_dir,
        instance_tag=data_dir.tag,
        options=_runtime_options(settings),
    )
    opened = {name: _BUILT_IN[name]() for name in settings.runtimes if name in _BUILT_IN}
    names = [name for name in settings.runtimes if name not in _BUILT_IN]
    if names or not settings.runtimes:
        installed = installed_runtimes()
        if unknown := [name for name in names if name not in installed]:
            raise InvalidConfigError(
                f"the runtime {unknown[0]!r} is not installed",
                hint="faas config",
                details={"problems": [f"there are: {', '.join(sorted(installed)) or 'none'}"]},
            )
        opened |= {name: installed[name](context) for name in names or installed}
    return Registry(opened, clock=clock, events=events)


def _runtime_options(settings: Settings) -> dict[str, str]:
    return {
        "running_max": str(settings.running_max),
        "pool_max": str(settings.pool_max),
        "docker_host": settings.docker_address,
        "docker_oci_runtime": settings.docker_oci_runtime,
        "docker_tls": "1" if settings.docker_is_tls else "",
        "docker_certificates": str(settings.docker_certificates),
        "docker_config": str(settings.docker_config),
        "docker_agent": settings.docker_agent,
        "egress_dns": ",".join(settings.egress_dns),
        "criu_prefix": str(Path(settings.criu_prefix or settings.data_dir / "criu").absolute()),
    }


def default_limits(settings: Settings) -> Limits:
    """The limits of a request that names none."""
    return Limits(
        timeout_ms=settings.timeout_ms_default,
        memory_bytes=settings.memory_mb_default << 20,
        cpu_millis=round(settings.cpu_cores_default * 1000),
        pids_max=settings.pids_default,
        disk_bytes=settings.disk_mb_default << 20,
        output_bytes_max=settings.output_bytes_default,
    )


def limit_ceilings(settings: Settings) -> Limits:
    """The most a request may ask for."""
    return Limits(
        timeout_ms=settings.timeout_ms_max,
        memory_bytes=settings.memory_mb_max << 20,
        cpu_millis=round(settings.cpu_cores_max * 1000),
        pids_max=settings.pids_max,
        disk_bytes=settings.disk_mb_max << 20,
        output_bytes_max=settings.output_bytes_max,
    )


def _executor_settings(settings: Settings, data_dir: DataDir) -> ExecutorSettings:
    return ExecutorSettings(
        data_dir=data_dir.path,
        ports_url=settings.exposed_url,
        running_max=settings.running_max,
        queued_max=settings.queued_max,
        default_image=settings.default_image,
        pool_size=0 if settings.disable_prewarm else settings.pool_size,
        pool_max=0 if settings.disable_prewarm else settings.pool_max,
        pool_memory_bytes=settings.pool_memory_mb << 20,
        pool_reserve_share=settings.pool_reserve_percent / 100,
        pool_limits=default_limits(settings),
        ledger_synchronous="full" if settings.ledger_sync == "full" else "normal",
        cache=CacheLimits(
            bytes_max=settings.cache_bytes_max, ttl_seconds=float(settings.cache_seconds_max)
        ),
        dependency_caches=CacheBounds(
            tenant_bytes_max=settings.dependency_cache_mb << 20,
            bytes_max=settings.dependency_cache_total_mb << 20,
        ),
        cache_verify_share=settings.cache_verify_share,
        parked_max=settings.parked_max,
        layers_bytes_max=settings.layers_bytes_max,
        parked_seconds=settings.parked_seconds,
        forked_seconds_max=settings.forked_seconds_max,
        unnamed_seconds_max=settings.unnamed_seconds_max,
        memory_key=settings.memory_key.encode(),
        # Another gateway may be writing to the same bucket: its garbage is collected by hand.
        collects_garbage=not settings.object_store_url,
        retention=Retention(
            count_max=settings.retention_count_max,
            age_seconds_max=settings.retention_seconds_max,
            bytes_max=settings.retention_bytes_max,
        ),
    )
