"""One command, one sandbox, whole HTTP round trip, one caller."""

import subprocess

from benchmarks.harness import Report, alternate, gateway, measure

PYTHON = "/usr/bin/python3"
BARE = {"PATH": "/usr/bin:/bin"}
"""Not ours: what the peers need on the module path slows every interpreter."""


def run(count: int) -> Report:
    """Pool, on demand, and Python against the bare interpreter."""
    report = Report("One-shot execution, embedded runtime, one caller")
    with gateway(pool_size=8) as pooled:
        client = pooled.client()
        idle = measure(
            "echo from the pool, a lone request (30 ms pause)",
            lambda: client.execute(["/bin/echo", "hi"]),
            count=count,
            pause_seconds=0.03,
        )
        shell = measure(
            "echo through `sh -c` from the pool, 30 ms pause",
            lambda: client.execute("echo hi"),
            count=count,
            pause_seconds=0.03,
        )
        burst = measure(
            "echo back to back (pool refills meanwhile)",
            lambda: client.execute(["/bin/echo", "hi"]),
            count=count,
        )
        bare, boxed = alternate(
            {
                "bare `python3 -c 'print(1)'` (fork, exec, wait)": lambda: subprocess.run(
                    [PYTHON, "-c", "print(1)"], stdout=subprocess.PIPE, check=True, env=BARE
                ),
                "`python3 -c 'print(1)'` in a sandbox, over HTTP": lambda: client.execute(
                    [PYTHON, "-c", "print(1)"]
                ),
            },
            count=count,
            pause_seconds=0.03,
        )
    with gateway(pool_size=0, pool_max=0) as unpooled:
        client = unpooled.client()
        demand = measure(
            "echo on demand, no pool, back to back",
            lambda: client.execute(["/bin/echo", "hi"]),
            count=count,
        )
    floor = measure(
        "bare `/bin/echo hi` (fork, exec, wait), 30 ms pause",
        lambda: subprocess.run(["/bin/echo", "hi"], stdout=subprocess.PIPE, check=True, env=BARE),
        count=count,
        pause_seconds=0.03,
    )
    report.samples(floor, idle, shell, burst, demand, bare, boxed)
    report.claim("echo from the pool, p50 ms", value=idle.p50, limit=3)
    report.claim("echo on demand back to back, p50 ms", value=demand.p50, limit=5)
    report.claim(
        "python in a sandbox / bare interpreter, p50", value=boxed.p50 / bare.p50, limit=1.4
    )
    return report
