"""`faas instance` against a real gateway process."""

import json
import threading
import time
from pathlib import Path

from .conftest import GatewayProcess


def make(gateway: GatewayProcess, *words: str) -> str:
    done = gateway.faas("instance", "create", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def status(gateway: GatewayProcess, instance: str) -> str:
    return json.loads(gateway.faas("instance", "show", instance, "--json").stdout)["status"]


def test_a_life_of_an_instance(gateway: GatewayProcess) -> None:
    made = make(gateway, "--name", "dev", "--memory", "64")
    ran = gateway.faas("instance", "exec", "-c", "dev", "echo out; echo err >&2; exit 7")
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, b"out\n", b"err\n")
    for verb, after in (
        ("pause", "paused"),
        ("resume", "running"),
        ("stop", "stopped"),
        ("start", "running"),
    ):
        assert gateway.faas("instance", verb, "dev").returncode == 0
        assert status(gateway, made) == after
    assert made.encode() in gateway.faas("instance", "list").stdout
    assert gateway.faas("instance", "delete", "dev").returncode == 0
    gone = gateway.faas("instance", "show", made)
    assert gone.returncode != 0
    assert b"no such instance" in gone.stderr


def test_files_are_copied_in_and_out(gateway: GatewayProcess, tmp_path: Path) -> None:
    made = make(gateway)
    data = bytes(range(256)) * 10_000
    (tmp_path / "in").write_bytes(data)
    put = gateway.faas("instance", "put", str(tmp_path / "in"), f"{made}:/workspace/f")
    assert put.returncode == 0, put.stderr
    assert gateway.faas("instance", "get", f"{made}:/workspace/f").stdout == data
    gateway.faas("instance", "get", f"{made}:/workspace/f", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == data


def test_standard_input_reaches_a_command_in_an_instance(gateway: GatewayProcess) -> None:
    made = make(gateway)
    assert gateway.faas("instance", "exec", "-i", made, "cat", stdin=b"in").stdout == b"in"


def test_a_place_that_is_none_is_a_usage_error(gateway: GatewayProcess) -> None:
    assert gateway.faas("instance", "get", "no-path").returncode == 2


def test_a_port_is_exposed_listed_and_closed(gateway: GatewayProcess) -> None:
    made = make(gateway)
    exposed = gateway.faas("instance", "expose", made, "8000", "--for", "60")
    address = exposed.stdout.decode().strip()
    assert address.startswith(f"http://8000-{made.removeprefix('inst-')}.localhost:")
    assert "?faas_token=" in address
    assert b"instance close" in exposed.stderr
    assert b"8000" in gateway.faas("instance", "ports", made).stdout
    assert gateway.faas("instance", "close", made, "8000").returncode == 0
    assert json.loads(gateway.faas("instance", "ports", made, "--json").stdout) == []
    assert gateway.faas("instance", "close", made, "8000").returncode == 4


def test_limits_and_leases_are_changed(gateway: GatewayProcess) -> None:
    made = make(gateway, "--memory", "64", "--lease", "600")
    resized = gateway.faas("instance", "resize", made, "--memory", "96", "--cpus", "0.5")
    assert b"96 MB and 0.5 cores" in resized.stderr
    assert b"is held until" in gateway.faas("instance", "lease", made, "60").stderr
    assert b"has no lease" in gateway.faas("instance", "lease", made).stderr


def test_changes_are_watched_until_the_instance_is_deleted(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    made = make(gateway)
    (tmp_path / "in").write_bytes(b"x")

    def change() -> None:
        for number in range(6):
            gateway.faas("instance", "put", str(tmp_path / "in"), f"{made}:/workspace/f{number}")
        time.sleep(1)  # two looks
        gateway.faas("instance", "delete", made)

    changing = threading.Thread(target=change)
    changing.start()
    watched = gateway.faas("instance", "watch", f"{made}:/workspace")
    changing.join()
    assert watched.returncode == 0
    assert b"created /workspace/f5" in watched.stdout
