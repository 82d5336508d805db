"""Random lives of a gateway: whatever breaks, nothing is lost, run twice or leaked."""

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from faas.clock import Deadline, FakeClock
from faas.errors import ConflictError, FaasError, QueueFullError, QuotaExceededError
from faas.events import ExecutionStarted
from faas.executor import IdempotencyKey
from faas.executor.fake import FakePlatform
from faas.ids import ExecutionId, SandboxId, TenantId
from faas.model import ExecutionRecord, ExecutionSpec, ExecutionState, ExitReason, Limits
from faas.sandbox.fake import FakeHost
from faas.tenancy import Principal, Quota, Scope, Tenant

RUNNING_MAX = 3
QUEUED_MAX = 4
POOL_MAX = 4
QUOTA = Quota(running_max=2, queued_max=3)

TENANTS = {
    name: Principal(Tenant(TenantId(name), QUOTA, weight), frozenset({Scope.ADMIN}))
    for name, weight in (("a", 1), ("b", 3))
}
BODIES = ("true", "sleep 2", "sleep 40", "exit 3")

indexes = st.integers(0, 20)
tenants = st.sampled_from(sorted(TENANTS))
bodies = st.sampled_from(BODIES)
keys = st.sampled_from([None, None, "k1", "k2", "k3"])


@dataclass
class Expected:
    tenant: str
    spec: ExecutionSpec
    key: str | None


class Gateway(RuleBasedStateMachine):
    """One machine, one ledger, many gateways one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="faas-simulation-"))
        self.clock = FakeClock()
        self.host = FakeHost(self.clock)
        self.known: dict[ExecutionId, Expected] = {}
        self.by_key: dict[tuple[str, str], ExecutionId] = {}
        self.calls: list[asyncio.Future] = []
        self.warmings: list[asyncio.Future] = []
        self.used: list[SandboxId] = []
        self.count = 0
        options = {
            "running_max": RUNNING_MAX,
            "queued_max": QUEUED_MAX,
            "pool_size": 2,
            "pool_max": POOL_MAX,
        }
        self.platform = FakePlatform(self.directory, self.host, options)
        self.do(self.platform.start())

    def do(self, work):
        async def settled():
            result = await work
            for _ in range(40):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(settled())

    def spec(self, body: str) -> ExecutionSpec:
        self.count += 1
        script = f"echo n{self.count}; {body}"
        limits = Limits(timeout_ms=30_000)
        return ExecutionSpec(argv=("sh", "-c", script), image="host", limits=limits)

    @rule(tenant=tenants, body=bodies, key=keys)
    def submit(self, tenant: str, body: str, key: str | None) -> None:
        idempotency = None if key is None else IdempotencyKey(key, "digest")
        spec = self.spec(body)
        try:
            record = self.do(
                self.platform.executor.submit(spec, TENANTS[tenant], idempotency=idempotency)
            )
        except (QueueFullError, QuotaExceededError):
            assert self.platform.executor.stats().queued > 0
            return
        self.note(tenant, key, record.id, spec)

    def note(
        self, tenant: str, key: str | None, execution_id: ExecutionId, spec: ExecutionSpec
    ) -> None:
        if key is None:
            assert execution_id not in self.known
        elif (before := self.by_key.get((tenant, key))) not in (None, execution_id):
            record = self.do(self.platform.executor.get(before, TENANTS[tenant]))
            assert record.state is ExecutionState.FAILED, "a key ran twice"
            assert self.times_started(before) == 0, "a key ran twice"
        if key is not None:
            self.by_key[tenant, key] = execution_id
        if execution_id not in self.known:
            self.known[execution_id] = Expected(tenant, spec, key)

    @rule(tenant=tenants, body=bodies)
    def call_and_wait(self, tenant: str, body: str) -> None:
        call = self.loop.create_task(
            self.platform.executor.execute(self.spec(body), TENANTS[tenant])
        )
        self.calls.append(call)
        self.do(asyncio.sleep(0))

    @rule(tenant=tenants, count=st.integers(0, 3), image=st.sampled_from(["host", "other"]))
    def prewarm(self, tenant: str, count: int, image: str) -> None:
        """Asked for beside everything else; it may wait, fail, or be overtaken by a kill."""
        spec = ExecutionSpec(argv=("true",), image=image)
        self.warmings.append(
            self.loop.create_task(
                self.platform.executor.prewarm(
                    spec,
                    TENANTS[tenant],
                    count=count,
                    keep_seconds=20,
                    deadline=Deadline.after(self.clock, 5.0),
                )
            )
        )
        self.do(asyncio.sleep(0))

    @rule(index=indexes)
    def a_caller_goes_away(self, index: int) -> None:
        waiting = [call for call in self.calls if not call.done()]
        if waiting:
            waiting[index % len(waiting)].cancel()
            self.do(asyncio.sleep(0))

    @rule(index=indexes)
    def cancel(self, index: int) -> None:
        if not self.known:
            return
        execution_id = list(self.known)[index % len(self.known)]
        principal = TENANTS[self.known[execution_id].tenant]
        record = self.do(self.platform.executor.cancel(execution_id, principal))
        assert record.state in (ExecutionState.FINISHED, ExecutionState.FAILED)

    @rule(index=indexes)
    def the_same_key_with_another_request(self, index: int) -> None:
        if not self.by_key:
            return
        tenant, key = list(self.by_key)[index % len(self.by_key)]
        other = IdempotencyKey(key, "another digest")
        record = self.do(self.platform.executor.get(self.by_key[tenant, key], TENANTS[tenant]))
        if record.state is ExecutionState.FAILED:
            return
        try:
            self.do(
                self.platform.executor.submit(self.spec("true"), TENANTS[tenant], idempotency=other)
            )
        except ConflictError:
            return
        raise AssertionError("the key was taken for another request")

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 35.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.clock.advance(seconds))

    @rule(index=indexes)
    def a_sandbox_dies(self, index: int) -> None:
        if self.host.boxes:
            self.do(self.break_sandbox(list(self.host.boxes)[index % len(self.host.boxes)]))

    async def break_sandbox(self, sandbox_id: SandboxId) -> None:
        self.host.break_sandbox(sandbox_id)

    @rule(count=st.integers(1, 3))
    def creations_fail(self, count: int) -> None:
        self.host.fail_next_creates(count)

    @rule()
    def a_sandbox_dies_at_its_start(self) -> None:
        self.host.break_next_starts(1)

    @rule(slow=st.booleans())
    def creations_are_slow_or_quick(self, slow: bool) -> None:
        self.host.create_seconds = 0.7 if slow else 0.0

    @rule()
    def the_gateway_is_killed(self) -> None:
        self.do(self.platform.crash())
        self.next_gateway()

    @rule()
    def the_gateway_is_restarted(self) -> None:
        self.do(self.stop())
        self.next_gateway()

    async def stop(self) -> None:
        async def advance() -> None:
            while True:
                await self.clock.advance(0.05)
                await asyncio.sleep(0)

        turning = self.loop.create_task(advance())
        await self.platform.executor.drain(grace_seconds=0)
        await self.platform.executor.aclose()
        turning.cancel()

    def next_gateway(self) -> None:
        for call in (*self.calls, *self.warmings):
            call.cancel()
        # Their files are written in threads, which take real time.
        self.do(self.all_warmed())
        self.calls, self.warmings = [], []
        self.do(asyncio.sleep(0))
        self.used += self.sandboxes_used()
        self.platform = self.do(self.platform.reopen())

    async def all_warmed(self) -> None:
        await asyncio.gather(*self.warmings, return_exceptions=True)

    def times_started(self, execution_id: ExecutionId) -> int:
        argv = self.known[execution_id].spec.argv
        return sum(command.argv == argv for command in self.host.started)

    @invariant()
    def bounds_hold(self) -> None:
        stats = self.platform.executor.stats()
        assert stats.running <= RUNNING_MAX
        assert stats.queued <= QUEUED_MAX + RUNNING_MAX
        pool = stats.pools["fake"]
        assert pool.ready + pool.making <= POOL_MAX
        assert pool.kept <= POOL_MAX

    @invariant()
    def no_sandbox_serves_two(self) -> None:
        used = self.used + self.sandboxes_used()
        assert len(used) == len(set(used)), "a sandbox was handed out twice"
        assert all(len(box.processes) <= 1 for box in self.host.boxes.values())

    def sandboxes_used(self) -> list[SandboxId]:
        events = self.platform.events
        return [event.sandbox_id for event in events if isinstance(event, ExecutionStarted)]

    @invariant()
    def nothing_ran_twice(self) -> None:
        counts = Counter(command.argv for command in self.host.started)
        assert not [argv for argv, count in counts.items() if count > 1]

    @invariant()
    def every_execution_is_known(self) -> None:
        for record, expected in self.loop.run_until_complete(self.look_up()):
            assert record.spec.argv == expected.spec.argv

    async def look_up(self) -> list[tuple[ExecutionRecord, Expected]]:
        get = self.platform.executor.get
        return [
            (await get(execution_id, TENANTS[expected.tenant]), expected)
            for execution_id, expected in self.known.items()
        ]

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            shutil.rmtree(self.directory)

    def end(self) -> None:
        self.host.create_seconds = 0.0
        self.host.fail_next_creates(0)
        self.host.break_next_starts(0)
        for _ in range(60):
            self.do(self.clock.advance(10))
        for _ in range(5000):
            if all(warming.done() for warming in self.warmings):
                break
            self.do(asyncio.sleep(0.001))
            self.do(self.clock.advance(10))
        self.do(self.clock.advance(10))
        for record, expected in self.loop.run_until_complete(self.look_up()):
            self.check_final(record, expected)
        failed = ExecutionState.FAILED
        self.failed = {
            record.id
            for principal in TENANTS.values()
            for record in self.do(self.platform.executor.list(principal, limit=999, state=failed))
        }
        for call in self.calls:
            assert call.done(), "a caller was never answered"
            if not call.cancelled():
                assert call.exception() is None or isinstance(call.exception(), FaasError)
        for warming in self.warmings:
            assert warming.done(), "a pre-warming was never answered"
            if not warming.cancelled():
                assert warming.exception() is None or isinstance(warming.exception(), FaasError)
        assert self.platform.executor.stats().pools["fake"].kept == 2, "a pre-warming never ends"
        assert self.platform.executor.stats().running == 0
        self.do(self.stop())
        assert self.host.boxes == {}, "a sandbox was leaked"
        spooled = {path.stem for path in (self.directory / "spool").iterdir()}
        assert spooled <= self.failed, "spool files of nobody"

    def check_final(self, record, expected: Expected) -> None:
        assert record.state in (ExecutionState.FINISHED, ExecutionState.FAILED), (
            "an execution was lost"
        )
        if record.result is None or record.result.reason is ExitReason.CANCELLED:
            return
        _, _, script = expected.spec.argv
        first = script.split(";")[0].removeprefix("echo ")
        assert record.result.stdout == f"{first}\n".encode()


Gateway.TestCase.settings = settings(
    max_examples=int(os.environ.get("FAAS_SIMULATION_EXAMPLES", "50")),
    stateful_step_count=30,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
TestGateway = Gateway.TestCase
