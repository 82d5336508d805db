"""What the Docker runtime is told; assembly fills it in."""

import platform
from dataclasses import dataclass
from pathlib import Path

from faas.docker.address import EngineAddress
from faas.sandbox.registry import RuntimeContext


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """Where things are, and which Engine to use."""

    work_dir: Path
    """One directory a live container: the socket of its agent, what it was made of."""
    tag: str
    """Marks our containers and images; the same for every start on this data."""
    binary: Path
    """The native program, bound read-only into every container as its first process."""
    host: str | None = None
    """The Engine's address; None is the usual socket of this machine."""
    oci_runtime: str | None = None
    """The Engine's OCI runtime; None is `crun` where the Engine has it (60 ms less a start), else
    the Engine's default."""

    certificates: Path | None = None
    """Directory of the certificates for a tcp:// Engine; None is plain HTTP."""
    agent: str = "auto"
    """`bind`: the agent and its socket are bound in from this machine. `copy`: it is copied in and
    spoken to through the Engine. `auto`: copy where the Engine is reached over TCP."""
    logins: Path | None = None
    """Docker's own `config.json`, where registries' credentials are; None is none."""
    egress_dns: tuple[str, ...] = ("1.1.1.1", "9.9.9.9")
    """Name servers of sandboxes with `network: egress`."""
    egress_host: Path | None = None
    """The network namespace that egress leaves by; None is the gateway's own."""

    criu_prefix: Path | None = None
    """Where scripts/criu.sh put CRIU; None is nowhere."""

    @property
    def address(self) -> EngineAddress:
        """Where the Engine is."""
        return EngineAddress(self.host, self.certificates)

    @property
    def is_copied(self) -> bool:
        """Whether the agent is copied into containers rather than bound."""
        return self.agent == "copy" or (self.agent == "auto" and self.address.is_remote)

    @classmethod
    def from_context(cls, context: RuntimeContext) -> "DockerSettings":
        """Read what assembly gave."""
        machine = platform.machine().replace("arm64", "aarch64")
        package = Path(__file__).resolve().parent.parent
        return cls(
            work_dir=context.data_dir / "docker",
            tag=context.instance_tag,
            binary=package / "_native" / f"faas-native-{machine}",
            host=context.options.get("docker_host") or None,
            certificates=_certificates(context),
            agent=context.options.get("docker_agent") or "auto",
            logins=Path(place) if (place := context.options.get("docker_config")) else None,
            oci_runtime=context.options.get("docker_oci_runtime") or None,
            egress_dns=tuple(filter(None, context.options.get("egress_dns", "").split(","))),
            criu_prefix=Path(place) if (place := context.options.get("criu_prefix")) else None,
        )


def _certificates(context: RuntimeContext) -> Path | None:
    if not context.options.get("docker_tls"):
        return None
    return Path(context.options.get("docker_certificates", ""))
