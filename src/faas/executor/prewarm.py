"""Pre-warming: a tenant asks that so many sandboxes of a template be ready, and is told when.

A pre-warming holds for `keep_seconds` after it was asked for: what is taken is made again. Asking
once more replaces it, with count 0 it ends. It is written down before anything is made and outlives
the gateway; the pools' own rule (`warm_pool`) decides about everything beyond it. When what was
asked for cannot be made, the pre-warming is dropped and the caller told why.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from faas.clock import Clock, Deadline
from faas.errors import (
    FaasError,
    InvalidArgumentError,
    QuotaExceededError,
    ResourceExhaustedError,
    UnavailableError,
    UnsupportedError,
)
from faas.executor.images import ImageAsk, ImageResolver, at_hand
from faas.executor.pool_records import (
    RECENT_MAX,
    PoolRecords,
    Recent,
    Reservation,
    load,
    save,
)
from faas.executor.pool_shelf import Template
from faas.executor.run import template_of
from faas.executor.warm_pool import PoolStats, WarmPool
from faas.ids import TenantId
from faas.images import ImageProvider
from faas.model import ExecutionSpec
from faas.sandbox.protocols import RootFilesystem
from faas.sandbox.registry import Registry
from faas.tenancy import Principal, Tenant

SAVE_SECONDS = 30.0
"""Between looks at what was used lately; a loss of it costs one cold start a template."""


@dataclass(frozen=True, slots=True)
class Prewarmed:
    """How a pre-warming stands."""

    template: Template
    image: str
    runtime_reason: str
    requested: int
    stats: PoolStats
    """Of the template, with what others want of it."""
    is_ready: bool
    """Whether all that is kept of the template was ready at once."""
    expires_at: datetime


_Key = tuple[TenantId, Template]


class Prewarming:
    """Holds the pre-warmings of all tenants and tells the pool their sum."""

    def __init__(
        self, path: Path, *, pool: WarmPool, registry: Registry, images: ImageResolver, clock: Clock
    ) -> None:
        self._path = path
        self._pool = pool
        self._registry = registry
        self._images = images
        self._clock = clock
        self._held: dict[_Key, Reservation] = {}
        self._writing = asyncio.Lock()
        self._saved = PoolRecords()
        self._saved_ns = clock.monotonic_ns()
        self._is_frozen = False

    def restore(self) -> None:
        """Take up what was pre-warmed and used before a restart; what cannot be is let go."""
        self._saved = records = load(self._path)
        now = self._clock.now()
        for one in records.reservations:
            if one.expires_at > now and (found := self._found(one.image, one.template)):
                template, root = found
                if not self._pool.has_room(template, one.count):
                    continue
                self._held[one.tenant, template] = replace(one, template=template)
                self._apply(template, root, one.image)
        for one in reversed(records.recent[:RECENT_MAX]):
            if found := self._found(one.image, one.template):
                self._pool.expect(*found, one.image)

    async def prewarm(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        *,
        count: int,
        keep_seconds: float,
        deadline: Deadline,
    ) -> Prewarmed:
        """Keep that many ready from now on, and return when they are, or when time is up.

        Raises:
            ResourceExhaustedError: there is no room for so many.
            FaasError: they cannot be made; nothing is kept.
        """
        root = await self._image(spec, principal.tenant.id, deadline)
        choice = self._registry.choose(spec, root)
        template = template_of(choice, root, spec)
        expires_at = self._clock.now() + timedelta(seconds=keep_seconds)
        key = (principal.tenant.id, template)
        wanted = Reservation(principal.tenant.id, spec.image, template, count, expires_at)
        async with self._writing:
            self._check_room(template, principal.tenant, count)
            await self._hold(key, wanted if count else None)
            # Before the next one looks for room: it counts what the pool was told to keep.
            self._apply(template, root, spec.image)
        is_ready = True
        if count:
            try:
                is_ready = await self._until_ready(template, deadline)
            except FaasError:
                await self._let_go(key, wanted)
                raise
        return Prewarmed(
            template=template,
            image=spec.image,
            runtime_reason=choice.reason,
            requested=count,
            stats=self._pool.templates().get(template, PoolStats()),
            is_ready=is_ready,
            expires_at=expires_at,
        )

    def tick(self) -> None:
        """End what has expired; now and then write down what was used lately."""
        now = self._clock.now()
        for key in [key for key, one in self._held.items() if one.expires_at <= now]:
            one = self._held.pop(key)
            self._pool.unreserve(one.template, self._sum(one.template))
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._saved_ns >= int(SAVE_SECONDS * 1e9):
            self._saved_ns = now_ns
            self._save_quietly()

    def freeze(self) -> None:
        """Write nothing any more; for tests of a crash."""
        self._is_frozen = True

    def close(self) -> None:
        """Write down what was used lately, for the next start."""
        self._save_quietly()

    async def _image(
        self, spec: ExecutionSpec, tenant: TenantId, deadline: Deadline
    ) -> RootFilesystem:
        """Find the image, or fetch it within the caller's time."""
        remaining = deadline.remaining_seconds(self._clock)
        ask = ImageAsk() if remaining is None else ImageAsk(seconds_max=max(1.0, remaining))
        root, order = at_hand(self._images, spec, tenant, ask)
        if root is None:
            assert isinstance(self._images, ImageProvider)  # noqa: S101  orders come from it
            assert order is not None  # noqa: S101  the one or the other
            root = await self._images.provide(order)
        return root

    def _found(self, image: str, template: Template) -> tuple[Template, RootFilesystem] | None:
        """Find the image again; its name may mean another one by now."""
        try:
            root = self._images.resolve(image)
        except FaasError:
            return None
        if self._registry.get(template.runtime) is None:
            return None
        return template._replace(image_digest=root.digest), root

    def _check_room(self, template: Template, tenant: Tenant, count: int) -> None:
        size_max = self._pool.size_max
        if not size_max:
            raise UnsupportedError(
                "this gateway keeps no sandbox ready",
                hint="its operator can set FAAS_POOL_MAX and unset FAAS_DISABLE_PREWARM",
            )
        if count > size_max:
            raise InvalidArgumentError(
                f"{count} is above this gateway's ceiling of {size_max} ready sandboxes"
            )
        own = self._held.get((tenant.id, template))
        more = count - (own.count if own else 0)
        if more <= 0:
            return
        of_tenant = sum(one.count for one in self._held.values() if one.tenant == tenant.id)
        if of_tenant + more > tenant.quota.running_max:
            raise QuotaExceededError(
                f"{of_tenant} are pre-warmed already, and no more than"
                f" {tenant.quota.running_max} may run at once"
            )
        if not self._pool.has_room(template, more):
            raise ResourceExhaustedError(
                "the pools have no room for so many",
                hint="GET /api/v1/pools says what is kept, and why",
                details=self._pool.room(),
                retry_after_seconds=60.0,
            )

    async def _hold(self, key: _Key, wanted: Reservation | None) -> None:
        """Write it down, then believe it."""
        after = {other: one for other, one in self._held.items() if other != key}
        if wanted is not None:
            after[key] = wanted
        records = self._records(after.values())
        if not self._is_frozen:
            await self._write(records)
        self._held = after

    async def _write(self, records: PoolRecords) -> None:
        """Put it on disk; one who is cancelled waits, or the next could be overtaken."""
        writing = asyncio.ensure_future(
            asyncio.to_thread(save, self._path, records, is_durable=True)
        )
        try:
            await asyncio.shield(writing)
        except OSError as failure:
            raise UnavailableError(
                "the pools' file cannot be written", hint="faas doctor"
            ) from failure
        finally:
            await asyncio.wait({writing})
            if not writing.exception():
                self._saved = records

    async def _let_go(self, key: _Key, failed: Reservation) -> None:
        """Drop a pre-warming that cannot be, unless it was replaced meanwhile."""
        async with self._writing:
            if self._held.get(key) is failed:
                await self._hold(key, None)
                self._pool.unreserve(failed.template, self._sum(failed.template))

    def _apply(self, template: Template, root: RootFilesystem, image: str) -> None:
        self._pool.reserve(template, root, self._sum(template), image)

    def _sum(self, template: Template) -> int:
        return sum(one.count for (_, held), one in self._held.items() if held == template)

    async def _until_ready(self, template: Template, deadline: Deadline) -> bool:
        ready = asyncio.ensure_future(self._pool.until_ready(template))
        waits: set[asyncio.Future[None]] = {ready}
        remaining = deadline.remaining_seconds(self._clock)
        if remaining is not None:
            waits.add(asyncio.ensure_future(self._clock.sleep(remaining)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                return False
            await ready
            return True
        finally:
            for one in waits:
                one.cancel()

    def _records(self, held: Iterable[Reservation]) -> PoolRecords:
        recent = [Recent(image, template) for template, image in self._pool.recent()]
        return PoolRecords(tuple(held), tuple(recent[:RECENT_MAX]))

    def _save_quietly(self) -> None:
        """Small, and not forced to disk: quick enough to do in passing."""
        records = self._records(self._held.values())
        if records == self._saved or self._writing.locked() or self._is_frozen:
            return
        try:
            save(self._path, records, is_durable=False)
        except OSError:
            return  # The disk is full or gone: `faas doctor` says so, and nothing here is needed.
        self._saved = records
