"""What every handler may use: the executor and the little the door itself keeps."""

import asyncio
from dataclasses import dataclass, field

from faas.clock import Clock, SystemClock
from faas.events import EventBus
from faas.executor import PlatformExecutor
from faas.gateway.auth import Keyring
from faas.gateway.gauges import Machine
from faas.gateway.settings import GatewaySettings
from faas.images import ImageProvider
from faas.metrics import Metrics


@dataclass(slots=True)
class Door:
    """One gateway."""

    executor: PlatformExecutor
    settings: GatewaySettings
    images: ImageProvider | None
    events: EventBus
    metrics: Metrics
    clock: Clock = field(default_factory=SystemClock)
    started_ns: int = field(init=False)
    machine: Machine = field(init=False)
    keys: Keyring = field(init=False)
    streams: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])
    """The tasks that serve a log stream now."""
    tunnels: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])
    """The tasks that serve a connection to a port now."""
    is_closing: bool = False

    def __post_init__(self) -> None:
        self.started_ns = self.clock.monotonic_ns()
        self.machine = Machine(self.settings.data_dir)
        self.keys = Keyring(self.settings.api_keys)

    @property
    def uptime_ms(self) -> int:
        """Milliseconds since this gateway was made."""
        return (self.clock.monotonic_ns() - self.started_ns) // 1_000_000

    def close_streams(self) -> None:
        """End every open stream, and each new one at once, so that a server that drains need not
        wait.

        Their clients resume at the next gateway by `Last-Event-ID`.
        """
        self.is_closing = True
        for task in (*self.streams, *self.tunnels):
            task.cancel()
