"""kill -9 of a real gateway while it keeps, restores, forks and pauses memory, again and again: no
half checkpoint, no acknowledged one lost, no output lost or doubled, nothing left behind.

`FAAS_CHAOS_ROUNDS=100` is the long run; `FAAS_CHAOS_SEED` repeats one.
"""

import asyncio
import contextlib
import os
import random
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import pytest
from tests.plugins.criu import criu_prefix
from tests.plugins.docker import docker_engine, script
from tests.plugins.live_gateway import LiveGateway, live_gateway
from tests.plugins.wire_calls import Calls

from faas.images import ImageStore

__all__ = ["docker_engine"]
pytestmark = [pytest.mark.needs_criu, pytest.mark.needs_root]

ROUNDS = int(os.environ.get("FAAS_CHAOS_ROUNDS", "10")) * 2
SEED = int(os.environ.get("FAAS_CHAOS_SEED", str(random.SystemRandom().randrange(1 << 32))))
SECONDS = 60
WINDOW_SECONDS = 0.25
"""Longer than any of the acts takes, so that a kill falls between any two of their steps."""
COUNTING = "i=0; while :; do echo $i; echo $i > /workspace/at; i=$((i+1)); sleep 0.01; done"
SLICE = {"memory": True, "mode": "checkpointed", "checkpoint_after_ms": 60}


@dataclass
class World:
    """What runs through all kills, and what was acknowledged."""

    gateway: LiveGateway
    dice: random.Random
    execution: str = ""
    instance: str = ""
    command: str = ""
    """Of the instance."""
    told: list[tuple[str, int]] = field(default_factory=list)
    """Snapshots that were acknowledged, and the least number each of them goes on from."""

    @property
    def call(self) -> Calls:
        return Calls(self.gateway.url)

    def begin(self) -> None:
        body = {"command": COUNTING, "wait": False, "timeout_ms": 600_000}
        own = {"memory": True, "mode": "ephemeral"}
        self.execution = self.call.post("/api/v1/execute", {**body, **own})["execution_id"]
        self.instance = self.call.post("/api/v1/instances", {"memory": True})["id"]
        path = f"/api/v1/instances/{self.instance}/exec"
        self.command = self.call.post(path, body)["execution_id"]
        for each in (self.execution, self.command):
            self.counts_on(each)

    def counts_on(self, execution: str) -> None:
        """It counts, and never missed a number."""
        seen = len(self.call.logs(execution))
        gives_up_at = time.monotonic() + SECONDS
        while len(said := self.call.logs(execution)) <= seen:
            assert time.monotonic() < gives_up_at, self.call.get(f"/api/v1/executions/{execution}")
            time.sleep(0.01)
        counted = numbers(said)
        assert counted == list(range(len(counted)))

    # Acts: each goes on until it is done or the gateway is dead.

    def checkpoint(self) -> None:
        least = numbers(self.call.logs(self.execution))[-1]
        kept = self.call.post(f"/api/v1/executions/{self.execution}/checkpoint", {})
        self.told.append((kept["id"], least))

    def slice(self) -> None:
        if self.told:
            parent, least = self.dice.choice(self.told)
            kept = self.call.post("/api/v1/execute", {"snapshot_id": parent, **SLICE})
            self.told.append((kept["snapshot_id"], least))

    def fork(self) -> None:
        if self.told:
            parent, least = self.told[-1]
            body = {"branch_from": parent, "children": [SLICE] * 3}
            for child in self.call.post("/api/v1/fork", body):
                self.told.append((child["snapshot_id"], least))

    def pause(self) -> None:
        self.call.post(f"/api/v1/instances/{self.instance}/pause?to=disk")
        self.call.post(f"/api/v1/instances/{self.instance}/resume")

    def remove(self) -> None:
        """Takes away what others stand on, or is refused while they live."""
        if len(self.told) > 1:
            at = self.dice.randrange(len(self.told))
            gone, _ = self.told.pop(at)
            with contextlib.suppress(AssertionError):  # 409
                self.call.delete(f"/api/v1/snapshots/{gone}")

    def ends(self) -> None:
        """Nothing runs on: what was cut off by a kill has ended or was begun anew, and ended."""
        gives_up_at = time.monotonic() + SECONDS
        while running := self.call.get("/api/v1/executions?state=running")["executions"]:
            assert time.monotonic() < gives_up_at, running
            time.sleep(0.1)

    def look(self) -> None:
        """All that must be true after a kill."""
        self.counts_on(self.execution)
        state = self.call.get(f"/api/v1/instances/{self.instance}")
        if state["on_disk"]:
            self.call.post(f"/api/v1/instances/{self.instance}/resume")
        self.counts_on(self.command)
        for snapshot, least in self.told[-2:]:
            again = self.call.post("/api/v1/execute", {"snapshot_id": snapshot, **SLICE})
            assert again["reason"] == "checkpointed"
            goes_on_from = numbers(again["stdout"])
            assert not goes_on_from[1:] or goes_on_from[1] > least
        memory = self.gateway.data_dir / "data" / "memory"
        gives_up_at = time.monotonic() + SECONDS
        # Slices that were under way are taken up, and are kept about now.
        while half := [*memory.glob(".*"), *memory.glob("*/.*")]:
            assert time.monotonic() < gives_up_at, half
            time.sleep(0.02)


def numbers(said: str) -> list[int]:
    """Whole lines; the first may be the end of one that began before."""
    return [int(line) for line in said.rpartition("\n")[0].split() if line.isdecimal()]


def until_dead(world: World, act) -> None:
    with contextlib.suppress(OSError, HTTPException, AssertionError):
        act(world)


ACTS = (World.checkpoint, World.slice, World.fork, World.pause, World.remove)


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_memory_survives_any_kill() -> None:
    survives({"FAAS_RUNTIMES": "embedded"}, window_seconds=WINDOW_SECONDS)


@pytest.mark.needs_docker
@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_memory_of_containers_survives_any_kill(docker_engine) -> None:
    settings = {
        "FAAS_RUNTIMES": "docker",
        "FAAS_DOCKER_HOST": docker_engine,
        "FAAS_DEFAULT_IMAGE": "alpine",
    }
    survives(settings, window_seconds=3 * WINDOW_SECONDS)


def survives(settings: dict[str, str], *, window_seconds: float) -> None:
    prefix = criu_prefix()
    if prefix is None or os.geteuid() != 0:
        pytest.skip("needs root and CRIU: scripts/criu.sh .faas/criu")
    print(f"FAAS_CHAOS_SEED={SEED}")
    settings |= {"FAAS_CRIU_PREFIX": str(prefix), "FAAS_DISABLE_PREWARM": "1"}
    with live_gateway(**settings) as gateway:
        if "FAAS_DEFAULT_IMAGE" in settings:
            images = ImageStore(gateway.data_dir / "data" / "images")
            asyncio.run(images.import_("alpine", Path(script("test_images.sh", "alpine"))))
        world = World(gateway, random.Random(SEED))
        world.begin()
        world.checkpoint()
        for turn in range(ROUNDS):
            acts = [ACTS[turn % len(ACTS)], world.dice.choice(ACTS)]
            workers = [threading.Thread(target=until_dead, args=(world, act)) for act in acts]
            for worker in workers:
                worker.start()
            time.sleep(world.dice.uniform(0, window_seconds))
            gateway.kill()
            for worker in workers:
                worker.join(SECONDS)
                assert not worker.is_alive()
            gateway.start()
            world.look()
        world.call.post(f"/api/v1/executions/{world.execution}/cancel")
        world.call.delete(f"/api/v1/instances/{world.instance}")
        world.ends()
