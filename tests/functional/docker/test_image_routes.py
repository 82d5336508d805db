"""Images over HTTP and by the command line: a real gateway, a real Engine, a real registry."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.docker.test_engine_images import base, context, publish
from tests.plugins.docker import docker_engine
from tests.plugins.live_gateway import LiveGateway, live_gateway
from tests.plugins.registry import PASSWORD, Registry, needs_registry, private_registry

from faas.cli.build_context import Ignore, write
from faas.errors import InvalidArgumentError, TooLargeError
from faas_sdk import ImageNotFoundError as SdkNotFoundError
from faas_sdk import InvalidImageError, SyncFaaSClient
from faas_sdk import WrongStateError as SdkWrongStateError

__all__ = ["base", "docker_engine", "private_registry"]
pytestmark = [pytest.mark.needs_docker, pytest.mark.timeout(240), needs_registry]

Answer = tuple[int, bytes]


def ask(
    gateway: LiveGateway, method: str, path: str, body: object = None, **headers: str
) -> Answer:
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
    request = urllib.request.Request(
        gateway.url + path, data=data, method=method, headers={"Content-Type": kind, **headers}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def events(data: bytes) -> list[tuple[str, dict[str, object]]]:
    found = []
    for block in data.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


@pytest.fixture
def gateway(docker_engine: str, private_registry: Registry) -> Iterator[LiveGateway]:
    settings = {
        "FAAS_RUNTIMES": "docker", "FAAS_DOCKER_HOST": docker_engine, "FAAS_PARKED_MAX": "0",
        "FAAS_DISABLE_PREWARM": "true", "FAAS_PULL_REGISTRIES": private_registry.address,
    }  # fmt: skip
    with live_gateway(**settings) as one:
        yield one


async def test_a_private_image_from_its_pull_to_its_end(
    gateway: LiveGateway, private_registry: Registry, docker_engine: str, base: str
) -> None:
    digest = await publish(docker_engine, private_registry, base, "app:1", "one")
    name = private_registry.name("app:1")
    auth = {"username": "faas", "password": PASSWORD}
    await asyncio.to_thread(_walk, gateway, name, digest, auth)
    log = gateway.log.read_bytes()
    kept = [path for path in gateway.data_dir.rglob("*") if path.is_file()]
    token = base64.b64encode(f"faas:{PASSWORD}".encode())
    for secret in (PASSWORD.encode(), token):
        assert secret not in log
        assert [path for path in kept if secret in path.read_bytes()] == []


def _walk(gateway: LiveGateway, name: str, digest: str, auth: dict[str, str]) -> None:
    run = {"command": ["/bin/cat", "/mark"], "image": name, "runtime": "docker"}
    status, body = ask(gateway, "POST", "/api/v1/execute", run)
    assert (status, json.loads(body)["code"]) == (403, "permission_denied")
    run |= {"wait": False, "registry_auth": auth, "pull_policy": "always"}
    status, body = ask(gateway, "POST", "/api/v1/execute", run)
    assert status == 202
    stream = f"/api/v1/logs/{json.loads(body)['execution_id']}/stream"
    told = events(ask(gateway, "GET", stream)[1])
    assert [kind for kind, _ in told if kind != "image"] == ["stdout", "exit"]
    assert any(data.get("layer") for kind, data in told if kind == "image")
    path, asked = "/api/v1/images/pull", {"image": name, "runtime": "docker"}
    status, body = ask(gateway, "POST", path, asked | {"registry_auth": auth})
    assert (status, json.loads(body)["digest"]) == (200, digest)
    told = events(ask(gateway, "POST", path, asked, Accept="text/event-stream")[1])
    assert told[-1][0] == "error"
    assert told[-1][1]["code"] == "permission_denied"
    status, body = ask(gateway, "POST", path, {"image": name.replace("app", "nobody")} | {
        "runtime": "docker", "registry_auth": auth, "timeout_ms": 60_000})  # fmt: skip
    assert (status, json.loads(body)["code"]) == (404, "image_not_found")
    assert json.loads(body)["hint"]
    listed = json.loads(ask(gateway, "GET", "/api/v1/images")[1])["images"]
    assert {one["runtime"] for one in listed if one["reference"] == name} == {"docker"}
    for _ in range(100):
        status, _body = ask(gateway, "DELETE", f"/api/v1/images?name={name}")
        if status != 409:
            break
    assert status == 204
    assert ask(gateway, "DELETE", f"/api/v1/images?name={name}")[0] == 404


def test_an_image_is_built_and_imported_over_http(gateway: LiveGateway, base: str) -> None:
    name = "faas-test-http:1"
    tar = context(Dockerfile=f"FROM {base}\nCOPY f /mark\n", f="built")
    path = f"/api/v1/images/build?name={name}&network=none"
    told = events(ask(gateway, "POST", path, tar, Accept="text/event-stream")[1])
    assert {kind for kind, _ in told} == {"output", "done"}
    run = {"command": ["/bin/cat", "/mark"], "image": name, "runtime": "docker"}
    answer = json.loads(ask(gateway, "POST", "/api/v1/execute", run)[1])
    assert (answer["stdout"], answer["image_digest"]) == ("built", told[-1][1]["digest"])
    bad = context(Dockerfile=f"FROM {base}\nRUN false\n")
    status, body = ask(gateway, "POST", path, bad)
    assert (status, json.loads(body)["code"]) == (400, "invalid_image")
    status, body = ask(gateway, "POST", "/api/v1/images/import?name=faas-test-in:1", tar)
    assert (status, json.loads(body)["source"]) == (200, "tar")
    for wrong in ("/api/v1/images/build", f"{path}&args=x", f"{path}&dockerfile=../x"):
        assert ask(gateway, "POST", wrong, tar)[0] == 400


def test_the_sdk_builds_runs_and_removes_and_a_run_says_when_to_pull(
    gateway: LiveGateway, base: str
) -> None:
    name, words = "faas-test-sdk:1", list[str]()
    tar = context(Dockerfile=f"FROM {base}\nRUN echo $WHO\nCOPY f /mark\n", f="sdk")
    with SyncFaaSClient(gateway.url) as client:
        made = client.build_image(name, tar, network="none", on_output=words.append)
        assert "".join(words).startswith("Step 1/3")
        assert made["digest"] in {one["digest"] for one in client.list_images()}
        run = client.execute(["/bin/cat", "/mark"], image=name, pull_policy="never")
        assert (run.stdout, run.image_digest) == ("sdk", made["digest"])
        with pytest.raises(InvalidImageError, match="false"):
            client.build_image(name, context(Dockerfile=f"FROM {base}\nRUN false\n"))
        argv = [sys.executable, "-m", "faas", "run", "--runtime", "docker", "--image", name]
        for policy, code in (("never", 0), ("missing", 0), ("always", 125)):
            done = subprocess.run(
                [*argv, "--url", gateway.url, "--pull", policy, "--", "/bin/cat", "/mark"],
                capture_output=True,
                check=False,
            )
            assert (done.returncode, done.stdout) == (code, b"" if code else b"sdk"), done.stderr
        for _ in range(100):
            try:
                client.remove_image(name, runtime="docker")
                break
            except SdkWrongStateError:
                time.sleep(0.1)
        with pytest.raises(SdkNotFoundError):
            client.remove_image(name, runtime="docker")


def test_the_command_line_builds_lists_and_removes(
    docker_engine: str, base: str, tmp_path: Path
) -> None:
    place = tmp_path / "app"
    place.mkdir()
    (place / "Dockerfile").write_text(f"FROM {base}\nARG WHO\nCOPY . /app\nRUN echo $WHO > /who\n")
    (place / ".dockerignore").write_text("*.log\n")
    (place / "a.log").write_text("left out")
    (place / "main").write_text("taken")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FAAS_")}
    environment = plain | {"FAAS_DOCKER_HOST": docker_engine, "FAAS_DATA_DIR": str(tmp_path / "d")}

    def faas(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "faas", "images", *arguments]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    name = "faas-test-cli:1"
    built = faas("build", "-t", name, "--build-arg", "WHO=me", "--network", "none", str(place))
    assert built.returncode == 0, built.stderr
    assert "Step 1/" in built.stderr
    argv = ["docker", "-H", docker_engine, "run", "--rm", "--network=none", name, "/bin/sh", "-c"]
    said = subprocess.run([*argv, "cat /who; ls /app"], stdout=-1, text=True, check=True).stdout
    assert said.split() == ["me", "Dockerfile", "main"]
    assert name in faas("list", "--runtime", "docker").stdout
    assert faas("remove", "--runtime", "docker", name).returncode == 0
    assert faas("remove", "--runtime", "docker", name).returncode != 0


def test_a_dockerignore_is_read_as_docker_reads_it(tmp_path: Path) -> None:
    file = tmp_path / ".dockerignore"
    file.write_text("# no\n*.log\n**/cache\nbuild\n!build/keep\na?c\n/top\n")
    ignore = Ignore.read(file)
    out = {"x.log", "cache", "a/b/cache/f", "build", "build/x", "abc", "top"}
    kept = {"a/x.log", "build/keep", "build/keep/f", "abbc", "a/top", "x.logs"}
    assert {path for path in out | kept if ignore.leaves_out(path)} == out


def test_a_context_without_a_dockerfile_or_too_large_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "app"
    place.mkdir()
    with pytest.raises(InvalidArgumentError, match="Dockerfile"):
        write(place, tmp_path / "c", dockerfile="Dockerfile", bytes_max=10)
    (place / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(TooLargeError):
        write(place, tmp_path / "c", dockerfile="Dockerfile", bytes_max=10)
