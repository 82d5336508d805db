"""The command line against a real gateway process."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import GatewayProcess


def test_run_passes_output_and_exit_code_through(gateway: GatewayProcess) -> None:
    done = gateway.faas("run", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_run_passes_standard_input_on(gateway: GatewayProcess) -> None:
    data = bytes(range(256)) * 1000
    assert gateway.faas("run", "-i", "--", "cat", stdin=data).stdout == data


def test_run_as_json_gives_the_whole_result(gateway: GatewayProcess) -> None:
    result = json.loads(gateway.faas("run", "--json", "--", "echo", "hi").stdout)
    assert (result["stdout"], result["exit_code"], result["state"]) == ("hi\n", 0, "finished")


def test_a_refused_request_is_125_with_the_gateways_words(gateway: GatewayProcess) -> None:
    done = gateway.faas("run", "--timeout", "99999999", "--", "true")
    assert done.returncode == 125
    assert done.stderr.startswith(b"error: ")


def test_an_environment_without_a_value_is_a_usage_error(gateway: GatewayProcess) -> None:
    done = gateway.faas("run", "-e", "JUSTANAME", "--", "true")
    assert done.returncode == 2
    assert b"is not NAME=VALUE" in done.stderr


def test_a_run_says_when_its_image_is_pulled(gateway: GatewayProcess) -> None:
    done = gateway.faas("run", "--pull", "never", "--image", "faas-nobody:1", "--", "true")
    assert done.returncode == 125
    assert b"faas-nobody:1" in done.stderr
    assert gateway.faas("run", "--pull", "missing", "--", "true").returncode == 0
    assert gateway.faas("run", "--pull", "sometimes", "--", "true").returncode == 2


def test_a_detached_run_is_found_again(gateway: GatewayProcess) -> None:
    execution_id = gateway.faas("run", "-d", "--", "echo", "later").stdout.decode().strip()
    assert gateway.faas("logs", "-f", execution_id).stdout == b"later\n"
    assert gateway.faas("logs", execution_id).stdout == b"later\n"
    listed = json.loads(gateway.faas("executions", "list", "--json").stdout)
    assert execution_id in [item["execution_id"] for item in listed["executions"]]
    shown = json.loads(gateway.faas("executions", "show", "--json", execution_id).stdout)
    assert shown["stdout"] == "later\n"


def test_the_list_is_plain_columns(gateway: GatewayProcess) -> None:
    gateway.faas("run", "--", "echo", "hi")
    lines = gateway.faas("executions").stdout.decode().splitlines()
    assert lines[0].split() == ["ID", "STATE", "EXIT", "MS", "CREATED", "COMMAND"]
    assert lines[1].startswith("exec-")


def test_a_running_execution_can_be_cancelled(gateway: GatewayProcess) -> None:
    execution_id = gateway.faas("run", "-d", "--", "sleep", "60").stdout.decode().strip()
    done = gateway.faas("executions", "cancel", execution_id)
    assert done.returncode == 0
    assert b"cancelled" in done.stderr


def test_an_unknown_execution_is_exit_code_4(gateway: GatewayProcess) -> None:
    done = gateway.faas("executions", "show", "exec-01k9zjv3f8q5r2m7c4x6w0n1ab")
    assert done.returncode == 4
    assert b"error: " in done.stderr


def test_interrupting_a_run_cancels_it(gateway: GatewayProcess) -> None:
    # A suite that a shell started in the background has SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = subprocess.Popen(
            [sys.executable, "-m", "faas", "run", "-c", "echo up; sleep 60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=gateway.environment,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with running:
        assert running.stdout
        assert running.stdout.readline() == b"up\n"
        running.send_signal(signal.SIGINT)
        _, words = running.communicate(timeout=30)
    assert running.returncode == 130
    assert b"cancelling" in words
    newest = json.loads(gateway.faas("executions", "list", "--json").stdout)["executions"][0]
    assert newest["reason"] == "cancelled"


def test_the_first_screen_says_where_what_and_how(gateway: GatewayProcess) -> None:
    assert f"listens on {gateway.url}" in gateway.first_screen
    assert "  fake " in gateway.first_screen
    assert f"curl {gateway.url}/api/v1/execute" in gateway.first_screen


def test_a_second_gateway_on_the_same_data_is_refused(tmp_path: Path) -> None:
    first = GatewayProcess(tmp_path)
    try:
        done = first.faas("serve", "--port", "0", "--data-dir", str(tmp_path))
        assert done.returncode == 5
        assert f"pid {first.process.pid}".encode() in done.stderr
    finally:
        first.stop()


def test_a_port_in_use_is_told_plainly(gateway: GatewayProcess, tmp_path: Path) -> None:
    port = gateway.url.rpartition(":")[2]
    done = gateway.faas("serve", "--port", port, "--data-dir", str(tmp_path))
    assert done.returncode == 8
    assert b"Address already in use" in done.stderr
    assert b"faas serve --port 0" in done.stderr


def test_a_key_is_asked_for_when_there_is_one(tmp_path: Path) -> None:
    running = GatewayProcess(tmp_path, "--set", "api_keys=me:secret-key")
    try:
        assert running.faas("executions").returncode == 3
        running.environment["FAAS_API_KEY"] = "secret-key"
        assert running.faas("executions").returncode == 0
        assert "secret-key" not in running.first_screen
    finally:
        running.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(tmp_path: Path, number: int) -> None:
    running = GatewayProcess(tmp_path)
    assert running.faas("run", "--", "true").returncode == 0
    code, rest = running.stop(number)
    assert code == 0, rest
    assert '"left_running": 0' in rest


def test_draining_waits_for_what_runs(tmp_path: Path) -> None:
    running = GatewayProcess(tmp_path)
    client = subprocess.Popen(
        [sys.executable, "-m", "faas", "run", "-c", "echo up; sleep 1; echo done"],
        stdout=subprocess.PIPE,
        env=running.environment,
    )
    assert client.stdout
    assert client.stdout.readline() == b"up\n"
    code, rest = running.stop()
    out, _ = client.communicate(timeout=30)
    assert (code, client.returncode, out) == (0, 0, b"done\n"), rest


def test_pre_warming_says_what_is_ready_and_pools_shows_it(gateway):
    done = gateway.faas("prewarm", "tools:1", "2")
    assert done.returncode == 4, "an image that is not here"
    done = gateway.faas("prewarm", "host", "3", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["requested"], answer["complete"]) == (3, True)
    shown = gateway.faas("pools").stdout.decode()
    assert "host" in shown
    assert "3 pre-warmed" in shown
    pools = json.loads(gateway.faas("pools", "--json").stdout)["pools"]
    assert pools[0]["kept"] == answer["target"]
    assert gateway.faas("prewarm", "host", "0").returncode == 0
    assert gateway.faas("prewarm", "host", "many").returncode == 2


def test_a_demanded_isolation_is_refused_not_lowered(gateway):
    done = gateway.faas("run", "--isolation", "gvisor", "--", "true")
    assert done.returncode == 125
    assert b"isolates at least by gvisor" in done.stderr
    assert gateway.faas("run", "--isolation", "none", "--", "true").returncode == 0
    made = gateway.faas("instance", "create", "--isolation", "userns")
    assert made.returncode == 7


def test_a_dependency_cache_is_named_on_the_command_line(gateway):
    done = gateway.faas("run", "--cache", "pip", "--json", "--", "true")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["caches"][0]["name"] == "pip"
    assert gateway.faas("run", "--cache", "maven", "--", "true").returncode == 125
