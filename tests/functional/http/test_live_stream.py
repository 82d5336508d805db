"""The WebSocket on the real runtime: each of its events and commands does what it says."""

import os
import time
from collections.abc import Iterator

import httpx
import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway
from tests.plugins.live_stream import Event, Stream, is_a

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the live gateway is started as root"),
]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveGateway]:
    with live_gateway() as gateway:
        yield gateway


@pytest.fixture
def http(live: LiveGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def made(http: httpx.Client) -> Iterator[Event]:
    instance = http.post("/api/v1/instances", json={"name": f"n{time.monotonic_ns()}"}).json()
    yield instance
    http.delete(f"/api/v1/instances/{instance['id']}")


@pytest.mark.parametrize("by", ["id", "name", "container_id"])
def test_every_event_and_command_in_an_instance(live: LiveGateway, made: Event, by: str) -> None:
    with Stream(live, made[by], "?watch=/workspace") as one:
        one.send("get_state")
        state = one.custom("state")
        assert (state["status"], state["running"], state["pid"]) == ("running", True, 1)
        one.until(is_a("heartbeat"))
        script = "echo out; echo err >&2; read line; echo got $line > /workspace/f; exit 7"
        one.send("exec", command=script, stdin=True)
        execution = one.custom("exec_started")["execution_id"]
        begun = one.until(is_a("process_event", event="started"))
        assert begun["pid"] > 1
        assert "read line" in begun["command"]
        one.send("stdin", data="hello\n")
        assert one.custom("stdin_ack")["offset"] == 6
        ended = one.until(is_a("exit", execution_id=execution))
        assert (ended["code"], ended["reason"]) == (7, "exited")
        assert (one.text(), one.text("stderr")) == ("out\n", "err\n")
        assert [e["event"] for e in one.heard if e["type"] == "process_event"][-1] == "stopped"
        one.until(is_a("file_event", path="/workspace/f", event="created"))
        one.send("checkpoint", name="kept")
        kept = one.custom("checkpoint_created")
        assert (kept["checkpoint_name"], kept["container_id"]) == ("kept", made["id"])
        one.send("stop")
        last = one.until(is_a("exit", execution_id=None))
        assert (last["code"], last["reason"]) == (0, "stopped")


def test_a_checkpoint_holds_the_files_of_that_moment(
    live: LiveGateway, http: httpx.Client, made: Event
) -> None:
    at = f"/api/v1/instances/{made['id']}/files?path=/workspace/a"
    http.put(at, content=b"then")
    with Stream(live, made["id"]) as one:
        one.send("checkpoint")
        kept = one.custom("checkpoint_created")
    http.put(at, content=b"now")
    body = {"command": "cat /workspace/a", "snapshot_id": kept["snapshot_id"]}
    again = http.post("/api/v1/execute", json={**body, "mode": "checkpointed"}).json()
    assert (again["exit_code"], again["stdout"]) == (0, "then")


def test_an_execution_is_checkpointed_while_it_runs(live: LiveGateway, http: httpx.Client) -> None:
    body = {"command": "echo live > /tmp/f; echo ready; sleep 60", "wait": False}
    execution = http.post("/api/v1/execute", json=body).json()["request_id"]
    with Stream(live, execution) as one:
        one.until(is_a("stdout"))
        one.send("checkpoint", name="midway")
        kept = one.custom("checkpoint_created")
        one.send("stop")
        ended = one.until(is_a("exit"))
        assert (ended["code"], ended["reason"]) == (137, "cancelled")
    child = {"command": "cat /tmp/f", "snapshot_id": kept["snapshot_id"], "mode": "checkpointed"}
    assert http.post("/api/v1/execute", json=child).json()["stdout"] == "live\n"


def test_what_was_not_made_for_memory_says_so_and_runs_on(
    live: LiveGateway, http: httpx.Client, made: Event
) -> None:
    with Stream(live, made["id"]) as one:
        one.send("checkpoint", memory=True)
        assert one.custom("error")["code"] in ("unsupported", "wrong_state")
        one.send("exec", command="echo lives")
        one.until(is_a("exit", code=0))
        assert one.text() == "lives\n"


def test_a_terminal_is_resized(live: LiveGateway, made: Event) -> None:
    with Stream(live, made["id"]) as one:
        one.send("resize", rows=10, columns=20)
        assert one.custom("error")["code"] == "wrong_state"
        one.send("exec", command="sh", tty=True, stdin=True)
        one.until(is_a("process_event", event="started"))
        one.send("resize", rows=33, columns=111)
        one.send("stdin", data="stty size; exit\n")
        one.until(is_a("exit"))
        assert "33 111" in one.text()


def test_a_client_resumes_over_a_killed_gateway_at_the_very_byte(
    live: LiveGateway, http: httpx.Client, made: Event
) -> None:
    script = "for i in $(seq 1 400); do echo line $i; echo bad $i >&2; sleep 0.01; done"
    body = {"command": script, "wait": False}
    run = http.post(f"/api/v1/instances/{made['id']}/exec", json=body).json()["request_id"]
    seen = {"stdout": "", "stderr": ""}
    at = {"stdout": 0, "stderr": 0}

    def of_run(event: Event) -> bool:
        return event["type"] in ("stdout", "exit") and event["execution_id"] == run

    def take(one: Stream) -> None:
        for event in one.heard:
            if event["type"] in seen and event["execution_id"] == run:
                assert event["offset"] == at[event["type"]]
                at[event["type"]] = event["next_offset"]
                seen[event["type"]] += event["data"]

    for kills in (True, False, None):
        query = f"?resume={run}:{at['stdout']}-{at['stderr']}"
        with Stream(live, made["id"], query) as one:
            if kills is None:
                one.until(is_a("exit", execution_id=run, code=0))
            else:
                for _ in range(5):  # all the rest in one event, where the command was quicker
                    if one.until(of_run)["type"] == "exit":
                        break
            take(one)
        if kills:
            live.kill()
            live.start()
    assert seen["stdout"] == "".join(f"line {n}\n" for n in range(1, 401))
    assert seen["stderr"] == "".join(f"bad {n}\n" for n in range(1, 401))


def test_a_client_that_reads_nothing_never_holds_up_the_command(
    live: LiveGateway, http: httpx.Client, made: Event
) -> None:
    script = "head -c 12000000 /dev/zero | tr '\\\\0' x; echo done > /workspace/done"
    with Stream(live, made["id"]), Stream(live, made["id"]) as other:
        other.send("exec", command=script)
        run = other.custom("exec_started")["execution_id"]
        final = http.get(f"/api/v1/executions/{run}", params={"wait_ms": 50_000}).json()
        assert final["state"] == "finished"
        other.until(is_a("exit", execution_id=run))
        assert len(other.text()) == 12_000_000
