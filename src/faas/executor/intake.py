"""The way in: checks a request, finds an earlier one with its key, gives it a place or says no.

Everything here happens in one tick, without waiting: between looking for an idempotency key and
taking it, nobody else runs, so fifty requests with one key are one execution.
"""

from dataclasses import replace

from faas.clock import Clock, Deadline
from faas.errors import (
    FaasError,
    IdempotencyConflictError,
    ImageNotFoundError,
    UnavailableError,
    UnsupportedError,
)
from faas.events import EventBus, ExecutionQueued, ExecutionRejected
from faas.executor.active import NO_ROOT, Active
from faas.executor.admission import Admission, Ticket
from faas.executor.idempotency import IdempotencyKey
from faas.executor.images import ImageAsk, ImageResolver, ImageWatch, at_hand
from faas.executor.instances import Instances
from faas.executor.layers import starts_on_layers
from faas.executor.ledger import Ledger
from faas.executor.modes import check_mode
from faas.executor.places import Places
from faas.executor.records import Beginning, Stored
from faas.executor.run import template_of
from faas.executor.settings import ExecutorSettings
from faas.executor.spool import output_files
from faas.executor.warm_pool import WarmPool
from faas.ids import ExecutionId, TenantId, new_execution_id
from faas.images import ImageOrder
from faas.model import ExecutionSpec, ExecutionState, Mode
from faas.sandbox.choice import Choice, IsWarm
from faas.sandbox.protocols import RootFilesystem
from faas.sandbox.registry import Registry
from faas.tenancy import Principal

NO_CACHES = "this gateway keeps no dependency caches: FAAS_DEPENDENCY_CACHE_MB is 0"


class Intake:
    """Holds the executions under way, by id and by idempotency key."""

    def __init__(
        self,
        settings: ExecutorSettings,
        *,
        ledger: Ledger,
        registry: Registry,
        images: ImageResolver,
        admission: Admission,
        pool: WarmPool,
        instances: Instances,
        places: Places,
        events: EventBus,
        clock: Clock,
    ) -> None:
        self._keeps_caches = settings.dependency_caches.tenant_bytes_max > 0
        self._live_dir = str(settings.live_dir)
        self._ledger = ledger
        self._registry = registry
        self._images = images
        self._admission = admission
        self._pool = pool
        self._instances = instances
        self._places = places
        self._events = events
        self._clock = clock
        self.actives: dict[ExecutionId, Active] = {}
        self._by_key: dict[tuple[TenantId, str], Active] = {}
        self.is_closed = False
        self.rejected = 0

    def admit(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        *,
        idempotency: IdempotencyKey | None,
        deadline: Deadline | None,
        is_detached: bool,
        ask: ImageAsk | None = None,
    ) -> tuple[Active | Stored, bool]:
        """Return the execution of a request, and whether it is a new one that must be driven.

        Raises:
            FaasError: it is refused; nothing was written.
        """
        try:
            if idempotency is not None:
                found = self.find_key(principal.tenant.id, idempotency)
                if found is not None:
                    return found, False
            if self.is_closed:
                raise UnavailableError("the gateway is shutting down", retry_after_seconds=1.0)
            check_mode(spec)
            if spec.caches and not self._keeps_caches:
                raise UnsupportedError(NO_CACHES, hint="leave out `caches`")
            if spec.mode is Mode.PERSISTENT:
                spec = self._settled(spec, principal)
            root, order = self._image(spec, principal.tenant.id, ask or ImageAsk())
            is_warm = None if root is None else self._is_warm(spec, root)
            choice = self._registry.choose(spec, root, is_warm=is_warm)
            ticket = self._admission.enter(principal.tenant)
        except FaasError as failure:
            self.rejected += 1
            self._events.publish(ExecutionRejected(tenant=principal.tenant.id, code=failure.code))
            raise
        active = self._new_active(
            spec,
            principal,
            ticket=ticket,
            choice=choice,
            root=root,
            order=order,
            idempotency=idempotency,
            is_detached=is_detached or idempotency is not None,
        )
        if deadline is not None:
            active.deadline = deadline
        self.remember(active)
        self._events.publish(
            ExecutionQueued(execution_id=active.entry.id, tenant=active.entry.tenant)
        )
        return active, True

    def _is_warm(self, spec: ExecutionSpec, root: RootFilesystem) -> IsWarm:
        return lambda choice: self._pool.has_ready(template_of(choice, root, spec))

    def _image(
        self, spec: ExecutionSpec, tenant: TenantId, ask: ImageAsk
    ) -> tuple[RootFilesystem | None, ImageOrder | None]:
        """Return the image of a request, or the order by which it is found or fetched first."""
        try:
            return at_hand(self._images, spec, tenant, ask)
        except ImageNotFoundError:
            # Whoever asked for a runtime that is not here is told that first.
            self._registry.choose(spec)
            raise

    def _settled(self, spec: ExecutionSpec, principal: Principal) -> ExecutionSpec:
        """Fill in where a command of mode `persistent` runs."""
        reference = spec.instance_id or ""
        if not reference.startswith("exec-"):
            return self._instances.settle(spec, principal)
        return replace(
            spec, image=self._places.beside(reference, principal.tenant.id).entry.spec.image
        )

    def find_key(self, tenant: TenantId, idempotency: IdempotencyKey) -> Active | Stored | None:
        """Return the execution that has this key.

        Raises:
            IdempotencyConflictError: it is another request's.
        """
        active = self._by_key.get((tenant, idempotency.key))
        if active is not None:
            _check_digest(active.entry.request_digest, idempotency)
            return active
        found = self._ledger.find_key(tenant, idempotency.key)
        if found is None:
            return None
        execution_id, digest = found
        _check_digest(digest, idempotency)
        return self._ledger.get(execution_id, tenant)

    def remember(self, active: Active) -> None:
        """Hold an execution until it is over."""
        entry = active.entry
        self.actives[entry.id] = active
        if entry.idempotency_key is not None:
            self._by_key[entry.tenant, entry.idempotency_key] = active

    def forget(self, active: Active) -> None:
        """Let go of one that is over."""
        entry = active.entry
        self.actives.pop(entry.id, None)
        if entry.idempotency_key is not None:
            self._by_key.pop((entry.tenant, entry.idempotency_key), None)

    def _new_active(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        *,
        ticket: Ticket,
        choice: Choice,
        root: RootFilesystem | None,
        order: ImageOrder | None,
        idempotency: IdempotencyKey | None,
        is_detached: bool,
    ) -> Active:
        """Give it a place at once, in a ready sandbox or an instance that is awake: one commit
        less to wait for."""
        sandbox = None
        is_pooled = spec.mode not in (Mode.PERSISTENT, Mode.CACHED) and not spec.memory
        is_pooled = is_pooled and not starts_on_layers(choice.runtime, spec)
        if root is not None and ticket.is_granted and is_pooled:
            sandbox = self._pool.take(template_of(choice, root, spec), root, spec.image)
        sandbox_id = sandbox.id if sandbox else None
        if spec.mode is Mode.PERSISTENT and ticket.is_granted:
            sandbox_id = self._instances.awake(spec, principal.tenant)
        now = self._clock.now()
        has_place = sandbox_id is not None
        entry = Beginning(
            seq=self._ledger.next_seq(),
            id=new_execution_id(),
            tenant=principal.tenant.id,
            state=ExecutionState.RUNNING if has_place else ExecutionState.QUEUED,
            is_detached=is_detached,
            idempotency_key=idempotency.key if idempotency else None,
            request_digest=idempotency.request_digest if idempotency else None,
            runtime=choice.runtime.name,
            sandbox_id=sandbox_id,
            created_at=now,
            started_at=now if has_place else None,
            spec=spec,
        )
        return Active(
            entry=entry,
            tenant=principal.tenant,
            choice=choice,
            root=root or NO_ROOT,
            image=order,
            image_watch=None if order is None else ImageWatch(),
            output=output_files(self._live_dir, entry.id),
            ticket=ticket,
            submitted_ns=self._clock.monotonic_ns(),
            state=entry.state,
            started_at=entry.started_at,
            sandbox=sandbox,
            is_from_pool=sandbox is not None,
        )


def _check_digest(digest: str | None, idempotency: IdempotencyKey) -> None:
    if digest != idempotency.request_digest:
        raise IdempotencyConflictError
