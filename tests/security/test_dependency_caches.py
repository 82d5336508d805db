"""One run's cache against another run, another tenant, and the host."""

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the live gateway is started as root"),
]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveGateway]:
    keys = ",".join(f"t{number}:key-of-t{number}" for number in range(9))
    with live_gateway(FAAS_API_KEYS=keys, FAAS_DEPENDENCY_CACHE_MB="8") as gateway:
        yield gateway


def run(live: LiveGateway, tenant: str, command: str, **options: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer key-of-{tenant}"}
    request = {"command": f"cd $PIP_CACHE_DIR && {command}", "caches": ["pip"], **options}
    with httpx.Client(base_url=live.url, timeout=120, trust_env=False) as client:
        answer = client.post("/api/v1/execute", json=request, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_run_cannot_change_or_remove_what_another_left(live: LiveGateway) -> None:
    run(live, "t0", "mkdir d && echo good > wheel && echo good > d/inner")
    attack = "rm -rf d && echo evil > wheel && mkdir d && echo evil > d/inner && echo new > more"
    assert run(live, "t0", attack)["caches"][0]["added"] == 1
    assert run(live, "t0", "rm -rf * && true")["exit_code"] == 0
    assert run(live, "t0", "cat wheel d/inner more")["stdout"] == "good\ngood\nnew\n"


def test_a_file_cannot_be_hidden_by_a_directory_or_a_link(live: LiveGateway) -> None:
    run(live, "t1", "echo good > wheel; mkdir d; echo good > d/x")
    attack = "rm -r wheel d; mkdir wheel; echo evil > wheel/evil; ln -s /tmp d"
    report = run(live, "t1", attack)["caches"][0]
    assert report["refused"] >= 1
    after = run(live, "t1", "cat d/x; ls -l; cat wheel")
    assert after["stdout"].startswith("good\n"), after
    assert after["stdout"].endswith("good\n"), after


def test_no_link_leads_out_of_it(live: LiveGateway) -> None:
    attack = (
        "ln -s /etc/shadow shadow; ln -s / root; ln -s ../../.. up; mkfifo pipe;"
        " echo x > plain; ln plain hard; python3 -c 'import socket;"
        ' socket.socket(socket.AF_UNIX).bind("socket")\''
    )
    report = run(live, "t2", attack)["caches"][0]
    assert report["added"] == 1
    assert report["refused"] >= 3
    assert run(live, "t2", "ls")["stdout"] in ("plain\n", "hard\n")


def test_a_cache_directory_that_is_a_link_gives_nothing_of_elsewhere(live: LiveGateway) -> None:
    attack = "cd / && rm -rf $PIP_CACHE_DIR && ln -s /usr/share/doc $PIP_CACHE_DIR"
    body = run(live, "t3", attack)
    assert body["caches"][0]["added"] == 0
    assert run(live, "t3", "find . -type f | head")["stdout"] == ""


def test_another_tenant_sees_nothing(live: LiveGateway) -> None:
    run(live, "t4", "echo secret > wheel")
    assert run(live, "t5", "ls -A")["stdout"] == ""
    assert run(live, "t4", "cat wheel")["stdout"] == "secret\n"


def test_a_run_that_may_not_write_leaves_nothing(live: LiveGateway) -> None:
    body = run(live, "t6", "echo evil > wheel", cache_write=False)
    assert body["caches"][0]["added"] == 0
    assert run(live, "t6", "ls -A")["stdout"] == ""


def test_a_flood_is_not_kept_and_costs_only_the_flooder(live: LiveGateway) -> None:
    run(live, "t7", "echo good > wheel")
    body = run(live, "t7", "head -c 30000000 /dev/zero > big")
    assert (body["exit_code"], body["caches"][0]["added"]) == (0, 0)
    assert body["caches"][0]["problem"]
    many = "for a in 1 2 3 4; do mkdir $a; done; seq 3000 | xargs -I{} cp wheel 1/{}"
    assert run(live, "t7", many)["exit_code"] == 0
    assert run(live, "t7", "cat wheel")["stdout"] == "good\n"


def test_what_is_put_in_is_bounded_by_the_runs_own_limits(live: LiveGateway) -> None:
    run(live, "t8", "head -c 3000000 /dev/urandom > wheel")
    small = run(live, "t8", "ls -A; echo ran", disk_mb=4)
    assert small["stdout"] == "ran\n", "a layer larger than its share is left out"
    assert run(live, "t8", "ls -A")["stdout"] == "wheel\n"
