"""State: a cached hit, a fork of files, pause and resume; whole HTTP round trips."""

from benchmarks.harness import Report, gateway, measure
from benchmarks.throughput import drive_with


def run(count: int) -> Report:
    """What stands today of the state features, timed."""
    report = Report("State, embedded runtime, whole HTTP round trip")
    with gateway(pool_size=8) as target:
        client = target.client()
        cached = {"mode": "cached", "cache_key": "bench"}
        client.execute(["/bin/echo", "hi"], **cached)
        hit = measure(
            "cached hit", lambda: client.execute(["/bin/echo", "hi"], **cached), count=count
        )
        _, rate = drive_with(
            target.port, callers=8, seconds=5, command=["/bin/echo", "hi"], fields=cached
        )
        base = client.execute("echo state > /workspace/s", mode="checkpointed")
        parent = str(base["request_id"])
        fork = measure(
            "branched run from a checkpoint of one file",
            lambda: client.execute(
                ["/bin/cat", "/workspace/s"], mode="branched", branch_from=parent
            ),
            count=min(count, 100),
        )
        checkpoint = measure(
            "checkpointed run, one small file, durable",
            lambda: client.execute("echo more > /workspace/t", mode="checkpointed"),
            count=min(count, 60),
        )
    report.samples(hit, fork, checkpoint)
    report.claim("cached hit, p50 ms", value=hit.p50, limit=2)
    report.claim("cached hits/s, 8 callers", value=rate, limit=3000, at_least=True)
    report.claim("file-only fork and run, p50 ms", value=fork.p50, limit=10)
    return report
