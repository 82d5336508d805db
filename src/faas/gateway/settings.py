"""What the gateway is told at start, and nothing it reads by itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from faas.gateway.auth import ApiKey
from faas.model import Limits

LIMITS_MAX = Limits(
    timeout_ms=3_600_000,
    memory_bytes=16 << 30,
    cpu_millis=16_000,
    pids_max=4_096,
    disk_bytes=16 << 30,
    output_bytes_max=64 << 20,
)
"""Ceilings that a large laptop can honour; the operator lowers them."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Everything the HTTP door needs to know, made by the assembly."""

    version: str = "0"
    api_keys: tuple[ApiKey, ...] = ()
    """No keys: whoever reaches the port is `LOCAL_PRINCIPAL`. The assembly binds loopback only
    then."""
    default_image: str = "host"
    image_aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    """Only to be told at `GET /api/v1/images`; resolving is the image store's."""
    limits_default: Limits = field(default_factory=Limits)
    limits_max: Limits = LIMITS_MAX
    prewarm_max: int = 64
    """Ready sandboxes that can be asked for: as many as the pools hold at most."""
    pull_policy: str = "missing"
    """Of a request that does not say."""
    build_bytes_max: int = 1 << 30
    """Of a tar that is received into a file: a build's context, an image to import."""
    build_seconds_max: float = 1800.0
    import_bytes_max: int = 64 << 30
    """Of a snapshot's file that is taken in."""
    body_bytes_max: int = 64 << 20
    """Of one request. A tar of a project travels in it as base64."""
    body_timeout_seconds: float = 60.0
    """For the whole body to arrive; a slower client is dropped."""
    streams_max: int = 256
    """Open log streams at once, for all tenants."""
    heartbeat_seconds: float = 15.0
    """Between comments on a silent stream: below the 30 s after which proxies cut."""
    send_timeout_seconds: float = 60.0
    """For a client to take one piece of a stream; after that it is cut and may resume."""
    disconnect_watch_seconds: float = 0.02
    """A synchronous run that ends sooner is not watched for a client that went away: watching
    costs a task."""
    cors_origins: tuple[str, ...] = ()
    """Empty: no CORS headers at all."""
    data_dir: Path | None = None
    """Only for the disk gauge."""
