"""The counters of a container elsewhere: its agent reads them inside, where the Engine shows them.

They are as old as the last reading: made before a command starts, when it has ended, and when
somebody asks, for the next who does.
"""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from faas.agent import files
from faas.docker.groups import number, value
from faas.errors import FaasError, NotFoundError
from faas.model import Limits

if TYPE_CHECKING:
    from faas.agent.channel import AgentChannel

_FILE_BYTES_MAX = 16 << 10
_FRESH_SECONDS = 0.5
"""Who asks more often gets what the last one got."""


class _Names(NamedTuple):
    """Where the counters of one version of control groups are."""

    held: str
    peak: str
    stat: str
    oom: str
    cpu: str
    inactive: bytes
    """The word in `stat` for what the kernel can drop at once."""


_V1 = _Names(
    "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    "/sys/fs/cgroup/memory/memory.max_usage_in_bytes",
    "/sys/fs/cgroup/memory/memory.stat",
    "/sys/fs/cgroup/memory/memory.oom_control",
    "/sys/fs/cgroup/cpuacct/cpuacct.usage",
    b"total_inactive_file",
)
_V2 = _Names(
    "/sys/fs/cgroup/memory.current",
    "/sys/fs/cgroup/memory.peak",
    "/sys/fs/cgroup/memory.stat",
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/cpu.stat",
    b"inactive_file",
)


class RemoteGroups:
    """The control groups of one container; a counter is None where the Engine does not show it."""

    def __init__(self, channel: "AgentChannel") -> None:
        self._channel = channel
        self._names: _Names | None = None
        self._texts: dict[str, bytes] = {}
        self._read_at = 0.0
        self._reading: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Read them; what cannot be read is as before."""
        with suppress(FaasError):
            names = self._names = self._names or await self._version()
            paths = (names.held, names.peak, names.stat, names.oom, names.cpu)
            found = await asyncio.gather(*map(self._text, paths), return_exceptions=True)
            for path, text in zip(paths, found, strict=True):
                if isinstance(text, bytes):
                    self._texts[path] = text
            self._read_at = asyncio.get_running_loop().time()

    def cpu_us(self) -> int | None:
        """Processor time used."""
        if self._names is _V1:
            nanoseconds = number(self._said(_V1.cpu))
            return None if nanoseconds is None else nanoseconds // 1000
        return value(self._said(_V2.cpu), b"usage_usec")

    def memory_peak_bytes(self) -> int | None:
        """The most memory that was held at once."""
        return None if self._names is None else number(self._said(self._names.peak))

    def memory_bytes(self) -> int | None:
        """Memory held when last looked, without what the kernel can drop at once."""
        if self._names is None:
            return None
        held = number(self._said(self._names.held))
        dropped = value(self._said(self._names.stat), self._names.inactive) or 0
        return None if held is None else held - dropped

    def oom_kills(self) -> int | None:
        """How often the out-of-memory killer struck."""
        return None if self._names is None else value(self._said(self._names.oom), b"oom_kill")

    def look_again(self) -> None:
        """Read them in the background, unless that was done a moment ago."""
        is_fresh = asyncio.get_running_loop().time() - self._read_at < _FRESH_SECONDS
        if not is_fresh and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self.refresh())

    def close(self) -> None:
        """Nothing is held here; what was read last stays known."""

    def limit(self, limits: Limits) -> bool:
        """Refuse: they are read-only in there. The Engine changes them."""
        return False

    async def _version(self) -> _Names:
        try:
            await self._text(_V1.held)
        except NotFoundError:
            return _V2
        return _V1

    async def _text(self, path: str) -> bytes:
        return await files.read(self._channel, path, offset=0, length=_FILE_BYTES_MAX)

    def _said(self, path: str) -> bytes:
        return self._texts.get(path, b"")
