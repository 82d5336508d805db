"""Upload a project, run its own test-suite in a sandbox, and watch it live.

    python3 run_tests.py [DIRECTORY]

The gateway is the one at FAAS_GATEWAY_URL, else http://localhost:8080. Exits with the suite's code.
"""

import asyncio
import sys
from pathlib import Path

from faas_sdk import FaaSClient, OutputEvent

PROJECT = Path(__file__).parent / "project"
TESTS = ["python3", "-m", "unittest", "-v"]


async def run_tests(directory: Path) -> int:
    async with FaaSClient() as client:
        # The directory travels as a tar and is unpacked before the command starts.
        run = client.stream(
            TESTS,
            archive=directory,
            working_dir="/workspace",
            timeout_ms=60_000,
            memory_mb=256,
        )
        async with run:
            async for event in run:
                if isinstance(event, OutputEvent):
                    out = sys.stdout if event.stream == "stdout" else sys.stderr
                    out.buffer.write(event.data)
                    out.flush()
            result = await run.result()
    print(
        f"exit code {result.exit_code} after {result.duration_ms} ms"
        f" on {result.runtime_used} ({result.isolation})"
    )
    return result.exit_code


if __name__ == "__main__":
    sys.exit(asyncio.run(run_tests(Path(sys.argv[1]) if sys.argv[1:] else PROJECT)))
