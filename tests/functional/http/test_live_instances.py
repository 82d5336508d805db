"""Instances on the real runtime: files and background processes stay, also over kill -9."""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway
from websockets.sync.client import connect

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the live gateway is started as root"),
]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveGateway]:
    with live_gateway() as gateway:
        yield gateway


class Caller:
    """One gateway and an instance in it, which is deleted at the end."""

    def __init__(self, live: LiveGateway) -> None:
        self.live = live
        self.http = httpx.Client(base_url=live.url, timeout=60, trust_env=False)
        self.id: str = self.post("/api/v1/instances").json()["id"]
        self.at = f"/api/v1/instances/{self.id}"

    def post(self, path: str, **body: Any) -> httpx.Response:
        answer = self.http.post(path, json=body)
        assert answer.status_code < 300, answer.text
        return answer

    def run(self, command: str, **body: Any) -> dict[str, Any]:
        return self.post(f"{self.at}/exec", command=command, **body).json()

    def status(self) -> str:
        return self.http.get(self.at).json()["status"]


@pytest.fixture
def caller(live: LiveGateway) -> Iterator[Caller]:
    opened = Caller(live)
    yield opened
    assert opened.http.delete(opened.at).status_code == 204
    opened.http.close()


def test_two_runs_share_the_files_of_their_instance(caller: Caller) -> None:
    caller.run("echo first run >> /workspace/state.log")
    assert caller.run("cat /workspace/state.log; echo second")["stdout"] == "first run\nsecond\n"


def test_background_processes_live_on_between_commands(caller: Caller) -> None:
    started = caller.run("sleep 1000 & echo $!")
    assert started["reason"] == "exited"
    pid = started["stdout"].strip()
    assert caller.run(f"test -d /proc/{pid} && echo lives")["stdout"] == "lives\n"


def test_an_instance_outlives_a_killed_gateway_with_its_processes(caller: Caller) -> None:
    caller.run("echo kept > /root/file; (while :; do date +%s%N >> /tmp/beat; sleep 0.05; done) &")
    stored = caller.post(
        f"{caller.at}/exec", command="echo one; sleep 2; echo two", wait=False
    ).json()
    caller.live.kill()
    caller.live.start()
    assert caller.status() == "running"
    final = caller.http.get(
        f"/api/v1/executions/{stored['execution_id']}", params={"wait_ms": 20000}
    ).json()
    assert (final["state"], final["stdout"]) == ("finished", "one\ntwo\n")
    assert caller.run("cat /root/file")["stdout"] == "kept\n"
    beats = caller.run("wc -l < /tmp/beat; sleep 1; wc -l < /tmp/beat")["stdout"].split()
    assert int(beats[0]) < int(beats[1])


def test_a_stopped_instance_starts_with_its_files_and_modes(caller: Caller) -> None:
    caller.run("mkdir -p /workspace/d; echo x > /workspace/d/run; chmod 750 /workspace/d/run")
    caller.run("ln -s d/run /workspace/link; echo secret > /root/.token; chmod 600 /root/.token")
    caller.post(f"{caller.at}/stop")
    assert caller.status() == "stopped"
    caller.live.kill()
    caller.live.start()
    caller.post(f"{caller.at}/start")
    seen = caller.run(
        "stat -c %a /workspace/d/run /root/.token; readlink /workspace/link; cat link",
        working_dir="/workspace",
    )
    assert seen["stdout"] == "750\n600\nd/run\nx\n"


def test_a_tar_goes_in_runs_and_comes_out(caller: Caller) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        info = tarfile.TarInfo("run.sh")
        info.size, info.mode = 27, 0o755
        tar.addfile(info, io.BytesIO(b"#!/bin/sh\necho from > made\n"))
    put = caller.http.put(f"{caller.at}/archive?path=/workspace", content=sink.getvalue())
    assert put.status_code == 204, put.text
    assert caller.run("./run.sh", working_dir="/workspace")["exit_code"] == 0
    answer = caller.http.get(f"{caller.at}/archive?path=/workspace")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert "made" in [name.removeprefix("./") for name in tar.getnames()]


def test_the_stream_types_into_a_terminal(caller: Caller) -> None:
    url = f"{caller.live.url.replace('http', 'ws')}/api/v1/containers/{caller.id}/stream"
    heard: list[dict[str, Any]] = []
    with connect(url, proxy=None) as socket:
        socket.send(json.dumps({"type": "exec", "command": "sh", "stdin": True, "tty": True}))
        socket.send(json.dumps({"type": "stdin", "data": "echo a$((40+2))b; exit 5\n"}))
        while not heard or heard[-1]["type"] != "exit":
            heard.append(json.loads(socket.recv(timeout=20)))
    assert heard[-1]["code"] == 5
    assert "a42b" in "".join(e["data"] for e in heard if e["type"] == "stdout")
    begun = next(e for e in heard if e["type"] == "process_event")
    assert begun["pid"] > 1


def test_a_file_of_a_path_through_a_link_stays_in_the_instance(caller: Caller) -> None:
    caller.run("ln -s /etc /workspace/out; ln -s /proc/1/root /workspace/root")
    for path in ("/workspace/out/../../../../etc/shadow", "/workspace/root/etc/shadow"):
        answer = caller.http.get(f"{caller.at}/files", params={"path": path})
        assert answer.status_code in (400, 403, 404, 409), answer.text


def test_a_paused_instance_is_paused_still_after_a_kill(caller: Caller) -> None:
    if caller.http.post(f"{caller.at}/pause").status_code == 501:
        pytest.skip("this host has no freezer")
    caller.post(f"{caller.at}/resume")
    caller.run("(while :; do date +%s%N > /tmp/beat; sleep 0.05; done) > /dev/null 2>&1 &")
    caller.post(f"{caller.at}/pause")
    caller.live.kill()
    caller.live.start()
    assert caller.status() == "paused"
    refused = caller.http.post(f"{caller.at}/exec", json={"command": "true"})
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong_state")
    caller.post(f"{caller.at}/resume")
    assert caller.run("test -s /tmp/beat && echo beats")["stdout"] == "beats\n"
