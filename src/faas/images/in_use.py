"""Keeps the trees that living sandboxes stand on from being removed, by what the bus says."""

from collections.abc import Callable
from contextlib import suppress

from faas.errors import ImageNotFoundError
from faas.events import EventBus, SandboxAdopted, SandboxCreated, SandboxDestroyed
from faas.ids import SandboxId
from faas.images.store import ImageStore


class TreesInUse:
    """Holds a tree for each sandbox from its creation or adoption to its end."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._releases: dict[SandboxId, Callable[[], None]] = {}

    def listen(self, events: EventBus) -> None:
        """Hear of sandboxes from now on."""
        events.listen_to(SandboxCreated, self._on_taken)
        events.listen_to(SandboxAdopted, self._on_taken)
        events.listen_to(SandboxDestroyed, self._on_destroyed)

    def _on_taken(self, event: SandboxCreated | SandboxAdopted) -> None:
        # Removed between its look-up and now: the sandbox holds it open by its mounts.
        with suppress(ImageNotFoundError):
            self._releases[event.sandbox_id] = self._store.hold(event.image_digest)

    def _on_destroyed(self, event: SandboxDestroyed) -> None:
        release = self._releases.pop(event.sandbox_id, None)
        if release is not None:
            release()
