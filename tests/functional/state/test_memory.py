"""Memory checkpoints through the gateway: slices, forks, instances, restarts. Real CRIU."""

import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from tests.plugins.criu import criu_prefix
from tests.plugins.live_gateway import LiveGateway
from tests.plugins.wire_calls import Calls

pytestmark = [pytest.mark.needs_criu, pytest.mark.needs_root]

COUNTING = """
import itertools, time
for n in itertools.count(): print(n, flush=True); time.sleep(0.005)
"""
PYTHON = ["/usr/bin/python3", "-c", COUNTING]
SECONDS = 60


@pytest.fixture(scope="module")
def gateway():
    prefix = criu_prefix()
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if prefix is None:
        pytest.skip("CRIU is not installed: scripts/criu.sh .faas/criu")
    directory = Path(tempfile.mkdtemp(prefix="faas-test-"))
    made = LiveGateway(
        directory, FAAS_CRIU_PREFIX=str(prefix), FAAS_RUNTIMES="embedded", FAAS_DISABLE_PREWARM="1"
    )
    made.start()
    yield made
    if made.is_running:
        made.stop()
    shutil.rmtree(directory)


@pytest.fixture
def call(gateway):
    return Calls(gateway.url)


def numbers(text: str) -> list[int]:
    return [int(line) for line in text.rpartition("\n")[0].split()]


def until(look_at):
    gives_up_at = time.monotonic() + SECONDS
    while not (found := look_at()):
        assert time.monotonic() < gives_up_at
        time.sleep(0.02)
    return found


def run(call, **fields):
    return call.post("/api/v1/execute", {"memory": True, "mode": "checkpointed", **fields})


def begun(call, **fields) -> str:
    """Start one and wait until it has counted a little."""
    made = run(call, command=PYTHON, wait=False, timeout_ms=60_000, **fields)["execution_id"]
    until(lambda: len(numbers(call.logs(made))) > 5)
    return made


def test_a_count_goes_on_over_slices_and_nothing_is_lost_between(call):
    first = run(call, command=PYTHON, checkpoint_after_ms=400, timeout_ms=60_000)
    assert (first["reason"], first["exit_code"]) == ("checkpointed", 0)
    whole = first["stdout"]
    reference = first["request_id"]  # the request's id finds the snapshot, too
    for _ in range(2):
        slice_ = run(call, snapshot_id=reference, checkpoint_after_ms=200, timeout_ms=60_000)
        assert slice_["reason"] == "checkpointed"
        whole, reference = whole + slice_["stdout"], slice_["snapshot_id"]
    seen = numbers(whole)
    assert seen == list(range(len(seen)))
    assert len(seen) > 10
    told = call.get(f"/api/v1/snapshots/{reference}")
    assert (told["has_memory"], told["runtimes"]) == (True, ["embedded"])


def test_a_running_execution_is_checkpointed_and_runs_on(call):
    made = begun(call)
    kept = call.post(f"/api/v1/executions/{made}/checkpoint", {"name": "half-way"})
    assert (kept["has_memory"], kept["name"]) == (True, "half-way")
    seen = len(numbers(call.logs(made)))
    until(lambda: len(numbers(call.logs(made))) > seen)
    again = run(call, snapshot_id=kept["id"], checkpoint_after_ms=200)
    assert 0 < numbers(again["stdout"])[1] <= seen + 2
    call.post(f"/api/v1/executions/{made}/cancel")


def test_stopping_at_a_checkpoint_ends_it_with_its_snapshot(call):
    made = begun(call)
    kept = call.post(f"/api/v1/executions/{made}/checkpoint", {"stop": True})
    ended = call.get(f"/api/v1/executions/{made}")
    assert (ended["state"], ended["reason"]) == ("finished", "checkpointed")
    assert ended["snapshot_id"] == kept["id"]
    call.post(f"/api/v1/executions/{made}/checkpoint", {}, fails=409)


def test_ten_children_go_on_from_one_memory_side_by_side(call):
    made = begun(call)
    child = {"memory": True, "mode": "checkpointed", "checkpoint_after_ms": 300}
    forks = call.post(
        "/api/v1/fork", {"branch_from": made, "children": [child] * 10, "timeout_ms": 60_000}
    )
    assert [fork["reason"] for fork in forks] == ["checkpointed"] * 10
    seconds = {numbers(fork["stdout"])[1] for fork in forks}
    assert len(seconds) == 1
    call.post(f"/api/v1/executions/{made}/cancel")


def test_a_command_that_ends_by_itself_leaves_its_files(call):
    ended = run(call, command="echo kept > /workspace/file; exit 3")
    assert (ended["reason"], ended["exit_code"]) == ("exited", 3)
    assert not call.get(f"/api/v1/snapshots/{ended['snapshot_id']}")["has_memory"]
    child = run(call, command="cat /workspace/file", snapshot_id=ended["snapshot_id"])
    assert child["stdout"] == "kept\n"
    refused = run_refused(call, snapshot_id=ended["snapshot_id"])
    assert refused["code"] == "unsupported"


def run_refused(call, **fields):
    body = {"memory": True, "mode": "checkpointed", **fields}
    return call.post("/api/v1/execute", body, fails=501)


def test_files_of_a_memory_snapshot_can_be_used_alone(call):
    script = "echo mine > /workspace/f; while :; do sleep 0.1; done"
    kept = run(call, command=script, checkpoint_after_ms=300)
    child = run(call, command="cat /workspace/f", snapshot_id=kept["snapshot_id"], memory=False)
    assert child["stdout"] == "mine\n"


STEPS = """
cd /workspace; mkdir -p d/e; echo 1 > d/a; echo 1 > d/e/deep; echo 1 > gone; echo 1 > kept
until [ -e /tmp/one ]; do sleep 0.01; done
rm -r d gone; mkdir d; echo 2 > d/b; echo 2 >> kept; mv kept moved; exec 3>open; echo half >&3
until [ -e /tmp/two ]; do sleep 0.01; done
echo whole >&3; rm d/b; find . -type f | sort; cat moved open; stat -c %u . d open | sort -u
"""


@pytest.mark.parametrize("is_killed", [False, True])
def test_files_are_as_the_memory_knows_them_over_layers_and_after_a_kill(gateway, call, is_killed):
    def go_on(reference: str, step: str, **more):
        files = [{"path": f"/tmp/{step}", "content": ""}]
        return run(call, snapshot_id=reference, files=files, timeout_ms=60_000, **more)

    first = run(call, command=STEPS, checkpoint_after_ms=300)["snapshot_id"]
    second = go_on(first, "one", checkpoint_after_ms=300)["snapshot_id"]
    if is_killed:
        gateway.kill()
        gateway.start()
    for _ in range(2):  # made, and then stood on
        ended = go_on(second, "two")
        said = ended["stdout"].split()
        assert (ended["exit_code"], said[:3]) == (0, ["./moved", "./open", "1"]), ended
        assert said[3:6] == ["2", "half", "whole"]
        owners = said[6:]
        assert len(owners) == 1
        assert int(owners[0]) >= 0x7000_0000  # the only user's, whatever number it has here


def test_what_a_memory_stands_on_can_be_removed(call):
    first = run(call, command=STEPS, checkpoint_after_ms=300)["snapshot_id"]
    files = [{"path": "/tmp/one", "content": ""}]
    second = run(call, snapshot_id=first, files=files, checkpoint_after_ms=300)["snapshot_id"]
    call._send("DELETE", f"/api/v1/snapshots/{first}", None)  # refused while its child lives
    files = [{"path": "/tmp/two", "content": ""}]
    assert "whole" in run(call, snapshot_id=second, files=files)["stdout"]


def test_a_checkpoint_survives_the_gateway_killed_right_after_it(gateway, call):
    kept = run(call, command=PYTHON, checkpoint_after_ms=300)
    gateway.kill()
    gateway.start()
    again = run(call, snapshot_id=kept["snapshot_id"], checkpoint_after_ms=200)
    assert numbers(kept["stdout"] + again["stdout"])[-1] > numbers(kept["stdout"])[-1]
    assert call.get(f"/api/v1/snapshots/{kept['snapshot_id']}")["has_memory"]


def test_what_was_not_wholly_restored_when_the_gateway_died_is_restored_anew(gateway, call):
    kept = run(call, command=PYTHON, checkpoint_after_ms=400)
    places = (gateway.data_dir / "data" / "run").resolve()
    before = set(places.iterdir())
    made = run(call, snapshot_id=kept["snapshot_id"], wait=False, timeout_ms=60_000)["execution_id"]
    until(lambda: len(numbers(call.logs(made))) > 5)
    gateway.kill()
    [place] = {path for path in set(places.iterdir()) - before if path.name.startswith("sbx-")}
    (place / "refilling").touch()  # as killed before it was done
    gateway.start()
    until(lambda: len(numbers(call.logs(made))) > 5)
    assert not place.exists()
    whole = numbers(kept["stdout"] + call.logs(made))
    assert whole == list(range(len(whole)))
    call.post(f"/api/v1/executions/{made}/cancel")


def test_memory_that_comes_back_from_the_store_is_used_only_with_our_seal(gateway, call):
    kept = run(call, command=PYTHON, checkpoint_after_ms=300)
    call.post(f"/api/v1/snapshots/{kept['snapshot_id']}/verify")  # waits until it is stored
    shelf = gateway.data_dir / "data" / "memory"
    shutil.rmtree(shelf / kept["snapshot_id"])
    again = run(call, snapshot_id=kept["snapshot_id"], checkpoint_after_ms=200)
    assert again["reason"] == "checkpointed"
    shutil.rmtree(shelf / kept["snapshot_id"])
    gateway.stop()
    (gateway.data_dir / "data" / "memory.key").write_bytes(b"x" * 32)
    gateway.start()
    body = {"memory": True, "mode": "checkpointed", "snapshot_id": kept["snapshot_id"]}
    refused = call.post("/api/v1/execute", body, fails=403)
    assert "not taken by this gateway" in str(refused)


def test_what_does_not_fit_together_is_refused_with_its_reason(call):
    body = {"command": "true", "memory": True, "mode": "cached"}
    assert "cache" in str(call.post("/api/v1/execute", body, fails=400))
    body = {"command": "true", "checkpoint_after_ms": 5}
    assert "checkpoint_after_ms" in str(call.post("/api/v1/execute", body, fails=400))
    assert "$.command" in str(call.post("/api/v1/execute", {"memory": True}, fails=400))
    body = {"command": "true", "memory": True, "isolation": "userns"}
    call.post("/api/v1/execute", body, fails=501)


def test_no_half_checkpoint_is_left(gateway, call):
    run(call, command=PYTHON, checkpoint_after_ms=200)
    memory = gateway.data_dir / "data" / "memory"
    assert not [*memory.glob(".*"), *memory.glob("*/.*")]


SERVER = """
import http.server, itertools, socketserver
count = itertools.count()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(next(count)).encode()
        self.send_response(200); self.send_header("content-length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
socketserver.TCPServer.allow_reuse_address = True
http.server.HTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""
ASK = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000').read().decode())"


def ask(call, instance: str) -> int:
    """Ask the server in an instance for its next number."""
    body = {"command": ["/usr/bin/python3", "-c", ASK]}

    def asked():
        ended = call.post(f"/api/v1/instances/{instance}/exec", body)
        return ended["stdout"].strip() if ended["exit_code"] == 0 else None

    return int(until(asked))


@pytest.fixture
def instance(call):
    """An instance in which a server counts, left behind by a command that has ended."""
    made = call.post("/api/v1/instances", {"memory": True})["id"]
    files = {"command": "cat > /workspace/server.py", "payload": SERVER}
    call.post(f"/api/v1/instances/{made}/exec", files)
    start = {"command": "setsid /usr/bin/python3 /workspace/server.py >/dev/null 2>&1 &"}
    call.post(f"/api/v1/instances/{made}/exec", start)
    yield made
    call.delete(f"/api/v1/instances/{made}")


def test_an_instance_paused_to_disk_goes_on_in_memory_and_holds_nothing_meanwhile(
    gateway, call, instance
):
    assert [ask(call, instance) for _ in range(3)] == [0, 1, 2]
    paused = call.post(f"/api/v1/instances/{instance}/pause?to=disk")
    assert (paused["status"], paused["on_disk"], paused["container_id"]) == ("paused", True, None)
    assert not list((gateway.data_dir / "data" / "run").glob("sbx-*"))
    call.post(f"/api/v1/instances/{instance}/exec", {"command": "true"}, fails=409)
    assert call.post(f"/api/v1/instances/{instance}/resume")["status"] == "running"
    assert ask(call, instance) == 3


def test_an_instance_on_disk_survives_the_gateway_and_the_machine(gateway, call, instance):
    assert ask(call, instance) == 0
    call.post(f"/api/v1/instances/{instance}/pause?to=disk")
    gateway.kill()
    run_dir = (gateway.data_dir / "data" / "run").resolve()
    shutil.rmtree(run_dir)  # what a reboot leaves of a tmpfs
    gateway.start()
    assert call.get(f"/api/v1/instances/{instance}")["on_disk"]
    call.post(f"/api/v1/instances/{instance}/resume")
    assert ask(call, instance) == 1
    again = call.post(f"/api/v1/instances/{instance}/pause?to=disk")
    assert again["on_disk"]
    call.post(f"/api/v1/instances/{instance}/resume")
    assert ask(call, instance) == 2


def test_snapshots_of_a_living_instance_begin_others_at_its_count(call, instance):
    assert [ask(call, instance) for _ in range(2)] == [0, 1]
    kept = call.post("/api/v1/snapshots", {"container_id": instance, "memory": True})
    assert kept["has_memory"]
    others = [call.post(f"/api/v1/snapshots/{kept['id']}/restore")["id"] for _ in range(2)]
    assert ask(call, instance) == 2
    assert [ask(call, other) for other in others] == [2, 2]
    for other in others:
        call.delete(f"/api/v1/instances/{other}")


def test_an_idle_instance_goes_to_disk_and_its_next_use_wakes_it(call):
    body = {"memory": True, "idle_seconds": 1, "idle_action": "pause_to_disk"}
    made = call.post("/api/v1/instances", body)["id"]
    start = "sh -c 'sleep 100000 & echo $! > /workspace/pid' >/dev/null 2>&1"
    call.post(f"/api/v1/instances/{made}/exec", {"command": start})
    until(lambda: call.get(f"/api/v1/instances/{made}")["on_disk"])
    alive = {"command": "kill -0 $(cat /workspace/pid)"}
    assert call.post(f"/api/v1/instances/{made}/exec", alive)["exit_code"] == 0
    call.delete(f"/api/v1/instances/{made}")


SLOWLY = """
import itertools, sys, time
for n in itertools.count(): print(n, flush=True); time.sleep(0.01); n >= 300 and sys.exit(5)
"""


@pytest.fixture
def counting(call):
    """An instance in which a command of ours counts to 300, and that command."""
    instance = call.post("/api/v1/instances", {"memory": True})["id"]
    body = {"command": ["/usr/bin/python3", "-c", SLOWLY], "wait": False, "timeout_ms": 60_000}
    made = call.post(f"/api/v1/instances/{instance}/exec", body)["execution_id"]
    until(lambda: len(numbers(call.logs(made))) > 5)
    yield instance, made
    call.delete(f"/api/v1/instances/{instance}")


def ended(call, execution: str):
    return until(
        lambda: (got := call.get(f"/api/v1/executions/{execution}"))["state"] != "running" and got
    )


def test_a_command_goes_to_disk_with_its_instance_and_ends_as_if_nothing_was(call, counting):
    instance, made = counting
    for _ in range(2):
        assert call.post(f"/api/v1/instances/{instance}/pause?to=disk")["on_disk"]
        seen = call.logs(made)
        time.sleep(0.1)
        assert call.logs(made) == seen
        assert call.get(f"/api/v1/executions/{made}")["state"] == "running"
        call.post(f"/api/v1/instances/{instance}/resume")
        until(lambda seen=seen: len(call.logs(made)) > len(seen))
    final = ended(call, made)
    assert (final["reason"], final["exit_code"]) == ("exited", 5)
    assert numbers(final["stdout"]) == list(range(301))


def test_a_command_on_disk_outlives_the_gateway_and_the_machine(gateway, call, counting):
    instance, made = counting
    call.post(f"/api/v1/instances/{instance}/pause?to=disk")
    gateway.kill()
    shutil.rmtree((gateway.data_dir / "data" / "run").resolve())  # what a reboot leaves of a tmpfs
    gateway.start()
    assert call.get(f"/api/v1/executions/{made}")["state"] == "running"
    call.post(f"/api/v1/instances/{instance}/resume")
    final = ended(call, made)
    assert (final["reason"], final["exit_code"]) == ("exited", 5)
    assert numbers(final["stdout"]) == list(range(301))


def test_the_time_limit_stands_still_on_disk(call):
    instance = call.post("/api/v1/instances", {"memory": True})["id"]
    body = {"command": "echo; sleep 100", "wait": False, "timeout_ms": 1500}
    made = call.post(f"/api/v1/instances/{instance}/exec", body)["execution_id"]
    until(lambda: call.logs(made))
    call.post(f"/api/v1/instances/{instance}/pause?to=disk")
    time.sleep(2)
    assert call.get(f"/api/v1/executions/{made}")["state"] == "running"
    call.post(f"/api/v1/instances/{instance}/resume")
    assert ended(call, made)["reason"] == "timed_out"
    call.delete(f"/api/v1/instances/{instance}")


def test_a_command_cancelled_on_disk_has_ended_and_does_not_come_back(call, counting):
    instance, made = counting
    call.post(f"/api/v1/instances/{instance}/pause?to=disk")
    call.post(f"/api/v1/executions/{made}/cancel")
    assert ended(call, made)["reason"] == "cancelled"
    call.post(f"/api/v1/instances/{instance}/resume")
    alive = {"command": "ls -d /proc/[0-9]* | wc -l"}
    until(lambda: int(call.post(f"/api/v1/instances/{instance}/exec", alive)["stdout"]) <= 5)


def test_a_plain_instance_is_not_paused_to_disk_and_runs_on(call):
    made = call.post("/api/v1/instances", {})["id"]
    call.post(f"/api/v1/instances/{made}/pause?to=disk", fails=501)
    assert call.get(f"/api/v1/instances/{made}")["status"] == "running"
    call.delete(f"/api/v1/instances/{made}")
