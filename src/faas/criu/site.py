"""Where a sandbox is on this host, as far as taking and restoring its processes goes."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from faas.errors import SandboxBrokenError, UnsupportedError
from faas.sandbox.protocols import Command


@dataclass(frozen=True, slots=True)
class FirstProcess:
    """A sandbox's process 1 by the host's number, and when it began: numbers are used again."""

    pid: int
    start_time: int
    """Field 22 of its stat file."""

    @classmethod
    def find(cls, pid: int) -> "FirstProcess | None":
        """Look at a process that is there now; None when it is gone."""
        began = start_time_of(pid)
        return None if began is None else cls(pid, began)

    def open(self) -> int | None:
        """Return a pidfd of it that belongs to the caller; None when it is gone."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return None
        # The number may have gone to another process: the start time, read while we hold the
        # descriptor, tells.
        if start_time_of(self.pid) != self.start_time:
            os.close(pidfd)
            return None
        return pidfd


@dataclass(frozen=True, slots=True)
class Site:
    """One sandbox."""

    sandbox_id: str
    directory: Path
    """Its own, where no sandbox looks: the lock, and what a dead gateway left standing still."""
    first: FirstProcess | None
    """None when it is gone."""
    user: int
    """The host's number of its only user."""
    groups: tuple[str, ...]
    """`cgroup.procs` files of all the control groups it is in."""

    @property
    def init(self) -> int:
        """The host's number of its first process.

        Raises:
            SandboxBrokenError: it is gone.
        """
        return self._first().pid

    def open_process(self) -> int:
        """Return a pidfd of its first process that belongs to the caller.

        Raises:
            SandboxBrokenError: it is gone.
        """
        pidfd = self._first().open()
        if pidfd is None:
            raise SandboxBrokenError("the sandbox is gone")
        return pidfd

    def _first(self) -> FirstProcess:
        if self.first is None:
            raise SandboxBrokenError("the sandbox is gone")
        return self.first


def as_only_user(command: Command, user: int) -> Command:
    """Say how a command is started where there is one user only.

    Raises:
        UnsupportedError: it wants to be another.
    """
    if command.uid or command.gid:
        raise UnsupportedError(
            "a sandbox that keeps memory has one user only",
            hint="leave out `user`, or `memory`",
        )
    return replace(command, uid=user, gid=user)


def start_time_of(pid: int) -> int | None:
    """Return when a process began, in the kernel's ticks; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything; the fields count from after the last one.
    return int(text.rpartition(")")[2].split()[19])
