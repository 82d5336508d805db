"""Run benchmarks, print Markdown, keep it with `--record`."""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.harness import gauge

NAMES = (
    "one_shot",
    "throughput",
    "second_exec",
    "overhead",
    "memory",
    "peers",
    "state",
    "checkpoints",
    "chain",
    "docker_runtime",
    "docker_state",
    "docker_memory",
)
RESULTS = Path(__file__).parent / "RESULTS.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", default=list(NAMES), metavar="NAME", help=", ".join(NAMES)
    )
    parser.add_argument("--count", type=int, default=200, help="samples of each thing")
    parser.add_argument("--record", action="store_true", help=f"append to {RESULTS.name}")
    options = parser.parse_args()
    missed: list[str] = []
    for name in options.names:
        before = gauge()
        report = importlib.import_module(f"benchmarks.{name}").run(options.count)
        command = f"python -m benchmarks {name} --count {options.count}"
        text = report.markdown(command, (before, gauge()))
        print(text, flush=True)
        missed += report.missed
        if options.record:
            with RESULTS.open("a") as kept:
                kept.write("\n" + text)
    for text in missed:
        print(f"missed: {text}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
