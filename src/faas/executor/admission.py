"""Who may run now, who waits, and who is told to come back later.

At most `running_max` executions run. The others wait in a bounded queue: first come, first served
inside a tenant; among tenants by virtual time. A tenant's virtual time moves on by the seconds its
executions ran, divided by its weight, so a tenant of weight 2 gets twice the time of one of weight
1, however long their executions are. While one runs, it is charged its tenant's recent mean. A
tenant that was idle starts at the present virtual time: idleness saves nothing up.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from faas.clock import Clock
from faas.errors import FaasError, QueueFullError, QuotaExceededError
from faas.ids import TenantId
from faas.tenancy import Tenant

CHARGE_SECONDS_MIN = 0.001
"""An execution that took no time at all still had its turn."""

_MEAN_WEIGHT = 0.1
"""Of the newest sample in a running mean: the last ten or so count."""

TENANTS_REMEMBERED_MAX = 256
"""Past this, idle tenants are forgotten with what they owe: every turn looks at all of them."""


@dataclass(slots=True, eq=False)
class _Share:
    """One tenant's place in the queue."""

    tenant: Tenant
    order: int
    virtual_seconds: float
    mean_seconds: float = CHARGE_SECONDS_MIN
    running: int = 0
    waiting: deque["Ticket"] = field(default_factory=deque["Ticket"])


@dataclass(slots=True, eq=False)
class Ticket:
    """One execution's right to run, now or later."""

    share: _Share
    turn: asyncio.Future[None] | None = None
    """Set while it waits."""
    granted_ns: int | None = None
    charged_seconds: float = 0.0

    @property
    def is_granted(self) -> bool:
        """Whether it may run."""
        return self.granted_ns is not None


class Admission:
    """Hands out tickets."""

    def __init__(self, *, running_max: int, queued_max: int, clock: Clock) -> None:
        self._running_max = running_max
        self._queued_max = queued_max
        self._clock = clock
        self._shares: dict[TenantId, _Share] = {}
        self._virtual_seconds = 0.0
        self._order = 0
        self._mean_seconds = 0.05
        self.running = 0
        self.queued = 0

    def enter(self, tenant: Tenant) -> Ticket:
        """Return a ticket, granted at once when there is room and nobody else waits for it.

        Raises:
            QueueFullError: the queue is full.
            QuotaExceededError: the tenant's part of the queue is full.
        """
        share = self._share(tenant)
        if self._has_room(share) and not share.waiting:
            return self._grant(Ticket(share))
        if self.queued >= self._queued_max:
            raise self._refusal(QueueFullError, f"the queue is full: {self.queued} executions wait")
        if len(share.waiting) >= tenant.quota.queued_max:
            raise self._refusal(
                QuotaExceededError,
                f"{len(share.waiting)} executions of this tenant wait already",
            )
        return self._queue(Ticket(share))

    def enter_recovered(self, tenant: Tenant, *, is_running: bool) -> Ticket:
        """Take in an execution of a former gateway, past every bound: it was admitted before."""
        share = self._share(tenant)
        if is_running:
            return self._grant(Ticket(share))
        ticket = self._queue(Ticket(share))
        self._serve()
        return ticket

    def stand_aside(self, tenant: Tenant) -> Ticket:
        """Return a ticket of an execution that will only be ended: it takes nobody's place."""
        return Ticket(self._share(tenant))

    def leave(self, ticket: Ticket) -> None:
        """Give the ticket back, whether it was granted or not; lets the next ones run."""
        share = ticket.share
        if ticket.granted_ns is None:
            if ticket in share.waiting:
                share.waiting.remove(ticket)
                self.queued -= 1
            return
        seconds = (self._clock.monotonic_ns() - ticket.granted_ns) / 1e9
        ticket.granted_ns = None
        share.running -= 1
        self.running -= 1
        used = max(seconds, CHARGE_SECONDS_MIN)
        share.virtual_seconds += (used - ticket.charged_seconds) / share.tenant.weight
        share.mean_seconds += _MEAN_WEIGHT * (used - share.mean_seconds)
        self._mean_seconds += _MEAN_WEIGHT * (used - self._mean_seconds)
        if self.queued:
            self._serve()

    def retry_after_seconds(self) -> float:
        """Guess when the queue will have moved: its length times the recent time of service."""
        guess = (self.queued + 1) * self._mean_seconds / self._running_max
        return float(min(60, max(1, round(guess + 0.5))))

    def _has_room(self, share: _Share) -> bool:
        return self.running < self._running_max and share.running < share.tenant.quota.running_max

    def _share(self, tenant: Tenant) -> _Share:
        share = self._shares.get(tenant.id)
        if share is None:
            if len(self._shares) >= TENANTS_REMEMBERED_MAX:
                self._forget_idle()
            self._order += 1
            share = _Share(tenant, self._order, self._virtual_seconds)
            self._shares[tenant.id] = share
        else:
            share.tenant = tenant
            if not share.running and not share.waiting:
                share.virtual_seconds = max(share.virtual_seconds, self._virtual_seconds)
        return share

    def _forget_idle(self) -> None:
        self._shares = {
            name: share for name, share in self._shares.items() if share.running or share.waiting
        }

    def _queue(self, ticket: Ticket) -> Ticket:
        ticket.turn = asyncio.get_running_loop().create_future()
        ticket.share.waiting.append(ticket)
        self.queued += 1
        return ticket

    def _grant(self, ticket: Ticket) -> Ticket:
        share = ticket.share
        ticket.granted_ns = self._clock.monotonic_ns()
        ticket.charged_seconds = share.mean_seconds
        self._virtual_seconds = max(self._virtual_seconds, share.virtual_seconds)
        share.virtual_seconds += share.mean_seconds / share.tenant.weight
        share.running += 1
        self.running += 1
        return ticket

    def _serve(self) -> None:
        while self.running < self._running_max:
            ready = [s for s in self._shares.values() if s.waiting and self._has_room(s)]
            if not ready:
                return
            share = min(ready, key=lambda s: (s.virtual_seconds, s.order))
            ticket = share.waiting.popleft()
            self.queued -= 1
            self._grant(ticket)
            if ticket.turn is not None and not ticket.turn.done():
                ticket.turn.set_result(None)

    def _refusal(self, kind: type[FaasError], message: str) -> FaasError:
        return kind(
            message,
            retry_after_seconds=self.retry_after_seconds(),
            details={"running": self.running, "queued": self.queued},
        )
