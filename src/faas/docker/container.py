"""A sandbox as a container: the configuration it gets, hardened by default.

Nothing of the host is bound into it but the agent (read-only) and the directory of the agent's
socket, which belongs to a user id that no command may take and is closed to everybody else. The
root is read-only; what may be written are memory file systems, each bounded by the disk limit and
counted as the container's memory. The agent keeps seven capabilities to place files and change
users; commands get none.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faas.docker.seccomp import profile
from faas.docker.settings import DockerSettings
from faas.model import Limits
from faas.sandbox.protocols import RootFilesystem, SandboxSpec

HOME = "/.faas"
AGENT = "/.faas/agent"
SOCKETS = "/.faas/run"
RESERVED_UID = 2_147_418_111
"""Owns the directory of the agent's socket; refused as the user of a command."""
RESERVED_UID_REMAPPED = 65_531
"""The same on an Engine that remaps user ids: containers there have 65,536."""
LABEL_DATA = "faas.data"
LABEL_SANDBOX = "faas.sandbox"
LABEL_PAUSE = "faas.pause"
_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETPCAP", "SETUID"]
"""What the agent keeps for itself; SETPCAP so that changing users takes nothing of it away, and so
that commands can empty their bounding set."""
_CAPABILITIES_TO_BECOME_A_USER = ["DAC_OVERRIDE", "SETGID", "SETPCAP", "SETUID"]
"""To make its socket and to give up root, and these with it."""
KDAT = "/run/criu.kdat"
"""Where CRIU looks; a mount point, so that nobody inside can put another in its place."""
HOSTNAME = "sandbox"
"""Of every container that joins a pause; another name needs a namespace by the Engine."""
_SHM_BYTES_MAX = 64 << 20
"""As the Engine's own default; what is in it counts as the container's memory."""
_PAUSE_MEMORY_BYTES = 16 << 20
"""It needs well under one; Engines refuse less than 6."""
_OOM_SCORE = 500
"""When the host runs out of memory, sandboxes go before what serves them."""
_ULIMITS = [
    {"Name": "core", "Soft": 0, "Hard": 0},
    {"Name": "nofile", "Soft": 1_024, "Hard": 16_384},
]
"""Each descriptor is kernel memory that not every group counts. An Engine that may not raise its
own limit must have that much. Processes are counted by the group, not by user: users are shared."""
PIDS_OF_OURS = 8
"""The agent and the supervisors of commands that run side by side."""
_WRITABLE = {
    "/tmp": "1777",  # noqa: S108  inside the container
    "/var/tmp": "1777",  # noqa: S108
    "/run": "755",
    "/root": "700",
    "/workspace": "777",
}


def writable_places(root: RootFilesystem) -> tuple[str, ...]:
    """Where a command may write what is worth keeping: all but `/run`."""
    return tuple(dict.fromkeys((*(path for path in _WRITABLE if path != "/run"), *root.volumes)))


def container_name(tag: str, sandbox_id: str) -> str:
    """Return the name of a sandbox's container."""
    return f"faas-{tag}-{sandbox_id}"


def reserved_uids() -> frozenset[int]:
    """Return the user ids that own socket directories, as containers see them."""
    return frozenset({os.geteuid() or RESERVED_UID, RESERVED_UID, RESERVED_UID_REMAPPED})


def socket_owner(first_uid: int | None) -> int:
    """Return whom a socket directory belongs to: whoever we are, unless that is root.

    `first_uid` is what root in a container is on this host, where the Engine remaps user ids.
    """
    ours = RESERVED_UID if first_uid is None else first_uid + RESERVED_UID_REMAPPED
    return os.geteuid() or ours


def resources(limits: Limits) -> dict[str, Any]:
    """Return limits as the Engine names them; swap is off."""
    return {
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": limits.cpu_millis * 1_000_000,
        "PidsLimit": limits.pids_max + PIDS_OF_OURS,
    }


@dataclass(frozen=True, slots=True)
class MemoryTerms:
    """What a container has that keeps memory: one user, and what CRIU knows of the kernel."""

    user: int
    kdat: Path


def container_config(
    spec: SandboxSpec,
    settings: DockerSettings,
    *,
    image: str,
    sockets: Path,
    oci_runtime: str | None,
    pause: str | None = None,
    memory: MemoryTerms | None = None,
) -> dict[str, Any]:
    """Return the body of the Engine's create call.

    With a `pause` it starts in the network namespace of that container, and has its host name. With
    `memory` the agent gives up root and all it could do as soon as it listens.
    """
    size = spec.limits.disk_bytes
    owner = "" if memory is None else f",uid={memory.user},gid={memory.user}"
    host_config: dict[str, Any] = {
        **_hardened(settings, sockets, oci_runtime),
        **resources(spec.limits),
        "NetworkMode": "none" if pause is None else f"container:{pause}",
        "CapAdd": _CAPABILITIES if memory is None else _CAPABILITIES_TO_BECOME_A_USER,
        "SecurityOpt": ["no-new-privileges", f"seccomp={profile()}"],
        "ShmSize": min(size, _SHM_BYTES_MAX),
        "Tmpfs": {
            path: f"rw,nosuid,nodev,exec,size={size},mode={mode}{owner}"
            for path, mode in _WRITABLE.items()
        },
    }
    host_config["Mounts"] += [
        _volume(path, size) for path in spec.root.volumes if path not in _WRITABLE
    ]
    config = _body(settings, image, (LABEL_SANDBOX, str(spec.id)), host_config)
    config["Entrypoint"] = [AGENT, "agent", "--listen", f"{SOCKETS}/agent.sock"]
    if memory is not None:
        host_config["Mounts"].append(_bind(memory.kdat, KDAT, is_read_only=True))
        config["Entrypoint"] += ["--user", str(memory.user)]
    if settings.is_copied:
        config["Entrypoint"] += ["--close", HOME, str(RESERVED_UID_REMAPPED)]
    if pause is None:
        config["Hostname"] = spec.hostname
    return config


def pause_config(
    name: str,
    settings: DockerSettings,
    *,
    image: str,
    sockets: Path,
    oci_runtime: str | None,
) -> dict[str, Any]:
    """Return the body of the create call for a container that only makes network namespaces.

    The containers that join it get its host name and its name servers; they cannot write either.
    """
    host_config: dict[str, Any] = {
        **_hardened(settings, sockets, oci_runtime),
        "NetworkMode": "none",
        "Dns": list(settings.egress_dns),
        "CapAdd": ["DAC_OVERRIDE", "NET_ADMIN", "SYS_ADMIN"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={profile('unshare')}"],
        "Memory": _PAUSE_MEMORY_BYTES,
        "MemorySwap": _PAUSE_MEMORY_BYTES,
        "PidsLimit": 4,
    }
    config = _body(settings, image, (LABEL_PAUSE, name), host_config)
    config["Entrypoint"] = [AGENT, "pause", "--listen", f"{SOCKETS}/agent.sock"]
    config["Hostname"] = HOSTNAME
    return config


def _hardened(settings: DockerSettings, sockets: Path, oci_runtime: str | None) -> dict[str, Any]:
    """What every container of ours has in common."""
    common: dict[str, Any] = {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "ReadonlyRootfs": True,
        "Mounts": _ways_in(settings, sockets),
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "Ulimits": _ULIMITS,
        "OomScoreAdj": _OOM_SCORE,
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
    }
    return common if oci_runtime is None else {**common, "Runtime": oci_runtime}


def _ways_in(settings: DockerSettings, sockets: Path) -> list[dict[str, Any]]:
    """Bind the agent and its socket in, or leave room for a copy."""
    if settings.is_copied:
        return [{"Type": "volume", "Target": HOME, "VolumeOptions": {"NoCopy": True}}]
    return [
        _bind(settings.binary, AGENT, is_read_only=True),
        _bind(sockets, SOCKETS, is_read_only=False),
    ]


def _body(
    settings: DockerSettings, image: str, label: tuple[str, str], host_config: dict[str, Any]
) -> dict[str, Any]:
    return {
        "Image": image,
        "Cmd": [],
        # An image's own check would run commands of its choice beside ours, again and again.
        "Healthcheck": {"Test": ["NONE"]},
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "User": "0:0",
        "WorkingDir": "/",
        "Labels": {LABEL_DATA: settings.tag, label[0]: label[1]},
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
