"""`faas doctor` on the network `egress`: really gives a sandbox its link and rules."""

import os
import shutil
import time

from faas.errors import FaasError
from faas.ids import new_sandbox_id
from faas.model import Limits, NetworkMode
from faas.sandbox.capabilities import Capability
from faas.sandbox.protocols import RootFilesystem, Runtime, SandboxSpec

_LIMITS = Limits(memory_bytes=64 << 20, disk_bytes=16 << 20, pids_max=32)


async def try_egress(runtime: Runtime) -> tuple[bool, str, str | None, float]:
    """Return whether a sandbox can have it, what was found, a hint, milliseconds."""
    began = time.perf_counter()
    if Capability.EGRESS not in runtime.capabilities:
        return False, *_lacking(), 0.0
    root = RootFilesystem(digest="host", path=None)
    spec = SandboxSpec(new_sandbox_id(), root, _LIMITS, network=NetworkMode.EGRESS)
    try:
        await (await runtime.create(spec)).destroy("tried")
    except FaasError as failure:
        return False, failure.message, failure.hint, 0.0
    except OSError as failure:
        return False, f"it failed: {failure}", None, 0.0
    spent = (time.perf_counter() - began) * 1000
    return True, "a sandbox got its link and its rules: public addresses only", None, spent


def _lacking() -> tuple[str, str]:
    if os.geteuid() != 0:
        return "only root may lay its links and rules", "run the gateway as root"
    if shutil.which("nft") is None:
        return "nft is not installed", "apt-get install nftables"
    return "this runtime has none here", "docs/explanation/isolation.md"
