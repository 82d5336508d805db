"""What travels about images."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from faas.gateway.wire import PullPolicyName, RegistryAuth
from faas.model import PullStep

_NAME = "^[!-~]+$"

ImageName = Annotated[str, Meta(min_length=1, max_length=512, extra_json_schema={"pattern": _NAME})]
KeeperName = Literal["auto", "docker", "embedded"]


class ImagePullRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image to be fetched from its registry."""

    image: ImageName
    runtime: Annotated[
        KeeperName,
        Meta(
            description="`docker`: the Docker Engine fetches and keeps it. Else it comes here,"
            " where every runtime can use it."
        ),
    ] = "auto"
    pull_policy: Annotated[
        PullPolicyName, Meta(description="`always` asks the registry also when it is here.")
    ] = "always"
    registry_auth: RegistryAuth | None = None
    timeout_ms: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="For all of it.")] = (
        None
    )


class ImageView(Struct, frozen=True, kw_only=True):
    """One image that can be run here."""

    reference: str
    digest: str
    """Over its content, or of the configuration where a runtime keeps it: what ran is told so."""
    size_bytes: int | None = None
    created_at: datetime | None = None
    source: str = "host"
    """What it came from: `registry`, `tar`, `oci-layout`, …, or the runtime that keeps it."""
    manifest_digest: str | None = None
    """The registry's: `name@` this pins it."""
    runtime: str | None = None
    """The runtime that keeps it and alone can run it; null: any can."""


class ImagesView(Struct, frozen=True):
    """All images here, and what other names stand for."""

    images: list[ImageView]
    aliases: dict[str, str]
    default: str


class ImageReadyView(Struct, frozen=True, kw_only=True):
    """An image that is here now; also the last event, `done`, of a stream."""

    reference: str
    digest: str
    runtime: str | None = None


class PullStepView(Struct, frozen=True, kw_only=True):
    """How far a pull is; events `progress` of a pull's stream, and `image` of an execution's."""

    status: str
    layer: str | None
    current_bytes: int | None
    total_bytes: int | None


class BuildWords(Struct, frozen=True):
    """What a build says; events `output` of its stream."""

    text: str


def step_view(step: PullStep) -> PullStepView:
    """One step as it is told."""
    return PullStepView(
        status=step.status,
        layer=step.layer,
        current_bytes=step.current_bytes,
        total_bytes=step.total_bytes,
    )
