"""What a runtime offers that keeps images of its own, as a Docker Engine does.

Images it keeps are named by their registry's name and run by their digest, by that runtime alone.
All else (which image a name means, who may use it, when to fetch) is decided above.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from faas.model import PullStep
from faas.sandbox.protocols import RootFilesystem

Told = Callable[[PullStep], None]
"""Called as a pull goes on; must not wait."""


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """Credentials for one registry, for one pull."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeptImage:
    """One name of one image that a runtime keeps."""

    reference: str
    digest: str
    size_bytes: int | None = None
    created_at: datetime | None = None
    manifest_digest: str | None = None


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """An image to be built from a Dockerfile."""

    reference: str
    """The name it gets."""
    dockerfile: str = "Dockerfile"
    """Its path in the context."""
    target: str | None = None
    """The stage to stop at; None is the last."""
    arguments: tuple[tuple[str, str], ...] = ()
    network: str = "default"
    """What `RUN` may reach: `default` as with `docker build`, or `none`."""
    use_cache: bool = True
    memory_bytes: int = 2 << 30
    seconds_max: float = 1800.0


class ImageShelf(Protocol):
    """The images a runtime keeps."""

    async def find(self, reference: str) -> RootFilesystem | None:
        """Return the image of that name or digest; None when it is not here."""
        ...

    async def pull(
        self, reference: str, *, login: RegistryLogin | None, told: Told
    ) -> RootFilesystem:
        """Fetch an image from its registry; what is here already is not fetched again."""
        ...

    async def list(self) -> list[KeptImage]:
        """Every name here."""
        ...

    async def load(self, archive: Path, reference: str) -> RootFilesystem:
        """Take in an archive as `docker save` writes it, under that name."""
        ...

    def build(self, context: Path, order: BuildOrder) -> AsyncGenerator[str]:
        """Build from a tar, yielding what the build says. When it ends the image is there."""
        ...

    async def remove(self, reference: str) -> None:
        """Forget a name, and the image with its last."""
        ...


@runtime_checkable
class KeepsImages(Protocol):
    """A runtime with images of its own."""

    @property
    def shelf(self) -> ImageShelf | None:
        """Its images; None until it was started."""
        ...
