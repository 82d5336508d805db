"""Commands that need no gateway: images, doctor, bench, config."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def faas(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if "FAAS_" not in key}
    return subprocess.run(
        [sys.executable, "-m", "faas", *words],
        capture_output=True,
        text=True,
        env=environment | variables,
        check=False,
        timeout=120,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "bin").mkdir(parents=True)
    (tmp_path / "tree" / "bin" / "tool").write_text("#!/bin/sh\n")
    return tmp_path / "tree"


def test_an_image_is_imported_listed_and_removed(tmp_path: Path, tree: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    imported = faas("images", "import", "mine:1", str(tree), "--json", *data)
    digest = json.loads(imported.stdout)["digest"]
    listed = json.loads(faas("images", "list", "--json", *data).stdout)["images"]
    assert [(image["reference"], image["digest"]) for image in listed] == [
        ("host", "host"),
        ("mine:1", digest),
    ]
    assert faas("images", "remove", "mine:1", *data).returncode == 0
    assert faas("images", "remove", "mine:1", *data).returncode == 4


def test_aliases_are_listed_until_an_image_has_the_name(tmp_path: Path, tree: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    assert "alias of host" in faas("images", "list", *data).stdout
    faas("images", "import", "alpine:latest", str(tree), *data)
    line = next(
        line
        for line in faas("images", "list", *data).stdout.splitlines()
        if line.startswith("alpine:latest")
    )
    assert "directory" in line


def test_a_name_that_is_none_is_refused(tmp_path: Path, tree: Path) -> None:
    done = faas("images", "import", "No Name", str(tree), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_doctor_says_what_it_ran() -> None:
    done = faas("doctor", "--json", FAAS_RUNTIMES="fake")
    found = {item["name"]: item for item in json.loads(done.stdout)}
    assert done.returncode == 0
    assert found["runtime fake"]["is_well"]
    assert {"kernel", "cgroups", "data directory", "gateway"} <= set(found)


def test_doctor_exits_with_8_when_nothing_works() -> None:
    done = faas("doctor", FAAS_RUNTIMES="hovercraft")
    assert done.returncode == 8
    assert "hovercraft" in done.stdout


def test_doctor_leaves_nothing_behind(tmp_path: Path) -> None:
    faas("doctor", FAAS_RUNTIMES="fake", TMPDIR=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="the network egress is root's")
def test_doctor_really_gives_a_sandbox_the_network_egress() -> None:
    done = faas("doctor", "--json", FAAS_RUNTIMES="embedded")
    found = {item["name"]: item for item in json.loads(done.stdout)}
    assert found["network egress"]["is_well"], found["network egress"]
    assert found["network egress"]["duration_ms"] > 0
    links = subprocess.run(["ip", "-o", "link"], stdout=-1, text=True, check=False).stdout
    without = faas("doctor", "--json", FAAS_RUNTIMES="embedded", PATH="/nonexistent")
    told = {item["name"]: item for item in json.loads(without.stdout)}["network egress"]
    assert (told["is_well"], told["hint"]) == (False, "apt-get install nftables")
    after = subprocess.run(["ip", "-o", "link"], stdout=-1, text=True, check=False).stdout
    assert after.count("\n") <= links.count("\n")


@pytest.mark.parametrize(
    ("host", "told"), [("127.0.0.1", "ss -ltnp"), ("192.0.2.7", "an address of this machine")]
)
def test_a_port_that_cannot_be_had_is_told_with_what_helps(
    tmp_path: Path, host: str, told: str
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        place = ("--port", port, "--data-dir", str(tmp_path / "data"))
        done = faas("serve", "--host", host, *place, FAAS_ALLOW_INSECURE="true")
    assert done.returncode == 8
    assert f"cannot listen on {host}:{port}" in done.stderr
    assert told in done.stderr


def test_bench_measures_the_same_thing_three_ways(tmp_path: Path) -> None:
    done = faas("bench", "--rounds", "5", "--json", FAAS_RUNTIMES="fake", TMPDIR=str(tmp_path))
    found = json.loads(done.stdout)
    assert list(found) == ["from the pool", "on demand", "bare fork+exec on this host"]
    assert all(times["min_ms"] > 0 for times in found.values())
    assert list(tmp_path.iterdir()) == []


def test_config_masks_secrets_and_names_origins() -> None:
    done = faas("config", "--json", FAAS_API_KEYS="very-secret", FAAS_PORT="81")
    found = json.loads(done.stdout)
    assert "very-secret" not in done.stdout
    assert found["port"] == {"value": "81", "origin": "FAAS_PORT"}
