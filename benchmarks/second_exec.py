"""A second command in a sandbox that runs already: the runtime alone, no HTTP."""

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Report, Samples
from faas.assembly import open_runtime_alone
from faas.ids import new_sandbox_id
from faas.sandbox.protocols import Command, OutputFiles, RootFilesystem, SandboxSpec


async def _measure(count: int) -> Samples:
    values: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with open_runtime_alone("embedded", data_dir=Path(folder)) as runtime:
            spec = SandboxSpec(id=new_sandbox_id(), root=RootFilesystem(digest="host", path=None))
            sandbox = await runtime.create(spec)
            command = Command(argv=("/bin/echo", "hi"), is_exclusive=False)
            for turn in range(-5, count):
                output = OutputFiles(Path(folder) / f"{turn}.out", Path(folder) / f"{turn}.err")
                begin = time.perf_counter()
                process = await sandbox.start(f"c{turn + 5}", command, output)
                ended = await process.wait()
                elapsed = (time.perf_counter() - begin) * 1e3
                if ended.code != 0 or output.stdout.read_bytes() != b"hi\n":
                    raise RuntimeError(f"unexpected exit {ended}")
                if turn >= 0:
                    values.append(elapsed)
            await sandbox.destroy("done")
    return Samples("echo in a running sandbox, back to back", tuple(values))


def run(count: int) -> Report:
    """Start to exit status and whole output."""
    report = Report("A second exec in a running sandbox (embedded runtime, in process)")
    samples = asyncio.run(_measure(min(count, 240)))
    report.samples(samples)
    report.claim("second exec, p50 ms", value=samples.p50, limit=1.5)
    return report
