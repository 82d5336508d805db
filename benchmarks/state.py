"""State: cached hits, checkpoints and forks of files whatever their size; whole round trips."""

import statistics
import time

from benchmarks.harness import Client, Report, Samples, gateway, measure
from benchmarks.throughput import drive_with

_MB = 1 << 20
_STATES = {
    "one small file": "echo state > /workspace/s",
    "100 MB in one file": "head -c 100M /dev/urandom > /workspace/big; echo state > /workspace/s",
    "5,000 small files": (
        "mkdir /workspace/d && cd /workspace/d && seq 5000 | split -l 1 -a 4 && "
        "echo state > /workspace/s"
    ),
}
_CHANGE_1_MB = "dd if=/dev/urandom of=/workspace/big bs=1M count=1 seek={} conv=notrunc 2>/dev/null"


def run(count: int) -> Report:
    """What stands today of the state features, timed."""
    report = Report("State, embedded runtime, whole HTTP round trip")
    with gateway(pool_size=8) as target:
        client = target.client()
        _cached(client, target.port, report, count)
        parents = {
            name: str(client.execute(script, mode="checkpointed")["snapshot_id"])
            for name, script in _STATES.items()
        }
        for name, parent in parents.items():
            _forks(client, report, name, parent, count)
        _parked(client, report, count)
        _checkpoints(client, report, count)
        _bytes(client, report, parents["100 MB in one file"])
    return report


def _cached(client: Client, port: int, report: Report, count: int) -> None:
    cached = {"mode": "cached", "cache_key": "bench"}
    client.execute(["/bin/echo", "hi"], **cached)
    hit = measure("cached hit", lambda: client.execute(["/bin/echo", "hi"], **cached), count=count)
    _, rate = drive_with(port, callers=8, seconds=5, command=["/bin/echo", "hi"], fields=cached)
    report.samples(hit)
    report.claim("cached hit, p50 ms", value=hit.p50, limit=2)
    report.claim("cached hits/s, 8 callers", value=rate, limit=3000, at_least=True)


def _forks(client: Client, report: Report, name: str, parent: str, count: int) -> None:
    """One child, and a hundred in one call, of a snapshot."""
    look = ["/bin/cat", "/workspace/s"]
    one = measure(
        f"fork and run, {name}",
        lambda: client.execute(look, mode="branched", branch_from=parent),
        count=min(count, 100),
    )
    body = {"branch_from": parent, "children": [{"command": look} for _ in range(100)]}
    many = measure(
        f"fork x100 in one call, {name}",
        lambda: client.post("/api/v1/fork", body),
        count=min(count, 10),
        warmup=1,
    )
    report.samples(one, many)
    report.claim(f"file-only fork and run, {name}, p50 ms", value=one.p50, limit=10)
    report.claim(f"file-only fork x100, {name}, p50 ms", value=many.p50, limit=1000)


def _parked(client: Client, report: Report, count: int) -> None:
    """The first fork of an execution that has just ended, which nobody asked to keep."""
    values: list[float] = []
    for _ in range(min(count, 10)):
        parent = client.execute(_STATES["100 MB in one file"])["request_id"]
        began = time.perf_counter()
        client.execute(["/bin/cat", "/workspace/s"], mode="branched", branch_from=parent)
        values.append((time.perf_counter() - began) * 1e3)
    report.samples(Samples("first fork of an ended execution, 100 MB", tuple(values)))
    report.claim(
        "first fork of an ended execution with 100 MB, p50 ms",
        value=statistics.median(values),
        limit=10,
    )


def _checkpoints(client: Client, report: Report, count: int) -> None:
    small = measure(
        "checkpointed run, one small file, durable",
        lambda: client.execute("echo more > /workspace/t", mode="checkpointed"),
        count=min(count, 60),
    )
    report.samples(small)


def _bytes(client: Client, report: Report, parent: str) -> None:
    """What ten children store that each change 1 MB of their parent's 100 MB."""
    stored = 0
    for number in range(10):
        child = client.execute(
            _CHANGE_1_MB.format(number * 9), mode="checkpointed", snapshot_id=parent
        )
        told = client.get(f"/api/v1/snapshots/{child['snapshot_id']}")
        stored += int(told["stored_bytes"])
    report.claim("MB stored by 10 forks that each change 1 MB of 100", value=stored / _MB, limit=12)
