"""`faas doctor`: tries each runtime for real, in a directory of its own, and says what is missing.

It never touches a running gateway's sandboxes: what it makes carries another tag.
"""

import asyncio
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from faas.assembly import open_registry
from faas.cli import render
from faas.cli.doctor_egress import try_egress
from faas.cli.doctor_memory import try_memory
from faas.cli.gateway import Gateway
from faas.clock import SystemClock
from faas.config import Settings, load
from faas.data_dir import DataDir
from faas.errors import FaasError
from faas.events import EventBus
from faas.sandbox.capabilities import Capability, Explaining
from faas.sandbox.protocols import ProbeReport
from faas.sandbox.registry import Registry

_NOTHING_WORKS = 8
_DISK_BYTES_WANTED = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    name: str
    is_well: bool
    detail: str
    hint: str | None = None
    duration_ms: float = 0.0
    is_runtime: bool = False
    state_else: str = "MISSING"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(*, as_json: bool) -> int:
    """Try each runtime for real; say what is missing and how to get it.

    Exits with 8 when nothing works.
    """
    settings = load().settings
    findings = [*_surroundings(settings), *asyncio.run(try_runtimes(settings))]
    if as_json:
        render.json_data([asdict(finding) for finding in findings])
    else:
        _show(findings)
    works = any(finding.is_well for finding in findings if finding.is_runtime)
    return 0 if works else _NOTHING_WORKS


def _show(findings: list[Finding]) -> None:
    rows = [
        (
            finding.name,
            "ok" if finding.is_well else finding.state_else,
            f"{finding.duration_ms:.1f}" if finding.duration_ms else "-",
            finding.detail,
        )
        for finding in findings
    ]
    render.table(rows, headings=("what", "state", "ms", "found"))
    hints = [(finding.name, finding.hint) for finding in findings if finding.hint]
    for name, hint in hints:
        render.say(f"hint: {name}: {hint}")


async def try_runtimes(settings: Settings) -> list[Finding]:
    """Open every configured runtime on a throw-away data directory, probe it, close it."""
    scratch = Path(tempfile.mkdtemp(prefix="faas-doctor-"))
    try:
        data_dir = DataDir.hold(scratch)
        try:
            criu = settings.criu_prefix or str(settings.data_dir / "criu")
            own = replace(settings, data_dir=scratch, criu_prefix=criu)
            registry = open_registry(own, data_dir, clock=SystemClock(), events=EventBus())
            try:
                await registry.start()
                reports = registry.reports()
                more = [*await _egress(registry), *await _memory(registry, scratch, criu)]
                more += _memory_of_containers(registry, criu)
            finally:
                await registry.aclose()
        finally:
            data_dir.release()
    except FaasError as failure:
        return [Finding("runtimes", is_well=False, detail=failure.message, is_runtime=True)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [
        Finding(
            f"runtime {name}",
            is_well=report.is_available,
            detail="; ".join(filter(None, _described(report))),
            hint=report.hint or _on_limits(report),
            duration_ms=report.duration_ms,
            is_runtime=True,
        )
        for name, report in reports.items()
    ] + more


def _on_limits(report: ProbeReport) -> str | None:
    if not report.is_available or "rlimits" not in report.limits:
        return None
    return (
        "memory, processor and processes of a whole sandbox are limited, and instances paused and"
        " resized, only where the gateway may make control groups: run it as root"
    )


def _described(report: ProbeReport) -> tuple[str, ...]:
    more = f"on demand {', '.join(report.isolations)}" if report.isolations else ""
    limits = f"limits by {report.limits}" if report.limits else ""
    if report.is_available and not report.limits:
        limits = "no limits hold here"
    return (report.detail, report.isolation, more, limits)


async def _egress(registry: Registry) -> list[Finding]:
    """Try to give a sandbox of this host the network `egress`."""
    runtime = registry.get("embedded")
    if runtime is None or runtime not in registry.available():
        return []
    is_well, detail, hint, spent = await try_egress(runtime)
    return [Finding("network egress", is_well, detail, hint, duration_ms=spent, state_else="off")]


async def _memory(registry: Registry, scratch: Path, prefix: str) -> list[Finding]:
    """Try to take a process out of one sandbox into another, where that can be asked for."""
    runtime = registry.get("embedded")
    if runtime is None or runtime not in registry.available():
        return []
    is_well, detail, hint, spent = await try_memory(runtime, scratch)
    return [
        Finding(
            "memory checkpoints",
            is_well,
            detail,
            _with_prefix(hint, prefix),
            duration_ms=spent,
            state_else="off",
        )
    ]


def _memory_of_containers(registry: Registry, prefix: str) -> list[Finding]:
    """Say what stands in the way there; it is not tried, for there may be no image with a shell."""
    runtime = registry.get("docker")
    if runtime not in registry.available() or not isinstance(runtime, Explaining):
        return []
    why = runtime.why_without(Capability.MEMORY_SNAPSHOT)
    hint = None if why is None else _with_prefix(why.hint, prefix)
    detail = "all it needs is there; not tried" if why is None else why.message
    name = "memory checkpoints, docker"
    return [Finding(name, why is None, detail, hint, state_else="off")]


def _with_prefix(hint: str | None, prefix: str) -> str | None:
    is_to_install = hint is not None and "criu.sh" in hint
    return f"scripts/criu.sh {prefix}" if is_to_install else hint


def _surroundings(settings: Settings) -> list[Finding]:
    checks: list[Callable[[Settings], Finding]] = [_kernel, _cgroups, _disk, _gateway]
    findings: list[Finding] = []
    for check in checks:
        started = time.perf_counter()
        finding = check(settings)
        spent = (time.perf_counter() - started) * 1000
        findings.append(replace(finding, duration_ms=spent if spent > 1 else 0.0))
    return findings


def _kernel(_settings: Settings) -> Finding:
    who = "root" if os.geteuid() == 0 else "not root"
    text = f"Linux {platform.release()}, {platform.machine()}, {who}"
    return Finding("kernel", platform.system() == "Linux", text)


def _cgroups(_settings: Settings) -> Finding:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").is_file():
        return Finding("cgroups", is_well=True, detail="version 2")
    if (root / "memory").is_dir() and (root / "pids").is_dir():
        return Finding("cgroups", is_well=True, detail="version 1")
    return Finding(
        "cgroups",
        is_well=False,
        detail="none are mounted: memory, cpu and process limits cannot hold",
        hint="mount -t cgroup2 none /sys/fs/cgroup",
    )


def _disk(settings: Settings) -> Finding:
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return Finding(
            "data directory",
            is_well=False,
            detail=f"{place} cannot be written",
            hint="faas serve --data-dir DIRECTORY",
        )
    free = shutil.disk_usage(place).free
    return Finding(
        "data directory",
        is_well=free >= _DISK_BYTES_WANTED,
        detail=f"{settings.data_dir}, {free / (1 << 30):.1f} GiB free",
        hint=None
        if free >= _DISK_BYTES_WANTED
        else "less than 1 GiB is left for images and output",
    )


def _gateway(_settings: Settings) -> Finding:
    try:
        health = Gateway.at(None).get("/health")
    except FaasError as failure:
        return Finding("gateway", is_well=False, detail=failure.message, state_else="off")
    return Finding("gateway", is_well=True, detail=f"{health.get('status')}")
