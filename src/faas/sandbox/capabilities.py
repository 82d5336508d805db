"""Optional abilities of runtimes and sandboxes: a flag to ask for, a small protocol to use."""

import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from faas.errors import FaasError
    from faas.sandbox.protocols import OutputFiles, Process, RootFilesystem


class Capability(StrEnum):
    """What a runtime can do beyond running commands."""

    ADOPT = "adopt"
    """Take back sandboxes that outlived a gateway."""
    TTY = "tty"
    HOST_IMAGE = "host_image"
    """Run the image `host`: the machine's own programs."""
    EGRESS = "egress"
    PAUSE = "pause"
    FILE_SNAPSHOT = "file_snapshot"
    FILE_LAYERS = "file_layers"
    """Start a sandbox on what another wrote, without a copy (`faas.sandbox.layers`)."""
    MEMORY_SNAPSHOT = "memory_snapshot"
    PORTS = "ports"


@dataclass(frozen=True, slots=True)
class Resumption:
    """How one restored command goes on."""

    name: str
    """Its name from now on."""
    output: "OutputFiles"
    is_continued: bool
    """The output files hold what it said before: its offsets and its time limit count on."""
    timeout_ms: int | None = None
    output_bytes_max: int | None = None


@runtime_checkable
class Weighed(Protocol):
    """A runtime that knows what its sandboxes hold of the machine while nothing runs in them."""

    def idle_bytes(self, isolation_min: str | None) -> int:
        """Return about how much memory one ready sandbox made by that demand holds."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """A runtime that knows why it cannot do something here."""

    def why_without(self, capability: Capability) -> "FaasError | None":
        """Return what is in the way, as a refusal; None where there is nothing to say."""
        ...


@runtime_checkable
class Confining(Protocol):
    """A runtime whose sandboxes can be written in some directories only."""

    def writable(self, root: "RootFilesystem") -> tuple[str, ...]:
        """Those directories; what an image has in them is hidden."""
        ...


@runtime_checkable
class Pausable(Protocol):
    """A sandbox that can be frozen: nothing in it runs, all of it stays in memory."""

    async def pause(self) -> None:
        """Freeze every process in it. Harmless when it is frozen."""
        ...

    async def resume(self) -> None:
        """Let them go on where they were. Harmless when they run."""
        ...


@runtime_checkable
class Saving(Protocol):
    """A sandbox that packs into a file at once."""

    async def save_archive(self, path: str, tar: Path) -> None:
        """Write what `get_archive` gives to a new file."""
        ...


@runtime_checkable
class Checkpointable(Protocol):
    """A sandbox (made with `SandboxSpec.keeps_memory`) whose processes can be kept and restored."""

    def processes_taken(self, images: Path) -> AbstractAsyncContextManager[None]:
        """Write its processes into the empty folder `images`.

        Inside the context they stand still, so that the files can be read as the memory knows
        them; after it they run on, unless the sandbox was destroyed.

        Raises:
            UnsupportedError: they cannot be kept, and why; they run on.
        """
        ...

    async def restore_processes(
        self, images: Path, resumptions: "Mapping[str, Resumption]"
    ) -> "Mapping[str, Process]":
        """Go on, in a fresh sandbox whose files are restored, from what `processes_taken` wrote.

        Returns the commands by the names they had. The output of one without a resumption is
        thrown away. The name "" stands for the only command there is. The same images can be
        restored several times at once.

        Raises:
            ConflictError: they do not fit this machine or these files.
        """
        ...


@runtime_checkable
class PortExposing(Protocol):
    """A sandbox whose own ports can be reached, though it has no network."""

    async def connect(self, port: int) -> socket.socket:
        """Return a connected, non-blocking TCP socket to a port of its loopback.

        What is at its other end is hostile; read and write it with MSG_DONTWAIT only, because
        a copy of the descriptor may make it block.

        Raises:
            PortClosedError: nobody listens there.
        """
        ...


@runtime_checkable
class Metered(Protocol):
    """A sandbox that knows how much it worked."""

    def cpu_us(self) -> int | None:
        """Processor time of everything in it since it was made; None where nobody counts."""
        ...

    def memory_bytes(self) -> int | None:
        """Memory it holds now; None where nobody counts."""
        ...
