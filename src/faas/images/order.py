"""What is asked of the images, and what is told of them."""

from dataclasses import dataclass
from datetime import datetime

from faas.ids import TenantId
from faas.images.reference import HOST
from faas.model import PullPolicy
from faas.sandbox.image_keeper import RegistryLogin

PULL_SECONDS_MAX = 900.0
"""For one image, when neither the request nor the gateway says less."""


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """One request's wish for an image."""

    reference: str
    tenant: TenantId
    policy: PullPolicy = PullPolicy.MISSING
    runtime: str = "auto"
    """The runtime that is to run it, or `auto`."""
    login: RegistryLogin | None = None
    seconds_max: float = PULL_SECONDS_MAX


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One name of one image, wherever it is kept."""

    reference: str
    digest: str
    size_bytes: int | None = None
    created_at: datetime | None = None
    source: str = HOST
    manifest_digest: str | None = None
    keeper: str | None = None
    """The runtime that keeps it; None is the store."""


@dataclass(frozen=True, slots=True)
class PullRules:
    """What requests may pull."""

    registries: tuple[str, ...] = ("*",)
    """Names of registries; `*` is every one that is not an address or on this machine."""
    seconds_max: float = PULL_SECONDS_MAX
