"""What changed below a directory of a sandbox, found by looking again.

Looking, not the kernel's notifications: it needs nothing inside the sandbox and misses nothing that
lasts; a file that comes and goes between two looks is not told. A tree above `ENTRIES_MAX` is
watched as far as that.
"""

import posixpath

from faas.errors import NotFoundError
from faas.gateway.container_wire import FileEvent
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import FileKind

ENTRIES_MAX = 2000
"""A look at so many takes a few milliseconds of the sandbox's time."""

PAUSE_SECONDS = 0.5

_Seen = dict[str, tuple[FileKind, int, int]]


class FileWatch:
    """One directory; the first look finds what is there and tells nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: _Seen | None = None
        self.pause_seconds = PAUSE_SECONDS

    async def look(self, sandbox: GuardedSandbox) -> list[FileEvent]:
        """Return what changed since the last look."""
        before, now = self._seen, await self._walk(sandbox)
        self._seen = now
        if before is None:
            return []
        events = [FileEvent(path, "deleted") for path in before if path not in now]
        for path, entry in now.items():
            if path not in before:
                events.append(FileEvent(path, "created"))
            elif before[path] != entry and entry[0] is not FileKind.DIRECTORY:
                events.append(FileEvent(path, "modified"))
        return events

    async def _walk(self, sandbox: GuardedSandbox) -> _Seen:
        found: _Seen = {}
        waiting = [self._path]
        while waiting and len(found) < ENTRIES_MAX:
            directory = waiting.pop()
            try:
                entries = await sandbox.list_dir(directory)
            except NotFoundError:
                continue
            for entry in entries[: ENTRIES_MAX - len(found)]:
                path = posixpath.join(directory, entry.name)
                found[path] = (entry.kind, entry.size_bytes, entry.modified_ns)
                if entry.kind is FileKind.DIRECTORY:
                    waiting.append(path)
        return found
