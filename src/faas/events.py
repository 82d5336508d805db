"""What happened, as values, and a bus that never blocks its publisher.

Events name facts in the past tense. A subscriber that is too slow loses the oldest events and is
told how many (`Subscription.dropped`); a listener is called at once and must not fail or wait.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from faas.ids import ExecutionId, InstanceId, SandboxId, TenantId
from faas.model import ExecutionRecord, PullStep


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class ExecutionQueued(Event):
    """An execution was admitted to the queue."""

    execution_id: ExecutionId
    tenant: TenantId


@dataclass(frozen=True, slots=True)
class ExecutionStarted(Event):
    """Its command started in a sandbox."""

    execution_id: ExecutionId
    tenant: TenantId
    runtime: str
    sandbox_id: SandboxId
    from_pool: bool


@dataclass(frozen=True, slots=True)
class ExecutionFinished(Event):
    """It ended, by itself or by our failure; the record is final."""

    record: ExecutionRecord


@dataclass(frozen=True, slots=True)
class ExecutionRejected(Event):
    """It was refused before it was queued."""

    tenant: TenantId
    code: str


@dataclass(frozen=True, slots=True)
class CachedResultDiffered(Event):
    """A sample of the cache's answers was run again and said something else."""

    execution_id: ExecutionId
    cached_execution_id: ExecutionId
    tenant: TenantId


@dataclass(frozen=True, slots=True)
class SandboxCreated(Event):
    """A sandbox became ready."""

    sandbox_id: SandboxId
    runtime: str
    image_digest: str
    duration_us: int


@dataclass(frozen=True, slots=True)
class SandboxAdopted(Event):
    """A sandbox that a former gateway made was taken back."""

    sandbox_id: SandboxId
    runtime: str
    image_digest: str


@dataclass(frozen=True, slots=True)
class SandboxCreateFailed(Event):
    """A sandbox could not be made."""

    runtime: str
    code: str


@dataclass(frozen=True, slots=True)
class SandboxDestroyed(Event):
    """A sandbox is gone."""

    sandbox_id: SandboxId
    runtime: str
    reason: str


@dataclass(frozen=True, slots=True)
class InstanceChanged(Event):
    """An instance is in another state; `destroyed` is the last."""

    instance_id: InstanceId
    tenant: TenantId
    state: str


@dataclass(frozen=True, slots=True)
class ImagePullStarted(Event):
    """An image is being fetched from its registry."""

    reference: str
    by: str


@dataclass(frozen=True, slots=True)
class ImagePullProgressed(Event):
    """More of an image is here. At most a few a second for each layer."""

    reference: str
    step: PullStep


@dataclass(frozen=True, slots=True)
class ImagePulled(Event):
    """An image is here, whole."""

    reference: str
    digest: str
    by: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class ImagePullFailed(Event):
    """An image could not be fetched."""

    reference: str
    code: str
    by: str


@dataclass(frozen=True, slots=True)
class ImageBuilt(Event):
    """An image was built from a Dockerfile."""

    reference: str
    digest: str


@dataclass(frozen=True, slots=True)
class ImageRemoved(Event):
    """A name was forgotten, with what it alone stood for."""

    reference: str


@dataclass(frozen=True, slots=True)
class AuthenticationFailed(Event):
    """A request came with a wrong key or none."""

    path: str


@dataclass(frozen=True, slots=True)
class RuntimeProbed(Event):
    """A runtime was tried for real."""

    runtime: str
    is_available: bool
    detail: str


Listener = Callable[[Event], None]
E = TypeVar("E", bound=Event)


@dataclass(slots=True, eq=False)
class Subscription:
    """A bounded queue of events; iterate it."""

    capacity: int
    dropped: int = 0
    _queue: deque[Event] = field(default_factory=deque[Event])
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, event: Event) -> None:
        """Take an event, losing the oldest when full."""
        if len(self._queue) >= self.capacity:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(event)
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._queue:
                yield self._queue.popleft()
            self._arrived.clear()
            await self._arrived.wait()


class EventBus:
    """Hands each event to every listener and subscription; publishing never waits."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._by_kind: dict[type[Event], list[Callable[[Any], None]]] = {}
        self._subscriptions: list[Subscription] = []

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every event from now on."""
        self._listeners.append(listener)

    def listen_to(self, kind: type[E], listener: Callable[[E], None]) -> None:
        """Call `listener` with every event of exactly that kind from now on."""
        self._by_kind.setdefault(kind, []).append(listener)

    def subscribe(self, *, capacity: int = 1024) -> Subscription:
        """Open a queue of events; close it with `unsubscribe`."""
        subscription = Subscription(capacity)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop feeding that queue. Harmless when done twice."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def publish(self, event: Event) -> None:
        """Tell everybody."""
        for listener in self._by_kind.get(type(event), ()):
            listener(event)
        for listener in self._listeners:
            listener(event)
        for subscription in self._subscriptions:
            subscription.offer(event)
