"""Keeps the trees that living sandboxes stand on from being removed, by what the bus says."""

from collections.abc import Callable
from contextlib import suppress

from faas.errors import ImageNotFoundError
from faas.events import Event, SandboxAdopted, SandboxCreated, SandboxDestroyed
from faas.ids import SandboxId
from faas.images.store import ImageStore


class TreesInUse:
    """Holds a tree for each sandbox from its creation or adoption to its end."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._releases: dict[SandboxId, Callable[[], None]] = {}

    def on_event(self, event: Event) -> None:
        """Hear of a sandbox."""
        if isinstance(event, SandboxCreated | SandboxAdopted):
            # Removed between its look-up and now: the sandbox holds it open by its mounts.
            with suppress(ImageNotFoundError):
                self._releases[event.sandbox_id] = self._store.hold(event.image_digest)
        elif isinstance(event, SandboxDestroyed):
            release = self._releases.pop(event.sandbox_id, None)
            if release is not None:
                release()
