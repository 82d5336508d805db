"""Everything about one sandbox as a plan: who it is, what it may use, what it sees."""

import os
import resource
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from faas.criu.program import PIDS_OF_CRIU
from faas.embedded.host_root import host_ops
from faas.embedded.image_root import image_ops
from faas.embedded.plan import (
    AS_IS,
    NO_DEVICES,
    NO_EXEC,
    READ_ONLY,
    Bind,
    Cell,
    Chores,
    Directory,
    Hostname,
    LastPid,
    Layers,
    Network,
    Op,
    PidFile,
    Plan,
    ResourceLimit,
    Seccomp,
    Tmpfs,
    UserAlone,
    UserRange,
    UserSingle,
)
from faas.embedded.run_dir import Meta, RunDir
from faas.embedded.user_slots import WIDTH, first_uid
from faas.model import Limits, NetworkMode
from faas.sandbox.protocols import SandboxSpec

_NOFILE_MAX = 65_536
"""Enough for servers under test; each descriptor is kernel memory that only memcg counts."""
_MEMLOCK_BYTES = 8 << 20
_RUN_BYTES = 16 << 20
_NETWORK_NEW, _NETWORK_POOLED = 0, 2


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What is the same for every sandbox of one runtime."""

    etc: Path
    seccomp: bytes
    holds_memory: bool
    """Whether a control group holds the memory limit; else an rlimit must do."""
    holds_pids: bool
    kdat: Path | None = None
    """What CRIU found out about this kernel; None: there is no CRIU."""


def sandbox_plan(
    spec: SandboxSpec,
    run_dir: RunDir,
    meta: Meta,
    ingredients: Ingredients,
    *,
    chores: list[bytes],
) -> tuple[Plan, Plan]:
    """Make the plan of one sandbox: who it is and what it may use (set by `chores`), then its root.

    The second half is the same for every sandbox of a template, and most of the work.
    """
    root = root_plan(
        spec.root.path,
        etc=ingredients.etc,
        disk_bytes=spec.limits.disk_bytes,
        is_idmapped=meta.slot is not None,
        is_layered=spec.layers is not None,
        kdat=ingredients.kdat if meta.keeps_memory else None,
    )
    own = _identity(spec, run_dir, meta, chores)
    if spec.layers is not None:
        own.append(Layers(tuple(layer.number for layer in spec.layers.layers)))
    return Plan.of(own, _limits(spec.limits, ingredients)), root


def encoded(plans: tuple[Plan, Plan]) -> bytes:
    """Return both halves as the launcher reads them."""
    own, root = plans
    return own.encoded + root.encoded


@lru_cache(maxsize=256)
def root_plan(
    tree: Path | None,
    *,
    etc: Path,
    disk_bytes: int,
    is_idmapped: bool,
    is_layered: bool = False,
    kdat: Path | None = None,
) -> Plan:
    """Make the plan of a root: of an imported tree, or of the image `host`.

    Directories that a layer brings stay as they were left.
    """
    if tree is None:
        ops = host_ops(etc, disk_bytes=disk_bytes)
    else:
        ops = image_ops(tree, disk_bytes=disk_bytes, is_idmapped=is_idmapped)
    if is_layered:
        ops = [
            Directory(op.path, op.mode | AS_IS) if isinstance(op, Directory) else op for op in ops
        ]
    plan = Plan.of(ops)
    # At the end and in this order: the file lies in what is mounted before it.
    return plan if kdat is None else Plan((*plan.ops, *_run_for_criu(kdat)))


def _run_for_criu(kdat: Path) -> list[Op]:
    """A /run that cannot be moved away, with the file CRIU believes in that cannot be replaced:
    both are mount points from the start."""
    return [
        Directory("/run"),
        Tmpfs("/run", _RUN_BYTES, 0o755),
        Bind(kdat, "/run/criu.kdat", READ_ONLY | NO_DEVICES | NO_EXEC),
    ]


def _identity(spec: SandboxSpec, run_dir: RunDir, meta: Meta, chores: list[bytes]) -> list[Op]:
    users: Op = UserSingle()
    if meta.slot is not None:
        first = first_uid(meta.slot)
        users = UserAlone(first, first) if meta.keeps_memory else UserRange(first, first, WIDTH)
    pids = [LastPid(PIDS_OF_CRIU)] if meta.keeps_memory and not spec.is_refilled else []
    # What egress adds to a network does not all show in its counters: nobody has it after.
    is_pooled = os.geteuid() == 0 and spec.network is NetworkMode.NONE
    return [
        *pids,
        Hostname(spec.hostname),
        users,
        *(Cell(path) for path in meta.cgroups.values()),
        Chores(b"".join(chores)),
        Network(_NETWORK_POOLED if is_pooled else _NETWORK_NEW),
        PidFile(run_dir.pid_file),
    ]


def _limits(limits: Limits, ingredients: Ingredients) -> list[Op]:
    ops: list[Op] = [
        ResourceLimit(resource.RLIMIT_CORE, 0, 0),
        ResourceLimit(resource.RLIMIT_NOFILE, 1_024, _NOFILE_MAX),
        ResourceLimit(resource.RLIMIT_MEMLOCK, _MEMLOCK_BYTES, _MEMLOCK_BYTES),
        Seccomp(ingredients.seccomp),
    ]
    if not ingredients.holds_memory:
        memory = limits.memory_bytes
        ops.append(ResourceLimit(resource.RLIMIT_DATA, memory, memory))
    if not ingredients.holds_pids:
        pids = limits.pids_max
        ops.append(ResourceLimit(resource.RLIMIT_NPROC, pids, pids))
    return ops
