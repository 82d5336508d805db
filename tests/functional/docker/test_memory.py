"""Memory checkpoints of containers through the gateway: real CRIU, a real Engine."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.plugins.criu import criu_prefix
from tests.plugins.docker import docker_engine, remapping_engine, script
from tests.plugins.live_gateway import LiveGateway
from tests.plugins.wire_calls import Calls

from faas.images import ImageStore

__all__ = ["docker_engine", "remapping_engine"]
pytestmark = [
    pytest.mark.needs_criu,
    pytest.mark.needs_docker,
    pytest.mark.needs_root,
    pytest.mark.timeout(180),
]
COUNTING = "i=0; while :; do echo $i; i=$((i+1)); echo $i > /workspace/at; sleep 0.01; done"
HEAP = """
import hashlib, itertools, os, time
heap = bytearray(os.urandom(1 << 20) * 100)
says = hashlib.sha256(heap).hexdigest()
for n in itertools.count():
    print(n, hashlib.sha256(heap).hexdigest() == says, flush=True); time.sleep(0.01)
"""
SECONDS = 60


@contextmanager
def opened(engine: str, **settings: str) -> Iterator[LiveGateway]:
    prefix = criu_prefix()
    if prefix is None or os.geteuid() != 0:
        pytest.skip("needs root and CRIU: scripts/criu.sh .faas/criu")
    directory = Path(tempfile.mkdtemp(prefix="faas-t-", dir="/tmp"))
    images = ImageStore(directory / "data" / "images")
    for name in ("alpine", "python"):
        asyncio.run(images.import_(name, Path(script("test_images.sh", name))))
    own = {"FAAS_DOCKER_HOST": engine, "FAAS_RUNTIMES": "embedded,docker", "FAAS_POOL_SIZE": "0"}
    own |= {"FAAS_CRIU_PREFIX": str(prefix), "FAAS_DEFAULT_IMAGE": "alpine"}
    made = LiveGateway(directory, **{**own, **settings})
    try:
        made.start()
        yield made
    finally:
        if made.is_running:
            made.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="module", params=["crun", "runc"])
def gateway(docker_engine, request):
    with opened(docker_engine, FAAS_DOCKER_OCI_RUNTIME=request.param) as made:
        yield made


@pytest.fixture
def call(gateway):
    return Calls(gateway.url)


def numbers(text: str) -> list[int]:
    """The first word of each whole line."""
    return [int(line.split()[0]) for line in text.rpartition("\n")[0].splitlines() if line]


def until(look_at):
    gives_up_at = time.monotonic() + SECONDS
    while not (found := look_at()):
        assert time.monotonic() < gives_up_at
        time.sleep(0.02)
    return found


def run(call, *, fails=None, **fields):
    body = {"memory": True, "mode": "checkpointed", "timeout_ms": 60_000, **fields}
    if "snapshot_id" not in body:
        body.setdefault("runtime", "docker")
    return call.post("/api/v1/execute", body, fails=fails)


def begun(call, **fields) -> str:
    """Start one and wait until it has counted a little."""
    made = run(call, wait=False, **{"command": COUNTING, **fields})["execution_id"]
    until(lambda: len(numbers(call.logs(made))) > 5)
    return made


def test_a_count_goes_on_over_slices_and_nothing_is_lost_between(call):
    part = run(call, command=COUNTING, checkpoint_after_ms=400)
    whole = ""
    for _ in range(3):
        assert (part["reason"], part["runtime_used"]) == ("checkpointed", "docker"), part
        assert part["isolation"] == "docker+uid+seccomp"
        whole, reference = whole + part["stdout"], part["snapshot_id"]
        part = run(call, snapshot_id=reference, checkpoint_after_ms=200)
    seen = numbers(whole)
    assert seen == list(range(len(seen)))
    assert len(seen) > 10
    told = call.get(f"/api/v1/snapshots/{reference}")
    assert (told["has_memory"], told["runtimes"]) == (True, ["docker"])


def test_a_running_one_is_checkpointed_and_runs_on(call):
    made = begun(call)
    kept = call.post(f"/api/v1/executions/{made}/checkpoint", {})
    seen = len(numbers(call.logs(made)))
    until(lambda: len(numbers(call.logs(made))) > seen)
    again = run(call, snapshot_id=kept["id"], checkpoint_after_ms=200)
    assert 0 < numbers(again["stdout"])[1] <= seen + 2
    call.post(f"/api/v1/executions/{made}/cancel")


def test_a_hundred_megabytes_of_python_go_on_unchanged(call):
    made = begun(call, command=["python3", "-c", HEAP], image="python", memory_mb=512)
    kept = call.post(f"/api/v1/executions/{made}/checkpoint", {"stop": True})
    assert kept["size_bytes"] > 100 << 20
    seen = numbers(call.logs(made))
    again = run(call, snapshot_id=kept["id"], checkpoint_after_ms=500)
    assert "False" not in again["stdout"]
    assert numbers(again["stdout"])[0] == seen[-1] + 1


def test_three_forks_with_memory_go_on_from_one_count_and_go_apart(call):
    script = (
        "i=0; until [ -e /tmp/own ]; do echo $i; i=$((i+1)); sleep 0.01; done;"
        " echo $i $(cat /tmp/own)"
    )
    parent = begun(call, command=script)
    children = [
        {"memory": True, "mode": "checkpointed", "files": [{"path": "/tmp/own", "content": own}]}
        for own in ("one", "two", "three")
    ]
    body = {"branch_from": parent, "children": children, "timeout_ms": 60_000}
    forks = call.post("/api/v1/fork", body)
    lasts = [fork["stdout"].split()[-2:] for fork in forks]
    assert [last[1] for last in lasts] == ["one", "two", "three"], forks
    counts = {int(last[0]) for last in lasts}
    assert max(counts) - min(counts) <= 1
    assert {fork["runtime_used"] for fork in forks} == {"docker"}
    still = len(numbers(call.logs(parent)))
    until(lambda: len(numbers(call.logs(parent))) > still)
    call.post(f"/api/v1/executions/{parent}/cancel")


def test_files_are_as_the_memory_knows_them(call):
    steps = """
cd /workspace; mkdir d; echo 1 > d/a; exec 3>open; echo half >&3
until [ -e /tmp/go ]; do sleep 0.01; done
echo whole >&3; cat d/a open; stat -c %u open d | sort -u
"""
    first = run(call, command=steps, checkpoint_after_ms=300)["snapshot_id"]
    files = [{"path": "/tmp/go", "content": ""}]
    for _ in range(2):
        ended = run(call, snapshot_id=first, files=files)
        said = ended["stdout"].split()
        assert (ended["exit_code"], said[:3]) == (0, ["1", "half", "whole"]), ended
        assert len(said) == 4  # one user
        assert 0x7000_0000 < int(said[3]) < 0x7001_0000
    child = run(call, command="cat open; stat -c %u open", snapshot_id=first, memory=False,
                working_dir="/workspace", runtime="docker")  # fmt: skip
    assert child["stdout"].split() == ["half", "0"]


def test_a_checkpoint_survives_the_gateway_killed_right_after_it(gateway, call):
    kept = run(call, command=COUNTING, checkpoint_after_ms=300)
    gateway.kill()
    gateway.start()
    again = run(call, snapshot_id=kept["snapshot_id"], checkpoint_after_ms=200)
    whole = numbers(kept["stdout"] + again["stdout"])
    assert whole == list(range(len(whole)))


def test_memory_that_comes_back_from_the_store_goes_on(gateway, call):
    kept = run(call, command=COUNTING, checkpoint_after_ms=300)
    call.post(f"/api/v1/snapshots/{kept['snapshot_id']}/verify")  # waits until it is stored
    shutil.rmtree(gateway.data_dir / "data" / "memory" / kept["snapshot_id"])
    again = run(call, snapshot_id=kept["snapshot_id"], checkpoint_after_ms=200)
    whole = numbers(kept["stdout"] + again["stdout"])
    assert whole == list(range(len(whole)))


def test_nothing_of_a_restore_that_was_killed_is_left(gateway, call):
    kept = run(call, command=COUNTING, checkpoint_after_ms=200)["snapshot_id"]
    folder = gateway.data_dir / "data" / "memory" / kept
    gateway.kill()
    (folder / ".taken-half.tar").write_bytes(b"half")
    (folder / ".sbx-half").mkdir()
    gateway.start()
    assert not list(folder.glob(".*"))
    assert run(call, snapshot_id=kept, checkpoint_after_ms=200)["reason"] == "checkpointed"


def test_what_docker_took_does_not_go_on_elsewhere(call):
    kept = run(call, command=COUNTING, checkpoint_after_ms=200)
    refused = run(call, snapshot_id=kept["snapshot_id"], runtime="embedded", fails=501)
    assert refused["details"]["supported"] == ["docker"]


@pytest.fixture
def instance(call):
    """An instance in a container, with a command that counts."""
    body = {"memory": True, "runtime": "docker", "image": "alpine"}
    made = call.post("/api/v1/instances", body)["id"]
    started = {"command": COUNTING, "wait": False, "timeout_ms": 100_000}
    command = call.post(f"/api/v1/instances/{made}/exec", started)["execution_id"]
    until(lambda: len(numbers(call.logs(command))) > 5)
    yield made, command
    call.delete(f"/api/v1/instances/{made}")


def counts_on(call, command) -> list[int]:
    seen = len(call.logs(command))
    until(lambda: len(call.logs(command)) > seen)
    counted = numbers(call.logs(command))
    assert counted == list(range(len(counted)))
    return counted


def test_an_instance_goes_to_disk_with_its_command_and_both_go_on(gateway, call, instance):
    made, command = instance
    place = gateway.data_dir / "data" / "docker"
    for is_killed in (False, True):
        before = call.get(f"/api/v1/instances/{made}")["container_id"]
        assert (place / before).is_dir()
        paused = call.post(f"/api/v1/instances/{made}/pause?to=disk")
        assert (paused["status"], paused["on_disk"]) == ("paused", True)
        assert not (place / before).exists()
        if is_killed:
            gateway.kill()
            gateway.start()
        call.post(f"/api/v1/instances/{made}/resume")
        counts_on(call, command)


def test_a_snapshot_of_a_living_instance_begins_others_at_its_count(call, instance):
    made, command = instance
    kept = call.post("/api/v1/snapshots", {"container_id": made, "memory": True})
    assert kept["has_memory"]
    others = [call.post(f"/api/v1/snapshots/{kept['id']}/restore")["id"] for _ in range(2)]
    counts_on(call, command)
    for other in others:
        look = {"command": "a=$(cat at); sleep 0.3; echo $a $(cat at)"}
        said = call.post(f"/api/v1/instances/{other}/exec", {**look, "working_dir": "/workspace"})[
            "stdout"
        ].split()
        assert int(said[0]) < int(said[1])
        call.delete(f"/api/v1/instances/{other}")


def test_an_instance_is_forked_with_its_memory(call, instance):
    made, command = instance
    child = {"memory": True, "mode": "checkpointed", "checkpoint_after_ms": 200}
    body = {"branch_from": made, "children": [child] * 2, "timeout_ms": 60_000}
    forks = call.post("/api/v1/fork", body)
    assert [fork["reason"] for fork in forks] == ["checkpointed"] * 2
    assert len({numbers(fork["stdout"])[1] for fork in forks}) == 1
    counts_on(call, command)


def test_what_stood_still_when_the_gateway_died_goes_on(gateway, call):
    """As killed in the midst of a checkpoint: everything is stopped, and nobody knows it."""
    places = gateway.data_dir / "data" / "docker"
    before = set(places.iterdir())
    made = begun(call, mode="ephemeral")
    gateway.kill()
    [place] = {path for path in set(places.iterdir()) - before if path.name.startswith("sbx-")}
    (place / "stopped").write_bytes(b"[]")
    user = json.loads((place / "meta.json").read_bytes())["user"]
    mine = subprocess.run(["pgrep", "-u", str(user), "-x", "sh"], stdout=-1, check=True, text=True)
    subprocess.run(["kill", "-STOP", *mine.stdout.split()], check=True)
    gateway.start()
    counts_on(call, made)
    call.post(f"/api/v1/executions/{made}/cancel")


def test_a_gateway_killed_after_a_restore_takes_it_up(gateway, call):
    kept = run(call, command=COUNTING, checkpoint_after_ms=200)["snapshot_id"]
    made = run(call, snapshot_id=kept, wait=False)["execution_id"]
    until(lambda: len(numbers(call.logs(made))) > 5)
    gateway.kill()
    gateway.start()
    seen = len(call.logs(made))
    until(lambda: len(call.logs(made)) > seen)
    again = call.post(f"/api/v1/executions/{made}/checkpoint", {"stop": True})
    assert again["has_memory"]


def test_what_was_not_wholly_restored_when_the_gateway_died_is_restored_anew(gateway, call):
    kept = run(call, command=COUNTING, checkpoint_after_ms=300)
    places = gateway.data_dir / "data" / "docker"
    before = set(places.iterdir())
    made = run(call, snapshot_id=kept["snapshot_id"], wait=False)["execution_id"]
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


def test_an_engine_that_remaps_users_refuses_by_name(remapping_engine):
    with opened(remapping_engine) as gateway:
        refused = run(Calls(gateway.url), command="true", fails=501)
    assert "remaps user ids" in str(refused)
    assert refused["details"]["supported"] == ["embedded"]


def test_an_engine_elsewhere_refuses_by_name(docker_engine):
    with opened(docker_engine, FAAS_DOCKER_AGENT="copy") as gateway:
        refused = run(Calls(gateway.url), command="true", fails=501)
    assert "not on this machine" in str(refused)
    assert refused["details"]["supported"] == ["embedded"]


def test_without_criu_it_is_said_what_is_missing(docker_engine, tmp_path):
    with opened(docker_engine, FAAS_CRIU_PREFIX=str(tmp_path)) as gateway:
        refused = run(Calls(gateway.url), command="true", fails=501)
    assert "criu.sh" in str(refused)


def test_two_runtimes_and_two_users_are_refused(call):
    assert "one user" in str(run(call, command="id", user="1000", fails=501))
    assert "userns" in str(run(call, command="id", isolation="userns", fails=501))
