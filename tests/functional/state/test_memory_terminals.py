"""Shells on a terminal that are forked, paused to disk and typed to again, through the gateway."""

import os
import shutil
from collections.abc import Iterator

import pytest
from tests.plugins.criu import criu_prefix
from tests.plugins.live_gateway import LiveGateway, live_gateway
from tests.plugins.live_stream import Stream
from tests.plugins.wire_calls import Calls

pytestmark = [pytest.mark.needs_criu, pytest.mark.needs_root]

SHELL = ["/bin/bash", "-i"]
SLEEP = "sh -c 'echo be\"\"gun; exec sleep 1000'\n"
"""A job that is in the foreground when it says so."""


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


def typed(gateway: LiveGateway, execution: str, text: str, waits_for: str) -> str:
    """Type on the terminal of an execution; return all it has said when it said that."""
    with Stream(gateway, execution) as one:
        one.send("stdin", data=text, execution_id=execution)
        one.until(lambda _: waits_for in one.text())
        return one.text()


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_shell_in_an_instance_goes_to_disk_and_is_typed_to_again(
    gateway: LiveGateway, call: Calls, is_killed: bool
) -> None:
    instance = call.post("/api/v1/instances", {"memory": True})["id"]
    body = {"command": SHELL, "tty": True, "stdin_open": True, "wait": False}
    made = call.post(f"/api/v1/instances/{instance}/exec", body)["execution_id"]
    typed(gateway, made, "word=kept; stty rows 40 cols 99; echo re''ady\n", "ready")
    assert call.post(f"/api/v1/instances/{instance}/pause?to=disk")["on_disk"]
    if is_killed:
        gateway.kill()
        run_dir = (gateway.data_dir / "data" / "run").resolve()
        shutil.rmtree(run_dir)  # what a reboot leaves of a tmpfs
        gateway.start()
    call.post(f"/api/v1/instances/{instance}/resume")
    said = typed(gateway, made, "echo $word-$((6*7)); stty size\n", "40 99")
    assert "kept-42" in said
    assert said.count("ready") == 1
    typed(gateway, made, SLEEP, "begun")
    typed(gateway, made, "\x03echo code $?\n", "code 130")
    call.delete(f"/api/v1/instances/{instance}")


def test_children_of_one_shell_are_typed_to_and_resized_one_by_one(
    gateway: LiveGateway, call: Calls
) -> None:
    shell = {"memory": True, "mode": "checkpointed", "tty": True, "stdin_open": True}
    body = {**shell, "command": SHELL, "timeout_ms": 100_000, "wait": False}
    made = call.post("/api/v1/execute", body)["execution_id"]
    typed(gateway, made, "word=kept; echo re''ady\n", "ready")
    kept = call.post(f"/api/v1/executions/{made}/checkpoint", {})
    children = [
        call.post("/api/v1/execute", {**shell, "snapshot_id": kept["id"], "wait": False})
        for _ in range(3)
    ]
    for number, child in enumerate(children):
        with Stream(gateway, child["execution_id"]) as one:
            at = {"execution_id": child["execution_id"]}
            one.send("stdin", data=f"echo $word {number}\n", **at)
            one.until(lambda _, n=number, one=one: f"kept {n}" in one.text())
            one.send("resize", rows=20 + number, columns=60, **at)
            one.send("stdin", data="stty size\n", **at)
            one.until(lambda _, n=number, one=one: f"{20 + n} 60" in one.text())
            assert "ready" not in one.text()
    typed(gateway, made, "echo $word too\n", "kept too")
    for one in (made, *(child["execution_id"] for child in children)):
        call.post(f"/api/v1/executions/{one}/cancel")
