"""Stops everything in a sandbox at once and lets it go on, by the kernel's freezer.

* v2: the sandbox's own group has a switch.
* v1: the freezer is a hierarchy of its own. A sandbox's group in it is made at its first pause, so
  that those which are never paused do not pay for it, and stays with it from then on.

A frozen process takes no signal on v1, not even SIGKILL: whoever ends a sandbox thaws it after the
signal. Everything here blocks; callers on the event loop use a thread.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from faas.embedded.cgroups import Leaf
from faas.errors import UnsupportedError, WrongStateError

_ATTEMPTS = 30
_TRIES = 150
_TRY_SECONDS = 0.001
"""Freezing takes well under a millisecond; more when the group has used up its share of processor
time, because a process must run to be stopped, and on a busy machine."""
_MOVES_MAX = 50
"""Rounds of moving processes over while new ones are forked; a fork bomb is caught by its limit."""


class Freezer:
    """Freezes sandboxes by name; made by `open_freezer`."""

    def __init__(self, parent: Path | None, *, is_v2: bool = False) -> None:
        self._parent = parent
        self._is_v2 = is_v2

    @property
    def is_available(self) -> bool:
        """Whether this host can pause sandboxes."""
        return self._is_v2 or self._parent is not None

    def freeze(self, name: str, leaf: Leaf) -> None:
        """Stop every process of a sandbox.

        Raises:
            WrongStateError: it did not stop in time; it runs on.
        """
        if self._is_v2:
            group = Path(leaf.directories["unified"])
            _write(group / "cgroup.freeze", "1")
            is_frozen = _until(lambda: "frozen 1" in _read(group / "cgroup.events"))
        else:
            is_frozen = self._freeze_v1(self._group(name), leaf)
        if not is_frozen:
            self.thaw(name, leaf)
            raise WrongStateError("the sandbox could not be frozen in time", hint="try again")

    def thaw(self, name: str, leaf: Leaf) -> None:
        """Let them go on. Harmless when they run, or are gone."""
        with contextlib.suppress(OSError):
            if self._is_v2:
                _write(Path(leaf.directories["unified"]) / "cgroup.freeze", "0")
            elif self._parent is not None:
                _write(self._group(name) / "freezer.state", "THAWED")

    def has(self, name: str) -> bool:
        """Whether something was made for a sandbox that must be removed with it."""
        return self._parent is not None and os.path.isdir(f"{self._parent}/{name}")  # noqa: PTH112  after every execution

    def forget(self, name: str) -> None:
        """Remove what was made for a sandbox that is gone."""
        if self._parent is not None:
            _until(lambda: _is_removed(self._group(name)))

    def forget_others(self, keep: Iterable[str]) -> None:
        """Remove what is left of all others."""
        if self._parent is not None and self._parent.is_dir():
            for name in {path.name for path in self._parent.iterdir() if path.is_dir()} - set(keep):
                self.thaw(name, Leaf())
                self.forget(name)

    def close(self) -> None:
        """Remove our group when it is empty."""
        if self._parent is not None:
            with contextlib.suppress(OSError):
                self._parent.rmdir()

    def _group(self, name: str) -> Path:
        if self._parent is None:
            raise UnsupportedError("no freezer can be had here", hint="run the gateway as root")
        self._parent.mkdir(exist_ok=True)
        return self._parent / name

    def _freeze_v1(self, group: Path, leaf: Leaf) -> bool:
        """Processes that fork just then can keep a v1 group from ever being wholly frozen; let go
        and caught again, they are."""
        group.mkdir(exist_ok=True)
        for _ in range(_ATTEMPTS):
            self._gather(group, leaf)
            _write(group / "freezer.state", "FROZEN")
            if _until(lambda: _read(group / "freezer.state").strip() == "FROZEN"):
                return True
            _write(group / "freezer.state", "THAWED")
        return False

    def _gather(self, group: Path, leaf: Leaf) -> None:
        """Move every process over; a child is born where its parent is, so this ends."""
        for _ in range(_MOVES_MAX):
            inside = set(_read(group / "cgroup.procs").split())
            everywhere = {
                pid
                for path in leaf.directories.values()
                for pid in _read(Path(path) / "cgroup.procs").split()
            }
            missing = everywhere - inside
            if not missing:
                return
            for pid in missing:
                with contextlib.suppress(ProcessLookupError):
                    _write(group / "cgroup.procs", pid)


def open_freezer(tag: str, *, version: int, root: Path = Path("/")) -> Freezer:
    """Find the freezer of this host: a v2 group has its own; without groups there is none."""
    if version != 1:
        return Freezer(None, is_v2=version != 0)
    parent = _v1_parent(tag, root)
    if parent is None:
        return Freezer(None)
    try:
        parent.mkdir(exist_ok=True)
    except OSError:
        return Freezer(None)
    return Freezer(parent)


def _v1_parent(tag: str, root: Path) -> Path | None:
    own = next(
        (
            path
            for _, names, path in (
                line.split(":", 2) for line in _read(root / "proc/self/cgroup").splitlines()
            )
            if "freezer" in names.split(",")
        ),
        None,
    )
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if own is not None and kinds[0] == "cgroup" and "freezer" in kinds[-1].split(","):
            inside = own.removeprefix(fields[3]) if fields[3] != "/" else own
            return root / fields[4].lstrip("/") / inside.lstrip("/") / f"faas-{tag}"
    return None


def _is_removed(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _until(is_so: Callable[[], bool]) -> bool:
    for _ in range(_TRIES):
        if is_so():
            return True
        time.sleep(_TRY_SECONDS)
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
