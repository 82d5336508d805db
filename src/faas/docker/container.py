"""A sandbox as a container: the configuration it gets, hardened by default.

Nothing of the host is bound into it but the agent (read-only) and the directory of the agent's
socket, which belongs to a user id that no command may take and is closed to everybody else. The
root is read-only; what may be written are memory file systems, each bounded by the disk limit and
counted as the container's memory. The agent keeps seven capabilities to place files and change
users; commands get none.
"""

import os
from pathlib import Path
from typing import Any

from faas.docker.settings import DockerSettings
from faas.model import Limits
from faas.sandbox.protocols import SandboxSpec

AGENT = "/.faas/agent"
_SOCKETS = "/.faas/run"
RESERVED_UID = 2_147_418_111
"""Owns the directory of the agent's socket; refused as the user of a command."""
LABEL_DATA = "faas.data"
LABEL_SANDBOX = "faas.sandbox"
_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETPCAP", "SETUID"]
"""What the agent keeps for itself; SETPCAP so that changing users takes nothing of it away, and so
that commands can empty their bounding set."""
PIDS_OF_OURS = 8
"""The agent and the supervisors of commands that run side by side."""
_WRITABLE = {
    "/tmp": "1777",  # noqa: S108  inside the container
    "/var/tmp": "1777",  # noqa: S108
    "/run": "755",
    "/root": "700",
    "/workspace": "777",
}


def container_name(tag: str, sandbox_id: str) -> str:
    """Return the name of a sandbox's container."""
    return f"faas-{tag}-{sandbox_id}"


def reserved_uid() -> int:
    """Return the owner of socket directories: whoever we are, unless that is root."""
    return os.geteuid() or RESERVED_UID


def resources(limits: Limits) -> dict[str, Any]:
    """Return limits as the Engine names them; swap is off."""
    return {
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": limits.cpu_millis * 1_000_000,
        "PidsLimit": limits.pids_max + PIDS_OF_OURS,
    }


def container_config(
    spec: SandboxSpec,
    settings: DockerSettings,
    *,
    image: str,
    sockets: Path,
    oci_runtime: str | None,
) -> dict[str, Any]:
    """Return the body of the Engine's create call."""
    size = spec.limits.disk_bytes
    host_config: dict[str, Any] = {
        **resources(spec.limits),
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "CapAdd": _CAPABILITIES,
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        "Tmpfs": {
            path: f"rw,nosuid,nodev,exec,size={size},mode={mode}"
            for path, mode in _WRITABLE.items()
        },
        "Mounts": [
            _bind(settings.binary, AGENT, is_read_only=True),
            _bind(sockets, _SOCKETS, is_read_only=False),
            *(_volume(path, size) for path in spec.root.volumes if path not in _WRITABLE),
        ],
        "IpcMode": "private",
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
    }
    if oci_runtime is not None:
        host_config["Runtime"] = oci_runtime
    return {
        "Image": image,
        "Entrypoint": [AGENT, "agent", "--listen", f"{_SOCKETS}/agent.sock"],
        "Cmd": [],
        # An image's own check would run commands of its choice beside ours, again and again.
        "Healthcheck": {"Test": ["NONE"]},
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "User": "0:0",
        "WorkingDir": "/",
        "Hostname": spec.hostname,
        "Labels": {LABEL_DATA: settings.tag, LABEL_SANDBOX: spec.id},
        "HostConfig": host_config,
    }


def _volume(path: str, size: int) -> dict[str, Any]:
    """What an image declares a volume is memory like the rest: on disk it would have no bound."""
    return {
        "Type": "tmpfs",
        "Target": path,
        "TmpfsOptions": {"SizeBytes": size, "Mode": 0o1777},
    }


def _bind(source: Path, target: str, *, is_read_only: bool) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": str(source),
        "Target": target,
        "ReadOnly": is_read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }
