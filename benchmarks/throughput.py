"""Sustained one-shot executions a second, closed loop, several callers."""

import threading
import time

from benchmarks.harness import Client, Report, Samples, gateway


def drive(port: int, *, callers: int, seconds: float, command: list[str]) -> tuple[Samples, float]:
    """Let `callers` connections run one-shots for that long; latencies and rate."""
    return drive_with(port, callers=callers, seconds=seconds, command=command, fields={})


def drive_with(
    port: int, *, callers: int, seconds: float, command: list[str], fields: dict[str, object]
) -> tuple[Samples, float]:
    """The same with more fields in each request."""
    values: list[float] = []
    failures: list[str] = []
    stop_at = time.perf_counter() + seconds

    def caller() -> None:
        client = Client(port)
        mine: list[float] = []
        while (begin := time.perf_counter()) < stop_at:
            try:
                client.execute(command, **fields)
            except RuntimeError as failure:
                failures.append(str(failure))
                return
            mine.append((time.perf_counter() - begin) * 1e3)
        values.extend(mine)

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(f"{len(failures)} callers failed, first: {failures[0]}")
    rate = len(values) / (time.perf_counter() - begin)
    return Samples(f"{callers} callers", tuple(values)), rate


def run(count: int) -> Report:
    """Rates at 1 to 16 callers; the client shares the two cores."""
    report = Report("Sustained one-shot `echo`, embedded runtime, closed loop")
    rows: list[list[str]] = []
    best = 0.0
    seconds = max(3.0, count / 20)
    with gateway(pool_size=16) as target:
        drive(target.port, callers=2, seconds=1.0, command=["/bin/echo", "hi"])
        for callers in (1, 2, 4, 8, 16):
            samples, rate = drive(
                target.port, callers=callers, seconds=seconds, command=["/bin/echo", "hi"]
            )
            best = max(best, rate)
            rows.append([f"{rate:.0f}", *samples.row()])
    report.table(["executions/s", "callers", "p50 ms", "p95 ms", "p99 ms", "n"], rows)
    report.note("The load generator (Python threads) runs on the same two cores.")
    report.claim("best sustained rate, executions/s", value=best, limit=300, at_least=True)
    return report
