"""The real gateway, the real sandbox: what a stranger's request gets back."""

import base64
import io
import os
import tarfile
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
    with live_gateway() as gateway:
        yield gateway


@pytest.fixture
def client(live: LiveGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=60, trust_env=False) as opened:
        yield opened


def run(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/execute", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_health_comes_from_a_probe_that_ran_something(client: httpx.Client) -> None:
    body = client.get("/health").json()
    assert (body["status"], body["embedded"]) == ("healthy", True)
    assert body["components"]["embedded"]["detail"]


def test_output_that_is_not_utf8_comes_whole(client: httpx.Client) -> None:
    body = run(client, command=r"printf '\377\000ok'")
    assert base64.b64decode(body["stdout_base64"]) == b"\xff\x00ok"
    assert body["stdout"] == "\ufffd\x00ok"


def test_a_payload_of_every_byte_reaches_the_command(client: httpx.Client) -> None:
    every = bytes(range(256)) * 64
    body = run(client, command=["cat"], payload=list(every))
    assert base64.b64decode(body["stdout_base64"]) == every


def test_ten_gigabytes_of_output_are_cut_and_the_answer_says_so(client: httpx.Client) -> None:
    body = run(
        client,
        command="head -c 10000000000 /dev/zero",
        output_limit=100_000,
        timeout_ms=60_000,
    )
    assert len(body["stdout"]) == 100_000
    assert (body["stdout_truncated"], body["stdout_total_bytes"]) == (True, 10_000_000_000)
    assert (body["exit_code"], body["stderr_truncated"]) == (0, False)


def test_a_command_that_ignores_sigterm_ends_at_its_time(client: httpx.Client) -> None:
    body = run(client, command="trap '' TERM; echo on; sleep 600", timeout_ms=300)
    assert (body["reason"], body["exit_code"], body["stdout"]) == ("timed_out", 124, "on\n")


def test_a_signal_is_told_apart_from_an_exit(client: httpx.Client) -> None:
    body = run(client, command="kill -9 $$")
    assert (body["reason"], body["signal"], body["exit_code"]) == ("signalled", 9, 137)


def test_a_memory_bomb_is_told(client: httpx.Client) -> None:
    body = run(client, command="head -c 200m /dev/zero | tail", memory_mb=32)
    assert body["exit_code"] != 0
    assert body["reason"] in ("out_of_memory", "exited")


def test_a_fork_bomb_ends_at_its_time(client: httpx.Client) -> None:
    body = run(client, command=":(){ :|:& };:; sleep 60", pids_max=32, timeout_ms=1000)
    assert body["reason"] in ("exited", "timed_out", "signalled")
    assert run(client, command="echo alive")["stdout"] == "alive\n"


def test_files_and_a_tar_are_there_before_the_command_starts(client: httpx.Client) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo("lib/data.txt")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"tar\n"))
    body = run(
        client,
        command="./run.sh",
        working_dir="/workspace",
        files=[{"path": "run.sh", "content": "#!/bin/sh\ncat lib/data.txt", "mode": "0755"}],
        archive_base64=base64.b64encode(packed.getvalue()).decode(),
    )
    assert (body["exit_code"], body["stdout"]) == (0, "tar\n")


def test_a_working_directory_that_is_not_there_is_an_exit_126(client: httpx.Client) -> None:
    body = run(client, command="true", working_dir="/no/such/place")
    assert (body["exit_code"], "/no/such/place" in body["stderr"]) == (126, True)


def test_a_program_that_is_not_there_is_an_exit_127(client: httpx.Client) -> None:
    assert run(client, command=["no-such-program"])["exit_code"] == 127


def test_an_image_that_is_not_there_is_a_404_that_says_how_to_get_one(client: httpx.Client) -> None:
    answer = client.post("/api/v1/execute", json={"command": "true", "image": "no/such:image"})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (404, "image_not_found")
    assert problem["hint"]


def test_the_originals_images_run_on_a_bare_host_and_say_so(client: httpx.Client) -> None:
    body = run(client, command="echo hi", image="alpine:latest")
    assert (body["stdout"], body["image"], body["image_digest"]) == (
        "hi\n",
        "alpine:latest",
        "host",
    )
    images = client.get("/api/v1/images").json()
    assert images["aliases"]["alpine:latest"] == "host"


def test_environment_and_user_reach_the_command(client: httpx.Client) -> None:
    body = run(client, command="echo $A $(id -u):$(id -g)", env_vars=["A=x y"], user="1000:1001")
    assert body["stdout"] == "x y 1000:1001\n"
