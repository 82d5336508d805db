"""Checkpoints with memory asked for over the WebSocket: the real thing, by real CRIU."""

import os
from collections.abc import Iterator

import pytest
from tests.plugins.criu import criu_prefix
from tests.plugins.live_gateway import LiveGateway, live_gateway
from tests.plugins.live_stream import Stream, is_a
from tests.plugins.wire_calls import Calls

pytestmark = [pytest.mark.needs_criu, pytest.mark.needs_root]

COUNTING = """
import itertools, time
for n in itertools.count(): print(n, flush=True); time.sleep(0.005)
"""
KEEPER = """
import itertools, pathlib, time
count = itertools.count()
while True:
    if pathlib.Path('/workspace/ask').exists():
        pathlib.Path('/workspace/ask').unlink()
        pathlib.Path('/workspace/answer').write_text(f'{next(count)} {token}')
    time.sleep(0.01)
"""
ASK = "rm -f /workspace/answer; touch /workspace/ask;"
ASK += " until [ -s /workspace/answer ]; do sleep 0.01; done; cat /workspace/answer"


@pytest.fixture(scope="module")
def gateway() -> Iterator[LiveGateway]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    prefix = criu_prefix()
    if prefix is None:
        pytest.skip("CRIU is not installed: scripts/criu.sh .faas/criu")
    with live_gateway(
        FAAS_CRIU_PREFIX=str(prefix), FAAS_RUNTIMES="embedded", FAAS_DISABLE_PREWARM="1"
    ) as running:
        yield running


@pytest.fixture
def call(gateway: LiveGateway) -> Calls:
    return Calls(gateway.url)


def numbers(text: str) -> list[int]:
    """Whole lines only: a checkpoint may fall within one."""
    return [int(line) for line in text.rpartition("\n")[0].split()]


def test_an_execution_is_kept_with_its_memory_and_both_go_on(
    gateway: LiveGateway, call: Calls
) -> None:
    body = {"command": ["/usr/bin/python3", "-c", COUNTING], "memory": True}
    body |= {"mode": "checkpointed", "timeout_ms": 100_000, "wait": False}
    made = call.post("/api/v1/execute", body)["execution_id"]
    with Stream(gateway, made) as one:
        one.until(lambda _: len(numbers(one.text())) > 5)
        one.send("checkpoint", name="half-way", memory=True)
        told = one.custom("checkpoint_created")
        at = len(numbers(one.text()))
        one.until(lambda _: len(numbers(one.text())) > at + 20)
        one.send("stop")
        one.until(is_a("exit", reason="cancelled"))
    seen = numbers(one.text())
    assert seen == list(range(len(seen)))
    kept = call.get(f"/api/v1/snapshots/{told['snapshot_id']}")
    assert (kept["has_memory"], kept["name"]) == (True, "half-way")
    assert (told["checkpoint_name"], told["container_id"]) == ("half-way", made)

    body = {"snapshot_id": kept["id"], "memory": True, "mode": "checkpointed"}
    body |= {"timeout_ms": 100_000, "wait": False}
    child = call.post("/api/v1/execute", body)["execution_id"]
    with Stream(gateway, child) as two:
        two.until(lambda _: len(numbers(two.text())) > 20)
        two.send("stop")
        two.until(is_a("exit"))
    went_on = numbers(two.text())[1:]
    assert went_on == list(range(went_on[0], went_on[0] + len(went_on)))
    assert 0 < went_on[0] <= at + 2


def test_an_instance_is_kept_with_its_memory_and_begins_another(
    gateway: LiveGateway, call: Calls
) -> None:
    made = call.post("/api/v1/instances", {"memory": True})["id"]
    keeper = KEEPER.replace("{token}", made[-6:])
    start = {
        "command": "cat > /workspace/k.py;"
        " setsid /usr/bin/python3 /workspace/k.py >/dev/null 2>&1 </dev/null &",
        "payload": keeper,
    }
    assert call.post(f"/api/v1/instances/{made}/exec", start)["exit_code"] == 0
    with Stream(gateway, made) as one:
        for count in range(2):
            assert asked(one) == f"{count} {made[-6:]}"
        one.send("checkpoint", memory=True)
        kept = one.custom("checkpoint_created")
        assert asked(one) == f"2 {made[-6:]}"
    assert call.get(f"/api/v1/snapshots/{kept['snapshot_id']}")["has_memory"]
    other = call.post(f"/api/v1/snapshots/{kept['snapshot_id']}/restore")["id"]
    with Stream(gateway, other) as two:
        assert asked(two) == f"2 {made[-6:]}"  # the process itself, at its count
    for instance in (made, other):
        call.delete(f"/api/v1/instances/{instance}")


def asked(stream: Stream) -> str:
    """Ask the process that was left behind for its next number, by a command over the stream."""
    before = len(stream.text())
    stream.send("exec", command=ASK)
    begun = stream.custom("exec_started")["execution_id"]
    stream.until(is_a("exit", execution_id=begun, code=0))
    return stream.text()[before:]


def test_what_cannot_be_kept_is_refused_with_the_reason_and_runs_on(
    gateway: LiveGateway, call: Calls
) -> None:
    body = {"command": "echo up; sleep 60", "mode": "checkpointed", "wait": False}
    made = call.post("/api/v1/execute", body)["execution_id"]
    with Stream(gateway, made) as one:
        one.until(is_a("stdout"))
        one.send("checkpoint", memory=True)
        refused = one.custom("error")
        assert refused["code"] == "unsupported"
        one.send("get_state")
        assert one.custom("state")["running"]
        one.send("stop")
        one.until(is_a("exit"))
