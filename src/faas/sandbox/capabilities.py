"""Optional abilities of runtimes and sandboxes: a flag to ask for, a small protocol to use."""

from enum import StrEnum


class Capability(StrEnum):
    """What a runtime can do beyond running commands."""

    ADOPT = "adopt"
    """Take back sandboxes that outlived a gateway."""
    TTY = "tty"
    EGRESS = "egress"
    PAUSE = "pause"
    FILE_SNAPSHOT = "file_snapshot"
    MEMORY_SNAPSHOT = "memory_snapshot"
    PORTS = "ports"
