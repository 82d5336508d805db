"""Limits of a running instance changed for real: in the control group, and felt inside."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway
from tests.plugins.wire_calls import Calls

pytestmark = pytest.mark.needs_root

MIB = 1 << 20
NEAR = 48 * MIB
"""What a group may have beyond the limit, for the kernel's own part in it."""

HOLD = "import sys; block = bytearray(b'x') * (int(sys.argv[1]) << 20); print('held')"
SPIN = """
import os, time
end = time.monotonic() + 1.5
while time.monotonic() < end: pass
print(time.process_time() / 1.5)
"""
FORK = """
import os, sys, time
n = 0
try:
    while n < int(sys.argv[1]):
        if os.fork() == 0:
            time.sleep(1); os._exit(0)
        n += 1
except OSError:
    pass
print(n, flush=True)
for _ in range(n): os.wait()
"""


@pytest.fixture(scope="module")
def gateway() -> Iterator[LiveGateway]:
    with live_gateway(FAAS_RUNTIMES="embedded", FAAS_DISABLE_PREWARM="1") as running:
        yield running


@pytest.fixture
def call(gateway: LiveGateway) -> Calls:
    return Calls(gateway.url)


@pytest.fixture
def made(call: Calls) -> Iterator[dict]:
    instance = call.post("/api/v1/instances", {"memory_mb": 128, "cpu_cores": 1})
    yield instance
    call.delete(f"/api/v1/instances/{instance['id']}")


def python(call: Calls, made: dict, script: str, *words: str) -> dict:
    body = {"command": ["/usr/bin/python3", "-c", script, *words], "timeout_ms": 60_000}
    return call.post(f"/api/v1/instances/{made['id']}/exec", body)


def resize(call: Calls, made: dict, **limits: float) -> dict:
    return call.post(f"/api/v1/instances/{made['id']}/resize", limits)


def in_the_group(made: dict, *names: str) -> str:
    """What the kernel holds, by the name it has in either version of control groups."""
    for name in names:
        for path in Path("/sys/fs/cgroup").glob(f"**/{made['container_id']}/{name}"):
            return path.read_text().strip()
    raise AssertionError(f"no group of {made['container_id']} has {names}")


def memory_of(made: dict) -> int:
    return int(in_the_group(made, "memory.max", "memory.limit_in_bytes"))


def test_more_memory_is_given_while_it_runs(call: Calls, made: dict) -> None:
    assert 128 * MIB <= memory_of(made) <= 128 * MIB + NEAR
    assert python(call, made, HOLD, "300")["reason"] == "out_of_memory"

    assert resize(call, made, memory_mb=512)["memory_mb"] == 512

    assert 512 * MIB <= memory_of(made) <= 512 * MIB + NEAR
    assert python(call, made, HOLD, "300")["stdout"] == "held\n"
    assert python(call, made, HOLD, "700")["reason"] == "out_of_memory"


def test_less_memory_holds_at_once(call: Calls, made: dict) -> None:
    assert python(call, made, HOLD, "90")["stdout"] == "held\n"
    resize(call, made, memory_mb=64)
    assert 64 * MIB <= memory_of(made) <= 64 * MIB + NEAR
    assert python(call, made, HOLD, "150")["reason"] == "out_of_memory"


def test_less_than_it_holds_is_refused_and_changes_nothing(call: Calls, made: dict) -> None:
    script = f"{HOLD}; sys.stdout.flush(); import time; time.sleep(60)"
    body = {"command": ["/usr/bin/python3", "-c", script, "80"], "wait": False}
    running = call.post(f"/api/v1/instances/{made['id']}/exec", body)["execution_id"]
    while "held" not in call.logs(running):
        pass
    before = memory_of(made)

    path = f"/api/v1/instances/{made['id']}/resize"
    refused = call.post(path, {"memory_mb": 32}, fails=409)

    assert "holds" in refused["detail"]
    assert memory_of(made) == before
    assert call.get(f"/api/v1/instances/{made['id']}")["memory_mb"] == 128
    assert call.get(f"/api/v1/executions/{running}")["state"] == "running"
    call.post(f"/api/v1/executions/{running}/cancel")


def test_fewer_cores_slow_it_down(call: Calls, made: dict) -> None:
    whole = float(python(call, made, SPIN)["stdout"])

    assert resize(call, made, cpu_cores=0.25)["cpu_cores"] == 0.25

    quota = in_the_group(made, "cpu.max", "cpu.cfs_quota_us").split()[0]
    assert int(quota) == 25_000
    quarter = float(python(call, made, SPIN)["stdout"])
    assert quarter < 0.4
    assert quarter < whole


def test_a_command_that_runs_feels_it(call: Calls, made: dict) -> None:
    """Not only what is begun afterwards."""
    body = {"command": ["/usr/bin/python3", "-c", "while True: pass"], "wait": False}
    running = call.post(f"/api/v1/instances/{made['id']}/exec", body)["execution_id"]
    resize(call, made, cpu_cores=0.1)
    used = [cpu_us(made) for _ in measure(seconds=1.5)]
    assert (used[1] - used[0]) / 1.5e6 < 0.25
    call.post(f"/api/v1/executions/{running}/cancel")


def measure(*, seconds: float) -> Iterator[None]:
    import time

    yield
    time.sleep(seconds)
    yield


def cpu_us(made: dict) -> int:
    for path in Path("/sys/fs/cgroup").glob(f"**/{made['container_id']}/cpuacct.usage"):
        return int(path.read_text()) // 1000
    stat = in_the_group(made, "cpu.stat")
    return int(dict(line.split() for line in stat.splitlines())["usage_usec"])


def test_fewer_processes_are_allowed(call: Calls, made: dict) -> None:
    resize(call, made, pids_max=64)
    assert int(python(call, made, FORK, "20")["stdout"].split()[-1]) == 20

    resize(call, made, pids_max=10)

    assert int(in_the_group(made, "pids.max")) < 64
    assert int(python(call, made, FORK, "40")["stdout"].split()[-1]) < 20


def test_new_limits_hold_after_a_stop_and_over_another_gateway(
    gateway: LiveGateway, call: Calls, made: dict
) -> None:
    resize(call, made, memory_mb=256)
    gateway.kill()
    gateway.start()
    assert 256 * MIB <= memory_of(made) <= 256 * MIB + NEAR
    call.post(f"/api/v1/instances/{made['id']}/stop")
    resize(call, made, memory_mb=192)
    again = call.post(f"/api/v1/instances/{made['id']}/start")
    assert 192 * MIB <= memory_of(again) <= 192 * MIB + NEAR


def test_a_disk_is_not_resized(call: Calls, made: dict) -> None:
    path = f"/api/v1/instances/{made['id']}/resize"
    assert "snapshot" in call.post(path, {"disk_mb": 4096}, fails=501)["hint"]
