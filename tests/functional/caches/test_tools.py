"""Dependency caches with the real npm, cargo and go, in both runtimes.

Their registry is on the sandbox's own loopback and counts what it is asked for.
"""

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from tests.plugins.docker import REPOSITORY, docker_engine, script
from tests.plugins.live_gateway import LiveGateway, live_gateway
from tests.plugins.package_servers import PACKAGINGS, RUN, Packaging, go

__all__ = ["docker_engine"]
pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_docker,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="the live gateway is started as root"),
]

SPOIL = 'find $CACHE -type f | while read file; do echo spoiled > "$file"; done'


@dataclass(frozen=True)
class Ran:
    code: int
    said: str
    requests: int
    report: dict[str, Any]


@pytest.fixture(scope="module")
def live(docker_engine: str) -> Iterator[LiveGateway]:
    archive = REPOSITORY / script("test_images.sh", "tools")
    keys = ",".join(f"{tenant}:key-of-{tenant}" for tenant in ("embedded-a", "embedded-b",
                                                               "docker-a", "docker-b"))  # fmt: skip
    with live_gateway(
        FAAS_API_KEYS=keys, FAAS_DOCKER_HOST=docker_engine, FAAS_DISABLE_PREWARM="true"
    ) as gateway:
        command = [sys.executable, "-m", "faas", "images", "import", "tools:1", str(archive)]
        where = {**os.environ, "FAAS_DATA_DIR": str(gateway.data_dir / "data")}
        subprocess.run(command, check=True, env=where, capture_output=True)
        yield gateway


def use(
    live: LiveGateway, runtime: str, packaging: Packaging, tenant: str = "a", after: str = "true"
) -> Ran:
    """Let a tenant use a tool once, with its cache."""
    request = {
        "command": f"{RUN.rpartition('exit')[0]} {after}; exit $code",
        "image": "tools:1",
        "runtime": runtime,
        "archive_base64": base64.b64encode(packaging.archive()).decode(),
        "working_dir": "/workspace",
        "env_vars": {
            "USE": packaging.use,
            "HOME": "/workspace",
            "CACHE": f"/tmp/.faas-caches/{packaging.tool}",
        },
        "timeout_ms": 120_000,
        "memory_mb": 1024,
        "disk_mb": 256,
        "caches": [packaging.tool],
    }
    headers = {"Authorization": f"Bearer key-of-{runtime}-{tenant}"}
    with httpx.Client(base_url=live.url, timeout=180, trust_env=False) as client:
        answer = client.post("/api/v1/execute", json=request, headers=headers)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["runtime_used"] == runtime
    said = body["stdout"] + body["stderr"]
    requests = re.search(r"requests: (\d+)", said)
    assert requests, said
    return Ran(body["exit_code"], said, int(requests[1]), body["caches"][0])


@pytest.mark.parametrize("runtime", ["embedded", "docker"])
@pytest.mark.parametrize("tool", PACKAGINGS)
def test_what_was_fetched_once_is_fetched_no_more_by_that_tenant(
    live: LiveGateway, runtime: str, tool: str
) -> None:
    packaging = PACKAGINGS[tool]
    first = use(live, runtime, packaging)
    assert (first.code, first.requests > 0) == (0, True), first
    assert "it says 42" in first.said
    assert first.report["added"] > 0
    again = use(live, runtime, packaging, after=SPOIL)
    assert (again.code, again.requests) == (0, 0), again
    assert "it says 42" in again.said
    after_spoiling = use(live, runtime, packaging)
    assert (after_spoiling.code, after_spoiling.requests) == (0, 0), after_spoiling
    assert "it says 42" in after_spoiling.said, "a run changed what another one kept"
    stranger = use(live, runtime, packaging, tenant="b")
    assert (stranger.code, stranger.requests) == (0, first.requests), stranger


def test_a_module_that_a_run_forged_is_not_believed_by_go(live: LiveGateway) -> None:
    honest = go("v1.1.0")
    forged = replace(honest, served=go("v1.1.0", answer=13).served)
    module = "example.test/demo/@v"
    # What go would have written after a download, with the hash that go.sum promises.
    promised = honest.project["go.sum"].split()[2]
    plant = (
        f"mkdir -p $GOMODCACHE/cache/download/{module};"
        f" cp ../registry/{module}/* $GOMODCACHE/cache/download/{module};"
        f" printf %s {promised} > $GOMODCACHE/cache/download/{module}/v1.1.0.ziphash"
    )
    attack = use(live, "embedded", replace(forged, use=plant))
    assert attack.report["added"] > 0
    after = use(live, "embedded", honest)
    assert "it says 13" not in after.said, after
    assert "checksum mismatch" in after.said, after
