"""Memory: the gateway over many executions, and an idle warm sandbox."""

import threading
import time
from pathlib import Path

from benchmarks.harness import Client, Gateway, Report, gateway


def _execute_many(target: Gateway, count: int, callers: int = 4) -> None:
    def caller() -> None:
        client = Client(target.port)
        for _ in range(count // callers):
            client.execute(["/bin/true"])

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no MemAvailable")


def _wait_for(target: Gateway, count: int) -> None:
    """Wait until the pool is full."""
    for _ in range(300):
        if len(_agents_pss(target.data_dir)) >= count:
            return
        time.sleep(0.1)
    raise RuntimeError(f"the pool did not reach {count} sandboxes")


def _agents_pss(data_dir: Path) -> list[int]:
    values: list[int] = []
    for pid_file in (data_dir / "run").glob("*/pid"):
        rollup = Path(f"/proc/{pid_file.read_text().split()[0]}/smaps_rollup").read_text()
        values += [int(x.split()[1]) * 1024 for x in rollup.splitlines() if x.startswith("Pss:")]
    return values


def run(count: int) -> Report:
    """Resident memory after 1,000 to 10,000 executions; bytes a warm sandbox takes."""
    report = Report("Memory")
    rows: list[list[str]] = []
    readings: list[int] = []
    with gateway(pool_size=4) as target:
        total = 0
        for step in (1_000, 2_000, 2_000, 2_500, 2_500):
            _execute_many(target, step)
            total += step
            readings.append(target.rss_bytes())
            rows.append([str(total), f"{readings[-1] / 2**20:.1f}"])
    report.table(["executions", "gateway RSS MiB"], rows)
    report.claim("gateway RSS after 10,000 executions, MiB", value=readings[-1] / 2**20, limit=120)
    report.claim("RSS at 10,000 / RSS at 3,000", value=readings[-1] / readings[1], limit=1.05)

    with gateway(pool_size=4) as few:
        _wait_for(few, 4)
        few_available = _available_bytes()
        base = len(_agents_pss(few.data_dir))
    with gateway(pool_size=104, pool_max=128) as many:
        _wait_for(many, 104)
        many_available = _available_bytes()
        pss = _agents_pss(many.data_dir)
    extra = len(pss) - base
    each = (few_available - many_available) / extra / 2**20
    report.note(
        f"{len(pss)} warm sandboxes: agent PSS p50 {sorted(pss)[len(pss) // 2] / 1024:.0f} KiB; "
        f"MemAvailable fell by {each:.2f} MiB for each of {extra} more sandboxes "
        "(kernel objects and the gateway's own bookkeeping included)."
    )
    report.claim("an idle warm sandbox, MiB of MemAvailable", value=each, limit=1)
    return report
