"""Optional abilities of runtimes and sandboxes: a flag to ask for, a small protocol to use."""

from enum import StrEnum
from typing import Protocol, runtime_checkable


class Capability(StrEnum):
    """What a runtime can do beyond running commands."""

    ADOPT = "adopt"
    """Take back sandboxes that outlived a gateway."""
    TTY = "tty"
    EGRESS = "egress"
    PAUSE = "pause"
    FILE_SNAPSHOT = "file_snapshot"
    FILE_LAYERS = "file_layers"
    """Start a sandbox on what another wrote, without a copy (`faas.sandbox.layers`)."""
    MEMORY_SNAPSHOT = "memory_snapshot"
    PORTS = "ports"


@runtime_checkable
class Pausable(Protocol):
    """A sandbox that can be frozen: nothing in it runs, all of it stays in memory."""

    async def pause(self) -> None:
        """Freeze every process in it. Harmless when it is frozen."""
        ...

    async def resume(self) -> None:
        """Let them go on where they were. Harmless when they run."""
        ...
