"""Memory checkpoints by CRIU: taken, restored and forked, whole HTTP round trips.

The program waits for a file that a restored one is given: so a restore is measured from the request
to the end of a program that ran on. Leaves a report; needs root and `scripts/criu.sh .faas/criu`.
"""

import os
import time

from benchmarks.harness import ROOT, Client, Report, Samples, gateway, measure

_WAIT = "import os, time\nwhile not os.path.exists('/tmp/go'): time.sleep(0.001)\n"
_HEAP = "heap = [os.urandom(1 << 20) for _ in range(100)]\n"
_SMALL = "while [ ! -e /tmp/go ]; do sleep 0.005; done"
_SECONDS_TO_BEGIN = 1.0
"""Until it has its memory or files, and waits."""
_GO = [{"path": "/tmp/go", "content": ""}]
_FILES = "head -c 100000000 /dev/urandom > /workspace/large; "
_RESUME = {"memory": True, "mode": "branched", "files": _GO, "memory_mb": 512, "disk_mb": 512}


def run(count: int) -> Report:
    """Small process, Python with 100 MB, and small process beside 100 MB of files: each taken,
    restored, forked ten times."""
    prefix = os.environ.get("FAAS_CRIU_PREFIX") or str(ROOT / ".faas" / "criu")
    report = Report("Memory checkpoints, embedded runtime, whole HTTP round trip")
    with gateway(pool_size=0, criu_prefix=prefix, runtimes="embedded", running_max=16) as target:
        client = target.client()
        small = _one(client, "sh", ["/bin/sh", "-c", _SMALL], min(count, 40))
        large = _one(
            client, "python, 100 MB", ["/usr/bin/python3", "-c", "import os\n" + _HEAP + _WAIT],
            min(count, 15),
        )  # fmt: skip
        files = _one(
            client, "sh, 100 MB of files", ["/bin/sh", "-c", _FILES + _SMALL], min(count, 15)
        )
    report.samples(*small, *large, *files)
    limits = ((40, 40, 200), (150, 150, 600), (150, 40, 200))
    for samples, most in zip((small, large, files), limits, strict=True):
        for one, limit in zip(samples, most, strict=True):
            report.claim(f"{one.name}, p50 ms", value=one.p50, limit=limit)
    return report


def _one(client: Client, name: str, command: list[str], count: int) -> list[Samples]:
    made = client.post(
        "/api/v1/execute",
        {
            "command": command, "memory": True, "mode": "ephemeral", "wait": False,
            "timeout_ms": 300_000, "memory_mb": 512, "disk_mb": 512,
        },
    )["execution_id"]  # fmt: skip
    time.sleep(_SECONDS_TO_BEGIN)
    parent = client.post(f"/api/v1/executions/{made}/checkpoint", {})["id"]
    _settle(client, str(parent))
    taken = _timed_without_settling(client, f"{name}: checkpoint", str(made), count)
    restored = measure(
        f"{name}: restore and run on",
        lambda: client.post("/api/v1/execute", {"snapshot_id": parent, **_RESUME}),
        count=count, warmup=2,
    )  # fmt: skip
    child = dict(_RESUME)
    forked = measure(
        f"{name}: fork x10",
        lambda: client.post("/api/v1/fork", {"branch_from": parent, "children": [child] * 10}),
        count=max(1, count // 4), warmup=1,
    )  # fmt: skip
    client.post(f"/api/v1/executions/{made}/cancel", {})
    return [taken, restored, forked]


def _timed_without_settling(client: Client, name: str, execution: str, count: int) -> Samples:
    """Hashing and packing follow the answer: let them end before the next is timed."""
    values: list[float] = []
    for turn in range(count + 2):
        made: list[object] = []
        once = measure(
            name,
            lambda made=made: made.append(
                client.post(f"/api/v1/executions/{execution}/checkpoint", {})["id"]
            ),
            count=1, warmup=0,
        )  # fmt: skip
        _settle(client, str(made[0]))
        if turn >= 2:
            values += once.values
    return Samples(name, tuple(values))


def _settle(client: Client, snapshot: str) -> None:
    client.post(f"/api/v1/snapshots/{snapshot}/verify", {})
