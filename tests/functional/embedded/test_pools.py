"""Warm pools of real sandboxes, through a real gateway."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.plugins.live_gateway import LiveGateway, live_gateway

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the live gateway is started as root"),
]


@pytest.fixture
def live() -> Iterator[LiveGateway]:
    with live_gateway(FAAS_POOL_SIZE="3") as gateway:
        yield gateway


def client_of(gateway: LiveGateway) -> httpx.Client:
    return httpx.Client(base_url=gateway.url, timeout=120, trust_env=False)


def pool(client: httpx.Client) -> dict[str, Any]:
    rows = client.get("/api/v1/pools").json()["pools"]
    return next(row for row in rows if row["image"] == "host")


def test_prewarming_answers_when_they_are_there(live: LiveGateway) -> None:
    with client_of(live) as client:
        answer = client.post("/api/v1/prewarm", json={"image": "host", "count": 5})
        body = answer.json()
        assert answer.status_code == 200, body
        assert (body["runtime"], body["complete"], body["ready"]) == ("embedded", True, 8)
        row = pool(client)
        assert (row["kept"], row["why"]) == (8, "5 pre-warmed")
        alive = [path for path in (live.data_dir / "data" / "run").iterdir() if path.is_dir()]
        sandboxes = [path for path in alive if path.name.startswith("sbx-")]
        assert len(sandboxes) == 8


def test_no_sandbox_is_handed_out_twice_under_load(live: LiveGateway) -> None:
    """Each command leaves a mark where the next one in the same sandbox would find it."""
    script = "ls /tmp; echo mark > /tmp/mark"

    def one(client: httpx.Client) -> dict[str, Any]:
        answer = client.post("/api/v1/execute", json={"command": script})
        assert answer.status_code == 200, answer.text
        return answer.json()

    with client_of(live) as client, ThreadPoolExecutor(16) as threads:
        client.post("/api/v1/prewarm", json={"image": "host", "count": 20})
        answers = list(threads.map(lambda _: one(client), range(150)))
        assert {answer["stdout"] for answer in answers} == {""}
        assert len({answer["container_id"] for answer in answers}) == 150
        detailed = client.get("/metrics").text
        warm = [line for line in detailed.splitlines() if 'start="warm"' in line]
        assert warm, "none came from the pool, so nothing was shown"


def test_a_pre_warming_outlives_kill_9(live: LiveGateway) -> None:
    with client_of(live) as client:
        client.post("/api/v1/prewarm", json={"image": "host", "count": 4})
    live.kill()
    live.start()
    with client_of(live) as client:
        gives_up_at = time.monotonic() + 60
        while pool(client)["ready"] < 7 and time.monotonic() < gives_up_at:
            time.sleep(0.05)
        row = pool(client)
        assert (row["kept"], row["ready"]) == (7, 7)
        directories = (live.data_dir / "data" / "run").iterdir()
        sandboxes = [path for path in directories if path.name.startswith("sbx-")]
        assert len(sandboxes) == 7, "those of the dead gateway are gone"
