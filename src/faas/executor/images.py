"""What the executor needs of the image store."""

from typing import Protocol

from faas.sandbox.protocols import RootFilesystem


class ImageResolver(Protocol):
    """Knows images by name."""

    def resolve(self, reference: str) -> RootFilesystem:
        """Return what an image's name stands for. Raises ImageNotFoundError."""
        ...
