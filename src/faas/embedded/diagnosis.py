"""Tries the embedded runtime for real, and when that fails finds out why and what mends it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from faas.clock import Clock, SystemClock
from faas.errors import FaasError
from faas.ids import new_sandbox_id
from faas.model import Limits
from faas.sandbox.protocols import (
    Command,
    Exit,
    OutputFiles,
    ProbeReport,
    RootFilesystem,
    SandboxSpec,
)

if TYPE_CHECKING:
    from faas.embedded.runtime import EmbeddedRuntime

_WORD = "faas-probe"
_LIMITS = Limits(memory_bytes=64 << 20, disk_bytes=16 << 20, pids_max=32)

_SWITCHES = (
    ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
    ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
"""Kernel switches that forbid user namespaces: file, the value that forbids, what allows."""


async def probe(
    runtime: "EmbeddedRuntime", *, limits: Callable[[], str], clock: Clock | None = None
) -> ProbeReport:
    """Make a sandbox, run `echo` in it and take it away."""
    clock = clock or SystemClock()
    began = clock.monotonic_ns()
    try:
        await runtime.start()
        ended, said = await _echo(runtime)
    except FaasError as error:
        return ProbeReport(is_available=False, detail=error.message, hint=hint() or error.hint)
    except (OSError, ExceptionGroup) as error:
        return ProbeReport(is_available=False, detail=f"it failed: {error}", hint=hint())
    passed = ended.code == 0 and said == f"{_WORD}\n".encode()
    return ProbeReport(
        is_available=passed,
        detail=f"`echo` in a sandbox of the image host exited with {ended.code}",
        hint=None if passed else "run `faas doctor`",
        isolation=runtime.isolation,
        limits=limits(),
        duration_ms=(clock.monotonic_ns() - began) / 1e6,
    )


async def _echo(runtime: "EmbeddedRuntime") -> tuple[Exit, bytes]:
    root = RootFilesystem(digest="host", path=None)
    sandbox = await runtime.create(SandboxSpec(id=new_sandbox_id(), root=root, limits=_LIMITS))
    try:
        with tempfile.TemporaryDirectory(prefix="faas-probe-") as directory:
            output = OutputFiles(Path(directory, "out"), Path(directory, "err"))
            command = Command(("echo", _WORD), timeout_ms=10_000)
            process = await sandbox.start("probe", command, output)
            return await process.wait(), output.stdout.read_bytes()
    finally:
        await sandbox.destroy("probed")


def hint(sysctl: Path = Path("/proc/sys")) -> str | None:
    """Return the command that allows user namespaces, when a switch forbids them."""
    for name, forbidding, remedy in _SWITCHES:
        try:
            value = (sysctl / name).read_text().strip()
        except OSError:
            continue
        if value == forbidding:
            return f"sudo sysctl -w {remedy}"
    return None
