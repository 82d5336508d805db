"""What the embedded runtime is told; assembly fills it in."""

import platform
from dataclasses import dataclass
from pathlib import Path


def packaged_binary() -> Path:
    """Return where the wheel keeps the native program for this machine."""
    machine = platform.machine().replace("arm64", "aarch64")
    return Path(__file__).resolve().parent.parent / "_native" / f"faas-native-{machine}"


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """Where things are and how hard they are held."""

    run_dir: Path
    """One directory a live sandbox: its socket, its pid, what it was made of."""
    data_dir: Path
    """The synthetic /etc of the image `host` is built below it."""
    tag: str
    """Names our control groups; eight hex digits, the same for every start on this data."""
    binary: Path
    cgroup_policy: str = "auto"
    """`auto`, `v1`, `v2` or `none`."""
    egress_dns: tuple[str, ...] = ("1.1.1.1", "9.9.9.9")
    """Name servers of sandboxes with `network: egress`."""
    egress_host: Path | None = None
    """The network namespace that egress leaves by; None is the gateway's own."""
    criu_prefix: Path | None = None
    """Where scripts/criu.sh put CRIU; None: no memory checkpoints."""
    threads: int = 4
    """For blocking file work; more than the cores would only queue in the kernel."""
