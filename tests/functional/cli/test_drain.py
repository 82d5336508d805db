"""A gateway that is told to end lets go of what still runs, and the next one finishes it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def faas(gateway: LiveGateway, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if "FAAS_" not in key}
    done = subprocess.run(
        [sys.executable, "-m", "faas", *words],
        capture_output=True,
        text=True,
        env=environment | {"FAAS_GATEWAY_URL": gateway.url},
        check=True,
    )
    return done.stdout


def test_a_caller_that_waits_is_told_and_its_execution_goes_on(tmp_path: Path) -> None:
    with live_gateway(FAAS_DRAIN_SECONDS="0.1") as gateway:
        body = tmp_path / "body.json"
        body.write_text(json.dumps({"command": "echo start; sleep 3; echo end"}))
        caller = subprocess.Popen(
            [
                *("curl", "-s", f"{gateway.url}/api/v1/execute", "-d", f"@{body}"),
                *("-H", "Content-Type: application/json"),
            ],
            stdout=subprocess.PIPE,
        )
        execution_id = _running(gateway)
        assert gateway.stop() == 0
        told, _ = caller.communicate(timeout=30)
        assert json.loads(told)["code"] == "unavailable"
        gateway.start()
        assert faas(gateway, "logs", "-f", execution_id) == "start\nend\n"
        record = json.loads(faas(gateway, "executions", "show", "--json", execution_id))
        assert (record["exit_code"], record["reason"]) == (0, "exited")


def test_a_follower_goes_on_at_its_byte_with_the_next_gateway() -> None:
    with live_gateway(FAAS_DRAIN_SECONDS="0.1") as gateway:
        environment = os.environ | {"FAAS_GATEWAY_URL": gateway.url}
        line = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done"
        follower = subprocess.Popen(
            [sys.executable, "-m", "faas", "run", "-c", line],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert follower.stdout
        assert follower.stdout.readline() == "1\n"
        assert gateway.stop() == 0
        gateway.start()
        rest, _ = follower.communicate(timeout=60)
        assert (follower.returncode, rest) == (0, "2\n3\n4\n5\n6\n")


def _running(gateway: LiveGateway) -> str:
    for _ in range(200):
        found = json.loads(faas(gateway, "executions", "list", "--state", "running", "--json"))
        if found["executions"]:
            return found["executions"][0]["execution_id"]
    raise AssertionError("nothing runs")
