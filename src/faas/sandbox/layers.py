"""What one sandbox wrote, kept so that others start on it without a copy.

A **layer** is a tree in memory that nobody changes any more. A runtime that has layers makes a
sandbox on a stack of them in the same time whatever they hold: each is shared by reading, and what
the new sandbox writes is its own. A layer belongs to its runtime and lives no longer than what the
runtime needs to keep it: it is a cache of what a snapshot keeps durably, made anew from that.

    layer = await sandbox.end_as_layer()             # the sandbox is no more
    stack = LayerStack("snap-…", (layer, *below))    # the topmost first
    child = await runtime.create(SandboxSpec(..., layers=stack))
    await runtime.drop_layer(layer)                  # children that stand on it keep it
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

STACK_MAX = 12
"""Deeper stacks cost every look-up of a name; a flat layer made anew takes their place."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One frozen tree."""

    number: int
    generation: int
    """Of what holds it; another generation has lost it."""
    top: int
    """A descriptor of its directory, open until it is dropped."""
    first_uid: int
    """The host's id of its root; owners are counted from there."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LayerStack:
    """What a sandbox starts on, and the snapshot that is the same."""

    base: str
    layers: tuple[Layer, ...]
    """The topmost first."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a sandbox has written over its image, or over the snapshot it stands on, to be read."""

    top: int
    first_uid: int
    base: str | None


@runtime_checkable
class Layering(Protocol):
    """A runtime whose sandboxes can stand on what others wrote."""

    def has_layer(self, layer: Layer) -> bool:
        """Whether it is still there."""
        ...

    def is_stood_on(self, layer: Layer) -> bool:
        """Whether a live sandbox stands on it, so that dropping it gives no memory back."""
        ...

    async def make_layer(self, fill: Callable[[Path], None], *, size_bytes: int) -> Layer:
        """Make a layer of what `fill` writes into a directory of at most that size; `fill` runs in
        a thread.

        Raises:
            UnsupportedError: not on this host.
            TooLargeError: it does not fit.
        """
        ...

    async def drop_layer(self, layer: Layer) -> None:
        """Forget it. Sandboxes that stand on it are not touched."""
        ...


@runtime_checkable
class Layered(Protocol):
    """A sandbox whose files are in a layer of its own."""

    @property
    def base(self) -> str | None:
        """The snapshot it was made on; None when it started from its image alone."""
        ...

    async def end_as_layer(self) -> Layer:
        """End it, and keep what it wrote.

        Raises:
            UnsupportedError: it has no layer; it lives on.
        """
        ...

    def look(self) -> AbstractAsyncContextManager[Written]:
        """Read what it has written so far while it runs on.

        Raises:
            UnsupportedError: it has no layer.
        """
        ...
