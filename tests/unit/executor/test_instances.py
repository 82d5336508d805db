"""Instances: made, used, put to sleep, woken, lost, and taken up again."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from faas.errors import (
    AlreadyExistsError,
    ExecutionNotFoundError,
    InstanceNotFoundError,
    InvalidArgumentError,
    NotFoundError,
    QuotaExceededError,
    SandboxBrokenError,
    UnsupportedError,
    WrongStateError,
)
from faas.events import InstanceChanged
from faas.executor.fake import FakePlatform
from faas.executor.instance_records import IdleAction, InstanceSpec, Intent
from faas.ids import TenantId
from faas.lifecycle import InstanceState
from faas.model import ExecutionSpec, ExecutionState, ExitReason, Mode
from faas.tenancy import LOCAL_PRINCIPAL as LOCAL
from faas.tenancy import Principal, Scope, Tenant

OTHER = Principal(Tenant(TenantId("other")), frozenset({Scope.ADMIN}))


def asked(**fields) -> InstanceSpec:
    return InstanceSpec(image="host", **fields)


def sh(script: str, instance: str | None = None, **fields) -> ExecutionSpec:
    return ExecutionSpec(
        argv=("sh", "-c", script),
        image="host",
        mode=Mode.PERSISTENT,
        instance_id=instance,
        **fields,
    )


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


async def until(done) -> None:
    """Work in threads takes real time, of which nothing is assumed."""
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0.001)


def box(platform: FakePlatform, record):
    return platform.host.boxes[record.sandbox_id]


async def write(platform: FakePlatform, instance: str, path: str, data: bytes) -> None:
    async with platform.executor.instances.use(instance, LOCAL) as (_, sandbox):
        await sandbox.write_file(path, data)


async def read(platform: FakePlatform, instance: str, path: str) -> bytes:
    async with platform.executor.instances.use(instance, LOCAL) as (_, sandbox):
        return await sandbox.read_file(path)


@asynccontextmanager
async def serving(platform: FakePlatform, record, port: int):
    """Let a port of an instance be one of this machine."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        box(platform, record).ports[port] = server.sockets[0].getsockname()[1]
        yield


async def test_an_instance_runs_and_is_listed_to_its_tenant_only(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(name="dev"), LOCAL)
    assert made.state is InstanceState.RUNNING
    assert made.intent is None
    assert instances.list(LOCAL) == [made]
    assert instances.get("dev", LOCAL) == instances.get(made.id, LOCAL) == made
    assert instances.list(OTHER) == []
    for reference in ("dev", made.id):
        with pytest.raises(InstanceNotFoundError):
            instances.get(reference, OTHER)


async def test_a_name_is_taken_once_a_tenant(platform):
    instances = platform.executor.instances
    await instances.create(asked(name="dev"), LOCAL)
    with pytest.raises(AlreadyExistsError):
        await instances.create(asked(name="dev"), LOCAL)
    assert len(instances.list(LOCAL)) == 1
    await instances.create(asked(name="dev"), OTHER)


@pytest.mark.parametrize("name", ["", "-dev", "a b", "a/b", "x" * 64, "inst-dev", "é"])
async def test_a_name_that_is_none_is_refused(platform, name):
    with pytest.raises(InvalidArgumentError):
        await platform.executor.instances.create(asked(name=name), LOCAL)


async def test_too_many_instances_are_refused(open_platform):
    platform = await open_platform(instances_max=1)
    await platform.executor.instances.create(asked(), LOCAL)
    with pytest.raises(QuotaExceededError):
        await platform.executor.instances.create(asked(), LOCAL)
    await platform.executor.instances.create(asked(), OTHER)
    await platform.executor.aclose()


async def test_an_instance_that_cannot_be_made_leaves_nothing(open_platform):
    platform = await open_platform(pool_size=0)
    platform.host.fail_next_creates(1)
    with pytest.raises(SandboxBrokenError):
        await platform.executor.instances.create(asked(name="dev"), LOCAL)
    assert platform.executor.instances.list(LOCAL) == []
    await platform.executor.instances.create(asked(name="dev"), LOCAL)
    await platform.executor.aclose()


async def test_commands_share_the_files_of_their_instance(platform):
    made = await platform.executor.instances.create(asked(), LOCAL)
    first = await platform.executor.execute(sh("echo first", made.id), LOCAL)
    second = await platform.executor.execute(sh("echo second", made.id), LOCAL)
    assert first.result.stdout + second.result.stdout == b"first\nsecond\n"
    assert first.result.sandbox_id == second.result.sandbox_id == made.sandbox_id
    await settle()
    assert box(platform, made).is_alive


async def test_several_commands_run_in_an_instance_at_once(platform):
    made = await platform.executor.instances.create(asked(), LOCAL)
    runs = [platform.executor.execute(sh("sleep 5; echo done", made.id), LOCAL) for _ in range(3)]
    waiting = asyncio.gather(*runs)
    await settle()
    assert len(box(platform, made).processes) == 3
    await platform.clock.advance(5)
    assert [record.result.stdout for record in await waiting] == [b"done\n"] * 3


async def test_what_an_instance_was_made_with_holds_for_its_commands(platform):
    made = await platform.executor.instances.create(
        asked(env=(("A", "1"), ("B", "1")), working_dir="/workspace"), LOCAL
    )
    await platform.executor.execute(sh("true", made.id, env=(("B", "2"),)), LOCAL)
    command = platform.host.started[-1]
    assert dict(command.env) == {"A": "1", "B": "2"}
    assert command.working_dir == "/workspace"
    assert not command.is_exclusive


async def test_a_persistent_execution_without_an_instance_makes_one(platform):
    record = await platform.executor.execute(sh("echo hi"), LOCAL)
    assert record.result.stdout == b"hi\n"
    [made] = platform.executor.instances.list(LOCAL)
    assert record.spec.instance_id == made.id
    assert made.spec.idle_seconds == 900.0
    again = await platform.executor.execute(sh("echo more", made.id), LOCAL)
    assert again.result.sandbox_id == record.result.sandbox_id


async def test_executions_that_name_the_same_new_instance_share_one(platform):
    runs = [platform.executor.execute(sh("true", "builds"), LOCAL) for _ in range(5)]
    records = await asyncio.gather(*runs)
    assert len({record.result.sandbox_id for record in records}) == 1
    assert [x.spec.name for x in platform.executor.instances.list(LOCAL)] == ["builds"]


async def test_an_unknown_instance_id_is_not_found(platform):
    with pytest.raises(InstanceNotFoundError):
        await platform.executor.execute(sh("true", "inst-01k9zjv3f8q5r2m7c4x6w0n1ab"), LOCAL)


async def test_an_instance_of_another_tenant_is_not_found(platform):
    made = await platform.executor.instances.create(asked(), LOCAL)
    with pytest.raises(InstanceNotFoundError):
        await platform.executor.execute(sh("true", made.id), OTHER)


async def test_instance_id_is_refused_in_other_modes(platform):
    spec = ExecutionSpec(argv=("true",), image="host", instance_id="dev")
    with pytest.raises(InvalidArgumentError, match="instance_id"):
        await platform.executor.execute(spec, LOCAL)


async def test_cancelling_a_command_leaves_its_instance(platform):
    made = await platform.executor.instances.create(asked(), LOCAL)
    record = await platform.executor.submit(sh("sleep 60", made.id), LOCAL)
    await settle()
    final = await platform.executor.cancel(record.id, LOCAL)
    assert final.result.reason is ExitReason.CANCELLED
    assert (await platform.executor.execute(sh("true", made.id), LOCAL)).result.exit_code == 0


async def test_a_stopped_instance_keeps_its_files_and_nothing_else(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    await write(platform, made.id, "/workspace/state.log", b"kept")
    stopped = await instances.stop(made.id, LOCAL)
    assert (stopped.state, stopped.sandbox_id) == (InstanceState.STOPPED, None)
    await until(lambda: made.sandbox_id not in platform.host.boxes)
    with pytest.raises(WrongStateError, match="stopped"):
        await platform.executor.execute(sh("true", made.id), LOCAL)
    started = await instances.start(made.id, LOCAL)
    assert started.state is InstanceState.RUNNING
    assert started.sandbox_id != made.sandbox_id
    assert await read(platform, made.id, "/workspace/state.log") == b"kept"


async def test_the_snapshot_of_the_last_stop_is_the_only_one_kept(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    for _ in range(3):
        stopped = await instances.stop(made.id, LOCAL)
        await instances.start(made.id, LOCAL)
    stopped = await instances.stop(made.id, LOCAL)
    assert [x.id for x in await platform.snapshots.page()] == [stopped.snapshot_id]
    await instances.delete(made.id, LOCAL)
    assert await platform.snapshots.page() == []


async def test_stopping_cancels_what_runs(platform):
    made = await platform.executor.instances.create(asked(), LOCAL)
    record = await platform.executor.submit(sh("sleep 60", made.id), LOCAL)
    await settle()
    await platform.executor.instances.stop(made.id, LOCAL)
    final = await platform.executor.get(record.id, LOCAL)
    assert (final.state, final.result.reason) == (ExecutionState.FINISHED, ExitReason.CANCELLED)


async def test_steps_may_be_repeated(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    assert (await instances.start(made.id, LOCAL)).sandbox_id == made.sandbox_id
    paused = await instances.pause(made.id, LOCAL)
    assert await instances.pause(made.id, LOCAL) == paused
    assert (await instances.resume(made.id, LOCAL)).state is InstanceState.RUNNING
    assert (await instances.resume(made.id, LOCAL)).state is InstanceState.RUNNING
    stopped = await instances.stop(made.id, LOCAL)
    assert await instances.stop(made.id, LOCAL) == stopped
    with pytest.raises(WrongStateError, match="stopped"):
        await instances.resume(made.id, LOCAL)


async def test_a_paused_instance_runs_nothing_until_it_is_resumed(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    await instances.pause(made.id, LOCAL)
    assert box(platform, made).is_paused
    with pytest.raises(WrongStateError, match="paused"):
        await platform.executor.execute(sh("true", made.id), LOCAL)
    await instances.resume(made.id, LOCAL)
    assert not box(platform, made).is_paused
    assert (await platform.executor.execute(sh("true", made.id), LOCAL)).result.exit_code == 0


async def test_a_paused_instance_can_be_stopped_and_deleted(platform):
    instances = platform.executor.instances
    one = await instances.create(asked(), LOCAL)
    await write(platform, one.id, "/workspace/a", b"1")
    await instances.pause(one.id, LOCAL)
    await instances.stop(one.id, LOCAL)
    await instances.start(one.id, LOCAL)
    assert await read(platform, one.id, "/workspace/a") == b"1"
    await instances.pause(one.id, LOCAL)
    await instances.delete(one.id, LOCAL)
    assert instances.list(LOCAL) == []


async def test_a_deleted_instance_is_gone_with_all_it_held(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(name="dev"), LOCAL)
    record = await platform.executor.submit(sh("sleep 60", made.id), LOCAL)
    await settle()
    await instances.delete("dev", LOCAL)
    assert made.sandbox_id not in platform.host.boxes
    with pytest.raises(InstanceNotFoundError):
        instances.get(made.id, LOCAL)
    assert (await platform.executor.get(record.id, LOCAL)).state is not ExecutionState.RUNNING
    states = [e.state for e in platform.events if isinstance(e, InstanceChanged)]
    assert states == ["running", "destroyed"]


async def test_an_instance_begins_with_the_files_of_a_snapshot(platform):
    instances = platform.executor.instances
    base = await instances.create(asked(), LOCAL)
    await write(platform, base.id, "/workspace/lib.py", b"x = 1")
    snapshot_id = (await instances.snapshot(base.id, LOCAL)).id
    child = await instances.create(asked(snapshot_id=snapshot_id), LOCAL)
    await write(platform, child.id, "/workspace/lib.py", b"x = 2")
    assert await read(platform, base.id, "/workspace/lib.py") == b"x = 1"
    assert await read(platform, child.id, "/workspace/lib.py") == b"x = 2"


async def test_an_idle_instance_sleeps_and_its_next_use_wakes_it(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(idle_seconds=10), LOCAL)
    await write(platform, made.id, "/workspace/a", b"1")
    await platform.clock.advance(11)
    await until(lambda: instances.get(made.id, LOCAL).state is InstanceState.STOPPED)
    assert instances.get(made.id, LOCAL).is_asleep
    record = await platform.executor.execute(sh("echo awake", made.id), LOCAL)
    assert record.result.stdout == b"awake\n"
    assert await read(platform, made.id, "/workspace/a") == b"1"
    assert not instances.get(made.id, LOCAL).is_asleep


async def test_an_instance_in_which_a_command_runs_is_not_idle(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(idle_seconds=10, idle_action=IdleAction.PAUSE), LOCAL)
    await platform.executor.submit(
        sh(
            "sleep 25",
            made.id,
        ),
        LOCAL,
    )
    await settle()
    for _ in range(2):
        await platform.clock.advance(10)
        await settle()
        assert instances.get(made.id, LOCAL).state is InstanceState.RUNNING
    await platform.clock.advance(6)
    await settle()
    for _ in range(3):
        await platform.clock.advance(6)
        await settle()
    assert instances.get(made.id, LOCAL).state is InstanceState.PAUSED


async def test_an_instance_past_its_time_to_live_is_deleted(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(ttl_seconds=60), LOCAL)
    await platform.clock.advance(59)
    await settle()
    assert instances.get(made.id, LOCAL).state is InstanceState.RUNNING
    await platform.clock.advance(2)
    await until(lambda: not instances.list(LOCAL))
    assert made.sandbox_id not in platform.host.boxes


async def test_an_instance_whose_sandbox_died_has_failed_and_says_why(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    platform.host.break_sandbox(made.sandbox_id)
    await platform.clock.advance(1)
    await settle()
    failed = instances.get(made.id, LOCAL)
    assert (failed.state, failed.problem) == (InstanceState.FAILED, "its sandbox died")
    with pytest.raises(SandboxBrokenError, match="its sandbox died"):
        await platform.executor.execute(sh("true", made.id), LOCAL)
    await instances.delete(made.id, LOCAL)


async def test_instances_outlive_a_killed_gateway(platform):
    instances = platform.executor.instances
    running = await instances.create(asked(name="running"), LOCAL)
    paused = await instances.create(asked(name="paused"), LOCAL)
    stopped = await instances.create(asked(name="stopped"), LOCAL)
    await write(platform, running.id, "/workspace/a", b"1")
    await write(platform, stopped.id, "/workspace/b", b"2")
    await instances.pause(paused.id, LOCAL)
    await instances.stop(stopped.id, LOCAL)
    await platform.crash()
    again = await platform.reopen()
    found = {x.spec.name: x.state.value for x in again.executor.instances.list(LOCAL)}
    assert found == {"running": "running", "paused": "paused", "stopped": "stopped"}
    assert box(again, paused).is_paused
    assert await read(again, "running", "/workspace/a") == b"1"
    await again.executor.instances.start("stopped", LOCAL)
    assert await read(again, "stopped", "/workspace/b") == b"2"
    await again.executor.aclose()


async def test_instances_outlive_a_gateway_that_was_closed(platform):
    made = await platform.executor.instances.create(asked(), LOCAL)
    await write(platform, made.id, "/workspace/a", b"1")
    await platform.executor.aclose()
    again = await platform.reopen()
    assert await read(again, made.id, "/workspace/a") == b"1"
    await again.executor.aclose()


async def test_a_command_in_an_instance_is_taken_up_by_the_next_gateway(platform):
    made = await platform.executor.instances.create(asked(), LOCAL)
    record = await platform.executor.submit(sh("echo one; sleep 5; echo two", made.id), LOCAL)
    await settle()
    await platform.crash()
    again = await platform.reopen()
    waiting = asyncio.ensure_future(again.executor.wait(record.id, LOCAL))
    await settle()
    await platform.clock.advance(5)
    assert (await waiting).result.stdout == b"one\ntwo\n"
    await settle()
    assert box(again, made).is_alive
    await again.executor.aclose()


async def test_an_instance_that_was_lost_has_failed(platform):
    made = await platform.executor.instances.create(asked(), LOCAL)
    await platform.crash()
    platform.host.break_sandbox(made.sandbox_id)
    again = await platform.reopen()
    assert again.executor.instances.get(made.id, LOCAL).state is InstanceState.FAILED
    await again.executor.aclose()


@pytest.mark.parametrize("intent", [Intent.CREATE, Intent.DELETE])
async def test_a_gateway_killed_while_making_or_deleting_leaves_nothing(platform, intent):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    instances._steps.intend(instances._lives[made.id], intent)
    await platform.crash()
    again = await platform.reopen()
    assert again.executor.instances.list(LOCAL) == []
    assert made.sandbox_id not in again.host.boxes
    await again.executor.aclose()


async def test_a_gateway_killed_before_a_stop_was_stored_takes_it_back(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    await write(platform, made.id, "/workspace/a", b"1")
    life = instances._lives[made.id]
    half = (await instances.snapshot(made.id, LOCAL)).id
    instances._steps.intend(life, Intent.STOP, snapshot_id=half)
    await platform.crash()
    again = await platform.reopen()
    found = again.executor.instances.get(made.id, LOCAL)
    assert (found.state, found.intent) == (InstanceState.RUNNING, None)
    assert await read(again, made.id, "/workspace/a") == b"1"
    assert await again.snapshots.page() == []
    await again.executor.aclose()


async def test_a_stop_whose_sandbox_is_gone_is_finished_by_the_next_gateway(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    await write(platform, made.id, "/workspace/a", b"1")
    kept = (await instances.snapshot(made.id, LOCAL)).id
    instances._steps.intend(instances._lives[made.id], Intent.STOP, snapshot_id=kept)
    await platform.crash()
    platform.host.break_sandbox(made.sandbox_id)
    again = await platform.reopen()
    assert again.executor.instances.get(made.id, LOCAL).state is InstanceState.STOPPED
    await again.executor.instances.start(made.id, LOCAL)
    assert await read(again, made.id, "/workspace/a") == b"1"
    await again.executor.aclose()


async def test_a_gateway_killed_while_starting_leaves_the_instance_stopped(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    stopped = await instances.stop(made.id, LOCAL)
    instances._steps.intend(instances._lives[made.id], Intent.START, sandbox_id=made.sandbox_id)
    await platform.crash()
    again = await platform.reopen()
    found = again.executor.instances.get(made.id, LOCAL)
    assert (found.state, found.intent) == (InstanceState.STOPPED, None)
    assert found.snapshot_id == stopped.snapshot_id
    await again.executor.aclose()


async def test_a_command_may_run_beside_an_execution_that_has_not_ended(platform):
    main = await platform.executor.submit(
        ExecutionSpec(argv=("sh", "-c", "sleep 5; echo main"), image="host"), LOCAL
    )
    await settle()
    guest = await platform.executor.execute(sh("echo guest", main.id), LOCAL)
    assert guest.result.stdout == b"guest\n"
    await settle()
    waiting = asyncio.ensure_future(platform.executor.wait(main.id, LOCAL))
    await platform.clock.advance(5)
    final = await waiting
    assert final.result.stdout == b"main\n"
    assert final.result.sandbox_id == guest.result.sandbox_id
    with pytest.raises(ExecutionNotFoundError):
        await platform.executor.execute(sh("true", main.id), LOCAL)


async def test_an_instance_in_which_a_process_works_is_not_idle(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(idle_seconds=20, idle_action=IdleAction.PAUSE), LOCAL)
    for _ in range(10):
        box(platform, made).cpu_us += 600_000
        await platform.clock.advance(6)
        await settle()
    assert instances.get(made.id, LOCAL).state is InstanceState.RUNNING
    for _ in range(5):
        box(platform, made).cpu_us += 1_000  # it only waits
        await platform.clock.advance(6)
        await settle()
    assert instances.get(made.id, LOCAL).state is InstanceState.PAUSED


async def test_an_instance_with_a_connection_is_not_idle_and_one_that_sleeps_is_woken(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(idle_seconds=10, idle_action=IdleAction.PAUSE), LOCAL)
    await instances.ports.expose(made.id, LOCAL, 8000)
    async with serving(platform, made, 8000), instances.ports.connect(made.id, 8000):
        for _ in range(4):
            await platform.clock.advance(6)
            await settle()
        assert instances.get(made.id, LOCAL).state is InstanceState.RUNNING
    for _ in range(4):
        await platform.clock.advance(6)
        await settle()
    assert instances.get(made.id, LOCAL).state is InstanceState.PAUSED
    async with serving(platform, made, 8000), instances.ports.connect(made.id, 8000):
        assert instances.get(made.id, LOCAL).state is InstanceState.RUNNING


async def test_a_lease_that_is_not_renewed_ends_it_used_or_not(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(lease_seconds=30, idle_action=IdleAction.STOP), LOCAL)
    await write(platform, made.id, "/workspace/a", b"1")
    for _ in range(3):
        await platform.clock.advance(20)
        await instances.terms.renew(made.id, LOCAL, 30)
    await platform.executor.submit(sh("sleep 1000", made.id), LOCAL)
    await settle()
    assert instances.get(made.id, LOCAL).state is InstanceState.RUNNING
    await platform.clock.advance(31)
    await until(lambda: instances.get(made.id, LOCAL).state is InstanceState.STOPPED)
    again = await instances.start(made.id, LOCAL)
    assert (again.lease_until - platform.clock.now()).total_seconds() == 30
    free = await instances.terms.renew(made.id, LOCAL, None)
    assert (free.lease_until, free.spec.lease_seconds) == (None, None)
    await platform.clock.advance(1000)
    await settle()
    assert instances.get(made.id, LOCAL).state is InstanceState.RUNNING


async def test_a_lease_of_what_is_paused_already_does_nothing_more(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(lease_seconds=5, idle_action=IdleAction.PAUSE), LOCAL)
    for _ in range(5):
        await platform.clock.advance(6)
        await settle()
    assert instances.get(made.id, LOCAL).state is InstanceState.PAUSED


async def test_an_instance_is_resized_while_it_runs_and_for_its_next_start(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    wanted = replace(made.spec.limits, memory_bytes=64 << 20, cpu_millis=250)
    resized = await instances.terms.resize(made.id, LOCAL, wanted)
    assert resized.spec.limits == box(platform, made).limits == wanted
    await instances.stop(made.id, LOCAL)
    larger = replace(wanted, memory_bytes=128 << 20)
    await instances.terms.resize(made.id, LOCAL, larger)
    started = await instances.start(made.id, LOCAL)
    assert box(platform, started).limits == larger


async def test_what_cannot_be_resized_is_refused_and_nothing_changes(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    limits = made.spec.limits
    with pytest.raises(UnsupportedError, match="disk"):
        await instances.terms.resize(made.id, LOCAL, replace(limits, disk_bytes=1 << 30))
    box(platform, made).memory_bytes = 100 << 20
    with pytest.raises(WrongStateError, match="100 MiB"):
        await instances.terms.resize(made.id, LOCAL, replace(limits, memory_bytes=50 << 20))
    await instances.pause(made.id, LOCAL)
    with pytest.raises(WrongStateError, match="paused"):
        await instances.terms.resize(made.id, LOCAL, replace(limits, cpu_millis=10))
    assert instances.get(made.id, LOCAL).spec.limits == limits
    with pytest.raises(InstanceNotFoundError):
        await instances.terms.resize(made.id, OTHER, limits)


async def test_limits_that_were_half_set_are_set_by_the_next_gateway(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    wanted = replace(made.spec.limits, cpu_millis=123)
    await instances.terms.resize(made.id, LOCAL, wanted)
    box(platform, made).limits = made.spec.limits  # killed between the record and the kernel
    await platform.crash()
    later = await platform.reopen()
    assert box(later, made).limits == wanted
    await later.executor.aclose()


async def test_exposed_ports_are_kept_with_the_instance_over_a_crash(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(name="dev"), LOCAL)
    first = await instances.ports.expose("dev", LOCAL, 8000)
    await instances.ports.expose("dev", LOCAL, 80, subdomain="shop")
    await platform.crash()
    later = await platform.reopen()
    ports = later.executor.instances.ports
    assert [(p.port, p.token) for p in ports.list("dev", LOCAL)] == [(80, None), (8000, None)]
    name = first.url.partition("://")[2].partition(".")[0]
    assert ports.opened_until(ports.at(name), first.token) is not None
    assert ports.opened_until(ports.at("shop"), first.token) is None
    await ports.close("dev", LOCAL, 8000)
    with pytest.raises(NotFoundError):
        ports.at(name)
    again = await ports.expose("dev", LOCAL, 8000)
    assert ports.opened_until(ports.at(name), first.token) is None
    assert ports.opened_until(ports.at(name), again.token) == again.expires_at.replace(
        microsecond=0
    )
    await later.clock.advance(86_401)
    assert ports.opened_until(ports.at(name), again.token) is None
    with pytest.raises(InstanceNotFoundError):
        ports.list(made.id, OTHER)
    await later.executor.aclose()


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"port": 0}, InvalidArgumentError),
        ({"port": 65_536}, InvalidArgumentError),
        ({"port": 80, "subdomain": "-a"}, InvalidArgumentError),
        ({"port": 80, "subdomain": "A.b"}, InvalidArgumentError),
        ({"port": 80, "subdomain": "8000-x"}, InvalidArgumentError),
        ({"port": 80, "protocol": "tcp"}, UnsupportedError),
        ({"port": 80, "protocol": "https"}, UnsupportedError),
    ],
)
async def test_a_port_that_cannot_be_exposed_is_refused(platform, fields, refusal):
    made = await platform.executor.instances.create(asked(), LOCAL)
    with pytest.raises(refusal):
        await platform.executor.instances.ports.expose(made.id, LOCAL, **fields)


async def test_ports_are_bounded_and_subdomains_are_unique(platform):
    instances = platform.executor.instances
    one, two = await instances.create(asked(), LOCAL), await instances.create(asked(), OTHER)
    await instances.ports.expose(one.id, LOCAL, 80, subdomain="shop")
    await instances.ports.expose(one.id, LOCAL, 80, subdomain="shop")
    for reference, principal, port in ((one.id, LOCAL, 81), (two.id, OTHER, 80)):
        with pytest.raises(AlreadyExistsError):
            await instances.ports.expose(reference, principal, port, subdomain="shop")
    for port in range(1000, 1031):
        await instances.ports.expose(one.id, LOCAL, port)
    with pytest.raises(QuotaExceededError):
        await instances.ports.expose(one.id, LOCAL, 2000)


async def test_ports_of_a_runtime_that_has_none_are_refused(platform):
    made = await platform.executor.instances.create(asked(), LOCAL)
    platform.runtime.capabilities = frozenset()
    with pytest.raises(UnsupportedError):
        await platform.executor.instances.ports.expose(made.id, LOCAL, 80)


async def test_an_instance_made_weaker_than_a_command_demands_is_refused(platform):
    """The host can do better by now, but the instance's sandbox is what it was."""
    record = await platform.executor.instances.create(asked(name="old"), LOCAL)
    platform.host.isolations = ("namespaces+userns",)
    await platform.registry.probe()
    assert (await platform.executor.execute(sh("exit 0", "old"), LOCAL)).result.exit_code == 0
    with pytest.raises(UnsupportedError, match="isolates by none, less than userns"):
        await platform.executor.execute(sh("exit 0", "old", isolation_min="userns"), LOCAL)
    assert platform.executor.instances.get("old", LOCAL).sandbox_id == record.sandbox_id


async def test_an_instance_keeps_its_least_isolation_when_it_is_started_anew(platform):
    platform.host.isolations = ("docker", "docker+gvisor")
    await platform.registry.probe()
    made = await platform.executor.instances.create(
        asked(name="safe", isolation_min="userns"), LOCAL
    )
    assert made.isolation == "docker+gvisor"
    await platform.executor.instances.stop("safe", LOCAL)
    started = await platform.executor.instances.start("safe", LOCAL)
    assert (started.isolation, box(platform, started).spec.isolation_min) == (
        "docker+gvisor",
        "gvisor",
    )


async def test_a_command_in_an_instance_that_is_awake_is_placed_as_it_is_admitted(platform):
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    begun = await platform.executor.submit(sh("sleep 5", made.id), LOCAL)
    assert begun.state is ExecutionState.RUNNING
    await platform.executor.cancel(begun.id, LOCAL)
    await instances.pause(made.id, LOCAL)
    assert instances.awake(sh("true", made.id), LOCAL.tenant) is None
    with pytest.raises(WrongStateError):
        await platform.executor.execute(sh("true", made.id), LOCAL)


async def test_a_command_that_finds_its_instance_elsewhere_is_placed_there(platform):
    """It was admitted while the instance ran in one sandbox, and begins in another."""
    instances = platform.executor.instances
    made = await instances.create(asked(), LOCAL)
    ids = iter(["sbx-gone"])
    awake = instances.awake
    instances.awake = lambda spec, tenant: next(ids, None) or awake(spec, tenant)
    record = await platform.executor.execute(sh("echo there", made.id), LOCAL)
    assert record.result is not None
    assert record.result.sandbox_id == made.sandbox_id
