"""A second command in a sandbox that runs already: an instance's exec, whole HTTP round trip."""

from benchmarks.harness import Report, gateway, measure


def run(count: int) -> Report:
    """Start to exit status and whole output."""
    report = Report("A second exec in a running sandbox (embedded runtime), whole HTTP round trip")
    with gateway(pool_size=2) as target:
        client = target.client()
        instance = str(client.post("/api/v1/instances", {"image": "host", "name": "bench"})["id"])
        path = f"/api/v1/instances/{instance}/exec"

        def echo() -> None:
            answer = client.post(path, {"command": ["/bin/echo", "hi"]})
            if answer["exit_code"] != 0 or answer["stdout"] != "hi\n":
                raise RuntimeError(f"unexpected answer: {answer}")

        hot = measure("exec echo in an instance, back to back", echo, count=count)
        lone = measure(
            "exec echo in an instance, 30 ms pause", echo, count=count, pause_seconds=0.03
        )
        client.delete(f"/api/v1/instances/{instance}")
    report.samples(hot, lone)
    report.claim("second exec, back to back, p50 ms", value=hot.p50, limit=1.5)
    return report
