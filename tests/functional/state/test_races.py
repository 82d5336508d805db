"""The first branch to pass wins, in real sandboxes: its state is kept, the others end and go."""

import http.client
import json
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway
from tests.plugins.wire_calls import Calls

pytestmark = pytest.mark.needs_root

SECONDS = 60


@pytest.fixture(scope="module")
def gateway() -> Iterator[LiveGateway]:
    with live_gateway(
        FAAS_RUNTIMES="embedded", FAAS_DISABLE_PREWARM="1", FAAS_PARKED_MAX="0"
    ) as running:
        yield running


@pytest.fixture
def call(gateway: LiveGateway) -> Calls:
    return Calls(gateway.url)


def race(call: Calls, *commands: str, **more: object) -> dict:
    base = call.post(
        "/api/v1/execute", {"command": "echo base > /workspace/s", "mode": "checkpointed"}
    )
    children = [{"command": command} for command in commands]
    return call.post(
        "/api/v1/branches/race",
        {"branch_from": base["snapshot_id"], "children": children, **more},
    )


def until_nothing_runs(gateway: LiveGateway) -> None:
    """Every sandbox of every child is gone: nothing waits in a pool here, and nothing is parked."""
    run = gateway.data_dir / "data" / "run"
    gives_up_at = time.monotonic() + SECONDS
    while found := [path.name for path in run.glob("sbx-*")]:
        assert time.monotonic() < gives_up_at, found
        time.sleep(0.05)


def ended(call: Calls, count: int) -> list[dict]:
    """The newest executions, when they have ended: a moment after their sandboxes."""
    gives_up_at = time.monotonic() + SECONDS
    while True:
        newest = call.get(f"/api/v1/executions?limit={count}")["executions"]
        if all(one["state"] in ("finished", "failed") for one in newest):
            return newest
        assert time.monotonic() < gives_up_at, newest
        time.sleep(0.05)


def test_the_first_to_pass_wins_and_the_others_are_ended_and_cleaned_up(
    gateway: LiveGateway, call: Calls
) -> None:
    began = time.monotonic()
    told = race(
        call,
        "exit 3",
        "sleep 0.3; echo won >> /workspace/s",
        "(trap '' TERM; sleep 1000) & sleep 1000",
        "while :; do :; done",
    )
    assert time.monotonic() - began < 30
    failed, winner, sleeping, spinning = told["children"]
    assert told["winner"] == winner["request_id"]
    assert (failed["exit_code"], failed["reason"]) == (3, "exited")
    assert {sleeping["reason"], spinning["reason"]} == {"cancelled"}
    until_nothing_runs(gateway)

    body = {"command": "cat /workspace/s", "snapshot_id": told["snapshot_id"]}
    assert call.post("/api/v1/execute", body)["stdout"] == "base\nwon\n"


def test_who_ends_first_but_does_not_pass_the_check_has_not_won(
    gateway: LiveGateway, call: Calls
) -> None:
    told = race(
        call,
        "echo wrong > /workspace/answer",
        "sleep 0.3; echo right > /workspace/answer",
        "sleep 1000",
        check="grep -q right /workspace/answer",
    )
    assert told["winner"] == told["children"][1]["request_id"]
    until_nothing_runs(gateway)


def test_when_nobody_passes_all_have_ended_by_themselves(gateway: LiveGateway, call: Calls) -> None:
    told = race(call, "exit 1", "kill -9 $$", "true", check="false")
    assert (told["winner"], told["snapshot_id"]) == (None, None)
    assert [child["reason"] for child in told["children"]] == ["exited", "signalled", "exited"]
    until_nothing_runs(gateway)


def test_a_race_whose_caller_left_is_ended(gateway: LiveGateway, call: Calls) -> None:
    base = call.post("/api/v1/execute", {"command": "true", "mode": "checkpointed"})
    body = {"branch_from": base["snapshot_id"], "children": [{"command": "sleep 1000"}] * 3}
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=SECONDS)
    connection.request(
        "POST", "/api/v1/branches/race", json.dumps(body), {"content-type": "application/json"}
    )
    gives_up_at = time.monotonic() + SECONDS
    while len(call.get("/api/v1/executions?state=running")["executions"]) < 3:
        assert time.monotonic() < gives_up_at
        time.sleep(0.05)

    connection.close()

    until_nothing_runs(gateway)
    assert {one["reason"] for one in ended(call, 3)} == {"cancelled"}


def test_a_gateway_killed_in_a_race_leaves_no_child_behind(
    gateway: LiveGateway, call: Calls
) -> None:
    base = call.post("/api/v1/execute", {"command": "true", "mode": "checkpointed"})
    body = {"branch_from": base["snapshot_id"], "children": [{"command": "sleep 2"}] * 3}
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=SECONDS)
    connection.request(
        "POST", "/api/v1/branches/race", json.dumps(body), {"content-type": "application/json"}
    )
    gives_up_at = time.monotonic() + SECONDS
    while len(call.get("/api/v1/executions?state=running")["executions"]) < 3:
        assert time.monotonic() < gives_up_at
        time.sleep(0.05)

    gateway.kill()
    connection.close()
    gateway.start()

    until_nothing_runs(gateway)
    for one in ended(call, 3):
        assert (one["state"], one["exit_code"]) == ("finished", 0)
        assert call.get(f"/api/v1/snapshots/{one['execution_id']}")["id"]
