"""Bounds, order, and no early no."""

from collections import Counter

import pytest

from faas.clock import FakeClock
from faas.errors import QueueFullError, QuotaExceededError
from faas.executor.admission import Admission, Ticket
from faas.ids import TenantId
from faas.tenancy import Quota, Tenant


def tenant(name: str, *, weight: int = 1, running_max: int = 64, queued_max: int = 1024) -> Tenant:
    return Tenant(TenantId(name), Quota(running_max, queued_max), weight)


class Turns:
    """Runs executions one after the other and notes whose they were."""

    def __init__(self, *, running_max: int = 1, queued_max: int = 1000) -> None:
        self.clock = FakeClock()
        self.admission = Admission(running_max=running_max, queued_max=queued_max, clock=self.clock)
        self.waiting: list[Ticket] = []
        self.served: list[str] = []

    def enter(self, who: Tenant, count: int = 1) -> None:
        self.waiting += [self.admission.enter(who) for _ in range(count)]

    async def serve(self, count: int, seconds: dict[str, float] | None = None) -> None:
        for _ in range(count):
            ticket = next(t for t in self.waiting if t.is_granted)
            self.waiting.remove(ticket)
            name = ticket.share.tenant.id
            self.served.append(name)
            await self.clock.advance((seconds or {}).get(name, 1.0))
            self.admission.leave(ticket)


async def test_there_is_room_at_once_until_there_is_none():
    turns = Turns(running_max=2)
    turns.enter(tenant("a"), 3)
    assert [t.is_granted for t in turns.waiting] == [True, True, False]
    assert (turns.admission.running, turns.admission.queued) == (2, 1)


async def test_inside_a_tenant_it_is_first_come_first_served():
    turns = Turns()
    turns.enter(tenant("a"), 5)
    order = list(turns.waiting)
    for expected in order:
        assert expected.is_granted
        turns.admission.leave(expected)
    assert turns.admission.running == 0


async def test_equal_tenants_take_turns_however_long_one_queue_is():
    turns = Turns()
    turns.enter(tenant("a"), 20)
    turns.enter(tenant("b"), 5)
    await turns.serve(11)
    assert Counter(turns.served[1:]) == {"a": 5, "b": 5}


async def test_a_tenant_of_three_times_the_weight_gets_three_times_the_turns():
    turns = Turns()
    turns.enter(tenant("warm-up"))
    turns.enter(tenant("light"), 40)
    turns.enter(tenant("heavy", weight=3), 40)
    await turns.serve(41)
    served = Counter(turns.served)
    assert served["heavy"] == pytest.approx(30, abs=2)


async def test_the_share_is_of_time_and_not_of_turns():
    turns = Turns()
    turns.enter(tenant("warm-up"))
    turns.enter(tenant("long"), 60)
    turns.enter(tenant("short"), 60)
    await turns.serve(55, {"long": 4.0, "short": 1.0})
    served = Counter(turns.served)
    assert served["short"] == pytest.approx(4 * served["long"], rel=0.25)


async def test_idleness_saves_nothing_up():
    turns = Turns()
    turns.enter(tenant("late"))
    await turns.serve(1)
    turns.enter(tenant("busy"), 50)
    await turns.serve(20)
    turns.enter(tenant("late"), 20)
    turns.served.clear()
    await turns.serve(20)
    assert Counter(turns.served)["busy"] >= 9


async def test_a_full_queue_is_refused_with_a_time_to_come_back():
    turns = Turns(queued_max=2)
    turns.enter(tenant("a"), 3)
    with pytest.raises(QueueFullError) as caught:
        turns.enter(tenant("b"))
    assert 1 <= caught.value.retry_after_seconds <= 60


async def test_a_tenants_own_part_of_the_queue_is_bounded():
    turns = Turns()
    turns.enter(tenant("a", queued_max=1), 2)
    with pytest.raises(QuotaExceededError):
        turns.enter(tenant("a", queued_max=1))
    turns.enter(tenant("b"))


async def test_a_tenant_at_its_running_quota_does_not_hold_up_the_others():
    turns = Turns(running_max=2)
    turns.enter(tenant("a", running_max=1), 3)
    turns.enter(tenant("b"))
    assert [t.is_granted for t in turns.waiting] == [True, False, False, True]


async def test_who_leaves_the_queue_gives_up_its_place():
    turns = Turns()
    turns.enter(tenant("a"), 3)
    first, second, third = turns.waiting
    turns.admission.leave(second)
    turns.admission.leave(first)
    assert third.is_granted
    assert turns.admission.queued == 0


async def test_leaving_twice_frees_one_place_only():
    turns = Turns()
    turns.enter(tenant("a"), 3)
    turns.admission.leave(turns.waiting[0])
    turns.admission.leave(turns.waiting[0])
    assert [t.is_granted for t in turns.waiting] == [False, True, False]


async def test_recovered_executions_pass_every_bound():
    turns = Turns(queued_max=0)
    turns.enter(tenant("a"))
    running = turns.admission.enter_recovered(tenant("a"), is_running=True)
    queued = turns.admission.enter_recovered(tenant("a"), is_running=False)
    assert (running.is_granted, queued.is_granted) == (True, False)
    turns.admission.leave(running)
    assert not queued.is_granted
    turns.admission.leave(turns.waiting[0])
    assert queued.is_granted


async def test_the_time_to_come_back_grows_with_the_queue_and_the_service():
    turns = Turns()
    turns.enter(tenant("a"), 30)
    before = turns.admission.retry_after_seconds()
    await turns.serve(10, {"a": 20.0})
    assert turns.admission.retry_after_seconds() > before


async def test_many_tenants_that_came_once_are_forgotten():
    turns = Turns()
    for number in range(600):
        turns.admission.leave(turns.admission.enter(tenant(f"t{number}")))
        await turns.clock.advance(0.001)
    assert len(turns.admission._shares) <= 256
