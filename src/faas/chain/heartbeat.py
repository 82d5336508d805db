"""Says on the chain that the operator lives, for each service it serves, and that it is going.

The interval is the manager's, less up to a tenth by chance, so that many operators do not beat at
once. A beat that cannot be sent is tried again with the next: the deadline of a job, and not the
heartbeat, is what protects callers.
"""

import random
from collections.abc import Callable
from typing import Final

from eth_utils.address import to_checksum_address

from faas import logs
from faas.chain.contract import Contracts, Manager, StatusRegistry
from faas.chain.rpc import NodeRefusedError, RevertedError
from faas.chain.sender import Sender
from faas.clock import Clock
from faas.errors import UnavailableError

INTERVAL_DEFAULT: Final = 300
"""Tangle's own, in seconds."""
_INTERVAL_MIN: Final = 60
HEALTHY: Final = 0
DEGRADED: Final = 1
"""1 to 99 mean degraded."""
_NOBODY: Final = "0x" + "0" * 40
_RETRY_SECONDS: Final = 10.0

_log = logs.bind(__name__)


class Heartbeat:
    """Beats for one operator."""

    def __init__(
        self,
        contracts: Contracts,
        sender: Sender,
        operator: str,
        *,
        clock: Clock,
        is_well: Callable[[], bool] = lambda: True,
        seconds: int | None = None,
    ) -> None:
        self._contracts = contracts
        self._sender = sender
        self._operator = operator
        self._clock = clock
        self.is_well = is_well
        self._seconds = seconds
        self._services: list[int] = []
        self._is_over = False
        self.sent = 0
        self.failed = 0

    async def run(self) -> None:
        """Beat until cancelled."""
        while not self._is_over:
            seconds = _RETRY_SECONDS
            try:
                seconds = await self.beat()
            except (UnavailableError, NodeRefusedError, RevertedError) as failure:
                self.failed += 1
                _log.warning("no heartbeat could be sent", why=str(failure))
            await self._clock.sleep(seconds * (1 - random.random() / 10))  # noqa: S311  no secret

    async def beat(self) -> float:
        """Beat once; returns the seconds until the next."""
        registry = to_checksum_address(await self._contracts.ask_manager(Manager.STATUS_REGISTRY))
        if registry == _NOBODY:
            return float(INTERVAL_DEFAULT)
        blueprint = await self._contracts.ask_manager(Manager.BLUEPRINT_ID)
        self._services = await self._contracts.services_of(self._operator)
        status = HEALTHY if self.is_well() else DEGRADED
        for service in self._services:
            data = StatusRegistry.HEARTBEAT.encode(service, blueprint, status, b"")
            await self._sender.do(registry, data, await self._contracts.node.head())
            self.sent += 1
        return await self._interval()

    async def leave(self) -> None:
        """Say that no more will come."""
        self._is_over = True
        registry = to_checksum_address(await self._contracts.ask_manager(Manager.STATUS_REGISTRY))
        if registry == _NOBODY:
            return
        for service in self._services:
            data = StatusRegistry.GO_OFFLINE.encode(service)
            await self._sender.do(registry, data, await self._contracts.node.head())

    async def _interval(self) -> float:
        if self._seconds is not None:
            return float(self._seconds)
        shortest = INTERVAL_DEFAULT
        for service in self._services:
            data = Manager.HEARTBEAT_INTERVAL.encode(service)
            answer = await self._contracts.node.call(self._contracts.manager, data)
            is_default, seconds = Manager.HEARTBEAT_INTERVAL.decode(answer)
            shortest = shortest if is_default else min(shortest, seconds)
        return float(max(shortest, _INTERVAL_MIN))
